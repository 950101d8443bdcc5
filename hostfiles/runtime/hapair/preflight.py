"""`hapair preflight`: everything that the protocol takes for granted, looked at by doing (F11).

The cheap part (host name, DRBD's configuration) is looked at by the agent too, before it brings a resource up or
promotes. What must be the same on both nodes is told as fingerprints; `--compare FILE` takes the other node's `--json`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

from hapair import alike, proc
from hapair.config import Config
from hapair.fence.site import fence_of
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.settings_check import Refusal, judge, judge_kernel, parse

LIMIT_S = 15.0


class Unreadable(Exception):
    """Something could not be looked at; the text says what."""


def cheap(config: Config, resource: str, paths: Paths) -> List[Refusal]:
    """Return what is wrong with host name and configuration.

    Raises:
        Unreadable: drbdadm does not tell.
    """
    found = _host_name(config, paths)
    return found + judge(_options(resource))


def signature(paths: Paths) -> tuple[tuple[str, int, int], ...]:
    """Return what changes whenever a file of DRBD's configuration does."""
    found = []
    for path in (paths.root / "etc/drbd.conf", *sorted((paths.root / "etc/drbd.d").glob("*"))):
        try:
            seen = path.stat()
        except OSError:
            continue
        found.append((path.name, seen.st_mtime_ns, seen.st_size))
    return tuple(found)


def _host_name(config: Config, paths: Paths) -> List[Refusal]:
    """A cloned node goes by the other one's name, and DRBD and the lock would take it for that."""
    name = _text(paths.proc / "sys/kernel/hostname").strip().split(".")[0]
    if name == config.node:
        return []
    return [Refusal("host name", f"is {name}, but the files here are those of {config.node}", "hostnamectl hostname")]


def _options(resource: str) -> Dict[tuple[str, str], str]:
    done = proc.run(["drbdadm", "dump-xml"], LIMIT_S)
    # drbdadm says on the same stream whom it pretends to be, if it does.
    start = done.output.find("<config")
    if not done.ok or start < 0:
        raise Unreadable(f"drbdadm dump-xml: {done.last_line or 'nothing'}")
    try:
        return parse(done.output[start:], resource)
    except ValueError as bad:
        raise Unreadable(str(bad)) from None


def full(config: Config, resource: str, paths: Paths) -> List[Refusal]:
    """Look at everything about one resource; what cannot be looked at is refused too."""
    parts: tuple[Callable[[], List[Refusal]], ...] = (
        lambda: cheap(config, resource, paths),
        lambda: _kernel(resource),
        _units,
        lambda: _store(config, resource, paths),
        _clock,
        lambda: _multipath(paths),
        lambda: _handlers(paths),
        lambda: _watchdog(config, paths),
    )
    found: List[Refusal] = []
    for part in parts:
        try:
            found += part()
        except Unreadable as bad:
            found.append(Refusal("not checked", str(bad), "see that the programs are there, and try again"))
    return found


def _kernel(resource: str) -> List[Refusal]:
    done = proc.run(["drbdsetup", "show", resource], LIMIT_S)
    if not done.ok or resource not in done.output:
        return [Refusal("kernel", f"DRBD does not know {resource}", "systemctl start hapair-agent")]
    return judge_kernel(done.output)


def _units() -> List[Refusal]:
    state = proc.run(["systemctl", "is-enabled", "drbd.service"], LIMIT_S).last_line
    if state in ("masked", "not-found") or "No such file" in state:
        return []
    return [
        Refusal("drbd.service", f"is {state}: it would wait for the peer, and stop DRBD", "systemctl mask drbd.service")
    ]


def _store(config: Config, resource: str, paths: Paths) -> List[Refusal]:
    fence = fence_of(config, resource, paths)
    wrong = fence.conditions_hold()
    if wrong:
        return [Refusal("store", wrong, "see the site file's `store:`, and the store itself")]
    answer = fence.read()
    if answer.record is None:
        return [Refusal("lock", answer.text, f"while both nodes are UpToDate, once: drbd-fence init {resource}")]
    return []


