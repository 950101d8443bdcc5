"""F11: judges DRBD's configuration as drbdadm reads it (`drbdadm dump-xml`), and as the kernel has it. No process here.

The protocol rests on these settings: each refusal names the rule, the setting and the cure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Tuple
from xml.etree import ElementTree

Options = Dict[Tuple[str, str], str]
"""(section, option) → value, `common` and the resource's own merged, the own winning."""

WANTED: Mapping[Tuple[str, str], str] = {
    ("disk", "fencing"): "resource-and-stonith",
    ("disk", "on-io-error"): "call-local-io-error",
    ("options", "on-no-data-accessible"): "suspend-io",
}
"""What must be set, since DRBD's default is another: I/O freezes without a peer, a failed disk and no data are told."""
FORBIDDEN: Mapping[Tuple[str, str], Tuple[str, str]] = {
    ("net", "allow-two-primaries"): ("yes", "two Primaries write over each other"),
    ("net", "rr-conflict"): ("violently", "a resync would change data under a Primary"),
    ("net", "on-congestion"): ("pull-ahead", "writes would be acknowledged before the peer has them"),
    ("disk", "disk-flushes"): ("no", "acknowledged writes would be lost with the power"),
    ("disk", "md-flushes"): ("no", "DRBD's own records would be lost with the power"),
}
WAITS = ("wfc-timeout", "degr-wfc-timeout", "outdated-wfc-timeout")
HANDLERS = ("fence-peer", "local-io-error", "pri-on-incon-degr", "split-brain")
HANDLER_FOLDER = "/usr/lib/hapair/"
CURE = "deploy the host files again (`invoke hosts.render`), then `drbdadm adjust`"
KERNEL_OPTION = re.compile(r"^\s*([a-z][a-z0-9-]*)\s+([^;\s{]+);", re.MULTILINE)
FLAG = re.compile(r"^\s*(allow-two-primaries);", re.MULTILINE)


@dataclass(frozen=True)
class Refusal:
    """One thing that is wrong: what, and what to do about it. The rule is F11."""

    check: str
    text: str
    cure: str = CURE

    def line(self) -> str:
        """Return it as one line for people."""
        return f"F11 {self.check}: {self.text}; {self.cure}"


def parse(xml: str, resource: str) -> Options:
    """Read the effective options of one resource.

    Raises:
        ValueError: it is no XML, or the resource is not in it.
    """
    try:
        top = ElementTree.fromstring(xml)  # noqa: S314 - drbdadm on this very machine wrote it
    except ElementTree.ParseError as bad:
        raise ValueError(f"drbdadm dump-xml: {bad}") from None
    own = next((node for node in top.iter("resource") if node.get("name") == resource), None)
    if own is None:
        raise ValueError(f"drbdadm knows no resource {resource} on this node")
    options: Options = {}
    common = top.find("common")
    for part in (common, own):
        # Options of a single volume stand deeper, and win.
        for section in part.iter("section") if part is not None else ():
            for option in section.iter("option"):
                # An option without a value is a flag that is set.
                options[section.get("name", ""), option.get("name", "")] = option.get("value", "yes")
    return options


def judge(options: Options) -> List[Refusal]:
    """Return everything that is wrong with a resource's configuration."""
    found = [
        Refusal(name, f"must be {value}, and is {options.get((section, name), 'not set')}")
        for (section, name), value in WANTED.items()
        if options.get((section, name)) != value
    ]
    found += [
        Refusal(name, f"is {bad}: {why}")
        for (section, name), (bad, why) in FORBIDDEN.items()
        if options.get((section, name)) == bad
    ]
    protocol = options.get(("net", "protocol"), "C")
    if protocol != "C":
        found.append(Refusal("protocol", f"must be C, and is {protocol}: the peer may lack acknowledged writes"))
    if not options.get(("net", "shared-secret")):
        found.append(Refusal("shared-secret", "is not set: anybody on the crossover could be the peer"))
    for name in WAITS:
        if options.get(("startup", name), "0") == "0":
            found.append(Refusal(name, "is 0 (the default): a lone node would wait for its peer for ever"))
    for name in HANDLERS:
        value = options.get(("handlers", name), "not set")
        if value != HANDLER_FOLDER + name:
            found.append(Refusal(f"handler {name}", f"must be {HANDLER_FOLDER}{name}, and is {value}"))
    return found


def judge_kernel(shown: str) -> List[Refusal]:
    """Judge what `drbdsetup show` says: options that differ from the default, as they are in force now."""
    options = dict(KERNEL_OPTION.findall(shown))
    options.update(dict.fromkeys(FLAG.findall(shown), "yes"))
    cure = "`drbdadm adjust` puts the files in force"
    found = [
        Refusal(name, f"in force is {options.get(name, 'the default')}, not {value}", cure)
        for (_, name), value in WANTED.items()
        if options.get(name) != value
    ]
    found += [
        Refusal(name, f"in force is {bad}: {why}", cure)
        for (_, name), (bad, why) in FORBIDDEN.items()
        if options.get(name) == bad
    ]
    if options.get("protocol", "C") != "C":
        found.append(Refusal("protocol", f"in force is {options['protocol']}, not C", cure))
    return found
