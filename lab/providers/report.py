"""A running lab in words and in JSON, and its logs as files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab.errors import HapairError
from lab.log import Steps
from lab.providers.base import CLEAN, LabPlan, LabStatus, LinkStatus, Node
from lab.providers.pair import Pair

COMMAND_S = 20.0
LOGS = {
    "journal": ["journalctl", "--no-pager", "-o", "short-precise"],
    "kernel": ["dmesg", "--time-format", "iso"],
    "decisions.jsonl": ["cat", "/var/log/hapair/decisions.jsonl"],
    "drbd": ["drbdadm", "status"],
}
STORE_LOG = "/var/lib/hapair-store/requests.jsonl"


def as_json(pair: Pair) -> str:
    """Return everything that is known of a lab, as one JSON object."""
    status = dataclasses.asdict(pair.lab.status())
    return json.dumps({**status, "serving": pair.serving(), "reports": pair.reports()}, indent=1)


def text(pair: Pair) -> str:
    """Return what a person wants to know of a lab."""
    status = pair.lab.status()
    return "\n".join(_lines(pair, status))


def _lines(pair: Pair, status: LabStatus) -> Iterator[str]:
    serving = pair.serving()
    yield f"lab {status.name}: {_kind(pair.lab.plan, status)}, supervisor {status.pid}"
    for name, node in status.nodes.items():
        if name == serving:
            containers = ", ".join(f"{c} at {spec.addresses[0]}" for c, spec in pair.site.containers.items())
            yield f"{name:<6} {node.state}, serves {containers}"
        else:
            yield f"{name:<6} {node.state}{f' ({node.note})' if node.note else ''}"
        if name in pair.site.nodes and node.state == "on":
            yield from (f"       {line}" for line in _own_words(pair, name))
    yield from _cables(status.links)
    if serving is None:
        yield "nobody serves"


def _kind(plan: LabPlan, status: LabStatus) -> str:
    pair = [node for node in plan.nodes if node.disks]
    modes = "/".join(sorted({status.nodes[node.name].mode for node in pair} - {""})) or "off"
    if plan.hypervisor is None:
        return f"User-Mode Linux ({modes})"
    return f"virtual machines of Vagrant ({modes}, box {plan.hypervisor.box} {plan.hypervisor.version})"


def _own_words(pair: Pair, name: str) -> list[str]:
    try:
        done = pair.lab.nodes[name].run(["hapair", "status"], limit_s=COMMAND_S, check=False)
    except HapairError as error:
        return [error.message.splitlines()[0]]
    return (done.stdout + done.stderr).decode(errors="replace").splitlines()


def _cables(links: Sequence[LinkStatus]) -> Iterator[str]:
    broken = [link for link in links if link.outward != CLEAN or link.inward != CLEAN]
    if not broken:
        yield "cables whole"
    for link in broken:
        yield f"cable  {link.node}/{link.network}: out {_impaired(link, 'outward')}, in {_impaired(link, 'inward')}"


def _impaired(link: LinkStatus, way: str) -> str:
    impairment = getattr(link, way)
    if not impairment.up:
        return "cut"
    changed = [
        f"{field.name}={getattr(impairment, field.name)}"
        for field in dataclasses.fields(impairment)
        if getattr(impairment, field.name) != field.default
    ]
    return " ".join(changed) or "whole"


@dataclasses.dataclass(frozen=True)
class Collected:
    """The files that were written, and why a node gave none but its console."""

    files: tuple[Path, ...]
    missing: Mapping[str, str]


def collect(pair: Pair, folder: Path, progress: Steps) -> Collected:
    """Write the logs of every node into a folder; a node that is off or frozen is not asked."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    missing: dict[str, str] = {}
    for name, node in pair.lab.nodes.items():
        console = pair.lab.folder / f"{name}.console"
        if console.exists():
            written.append(Path(shutil.copy(console, folder)))
        state = node.state()
        if state != "on":
            missing[name] = f"it is {state}"
            continue
        wanted = LOGS if name in pair.site.nodes else {"store.jsonl": ["cat", STORE_LOG]}
        try:
            with progress.step(f"logs of {name}"):
                written += _collected(node, wanted, folder)
        except HapairError as error:
            missing[name] = error.message.splitlines()[0]
    return Collected(tuple(written), missing)


def _collected(node: Node, wanted: Mapping[str, Sequence[str]], folder: Path) -> Iterator[Path]:
    for suffix, argv in wanted.items():
        done = node.run(argv, limit_s=COMMAND_S, check=False)
        if done.code and not done.stdout:
            continue  # there is no such file on it
        target = folder / f"{node.name}.{suffix}"
        target.write_bytes(done.stdout)
        yield target