def _clock() -> List[Refusal]:
    said = proc.run(["timedatectl", "show", "--property=NTPSynchronized", "--value"], LIMIT_S).last_line
    if said == "yes":
        return []
    return [Refusal("clock", "is not synchronised: stores refuse a skewed one", "run systemd-timesyncd or chrony")]


def _multipath(paths: Paths) -> List[Refusal]:
    if not proc.run(["systemctl", "is-active", "--quiet", "multipathd.service"], LIMIT_S).ok:
        return []
    files = [paths.root / "etc/multipath.conf", *(paths.root / "etc/multipath/conf.d").glob("*.conf")]
    if any("drbd" in _text(path) for path in files):
        return []
    cure = 'blacklist { devnode "^drbd" } in /etc/multipath/conf.d, or mask multipathd'
    return [Refusal("multipathd", "may open DRBD's devices, and then no demotion ends", cure)]


def _handlers(paths: Paths) -> List[Refusal]:
    folder = paths.root / "usr/lib/hapair"
    missing = [name for name in ("fence-peer", "local-io-error") if not os.access(folder / name, os.X_OK)]
    return [Refusal("handlers", f"{folder} lacks {', '.join(missing)}", "deploy the host files")] if missing else []


def _watchdog(config: Config, paths: Paths) -> List[Refusal]:
    """The device is the agent's: here it is only looked for."""
    if config.watchdog_s <= 0 or paths.watchdog.exists():
        return []
    return [Refusal("watchdog", f"{paths.watchdog} is missing, but the site names one", "modprobe softdog, for good")]


def fingerprints(config: Config, resource: str, paths: Paths) -> Dict[str, str]:
    """Return what must be the same on both nodes; secrets only as a digest."""
    try:
        options = _options(resource)
    except Unreadable:
        options = {}
    secret = options.pop(("net", "shared-secret"), "")
    return {
        "pair": config.pair,
        "secret": _digest(f"{config.pair} {secret}"),
        "drbd options": _digest(json.dumps(sorted(options.items()))),
        **alike.gather(config, resource, paths).facts,
        "lxd": alike.version(alike.program(config, resource)),
        "store": _digest(repr(config.store)),
        "times": _digest(repr(config.times)),
    }


def differences(mine: Dict[str, str], theirs: Dict[str, str]) -> List[Refusal]:
    """Return what is not the same on both nodes."""
    return [
        Refusal(name, f"differs from the other node ({value} here, {theirs.get(name, 'nothing')} there)")
        for name, value in mine.items()
        if theirs.get(name) != value
    ]


def run(config: Config, paths: Paths, names: tuple[str, ...], *, as_json: bool, compare: Path | None) -> int:
    """Look at the resources and tell; 0: all is well, 1: something is refused, 2: the other node's file is none."""
    report: Dict[str, Any] = {"node": config.node, "resources": {}}
    theirs: Dict[str, Dict[str, str]] = {}
    if compare is not None:
        try:
            told = json.loads(compare.read_text())["resources"]
            theirs = {name: dict(one["fingerprints"]) for name, one in dict(told).items()}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as bad:
            why = f"{type(bad).__name__}: {bad}"
            return complain(f"--compare {compare}: {why}; it is what `hapair preflight --json` prints there", 2)
    clean = True
    for name in names:
        prints = fingerprints(config, name, paths)
        refused = full(config, name, paths)
        if compare is not None:
            refused += differences(prints, theirs.get(name, {}))
        clean = clean and not refused
        report["resources"][name] = {"refused": [vars(one) for one in refused], "fingerprints": prints}
        if not as_json:
            say("\n".join([f"{name}: {one.line()}" for one in refused] or [f"{name}: nothing is in the way"]))
    if as_json:
        say(json.dumps(report, indent=2))
    return 0 if clean else 1


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
