"""`hapair explain RESOURCE`: the last decisions, each with its rule and the hazard that the rule answers."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Any, Dict, List, Mapping

HAZARDS: Dict[str, str] = {
    "F1": "a node that goes on without its peer must hold the lock, by a write of its own",
    "F2": "the kernel asks a handler once: after a failed one, I/O stands still for ever",
    "F3": "a Primary whose peer left cleanly acknowledges alone, with nothing frozen and nobody asked",
    "F4": "a disk that failed holds old data, and may come back as if nothing had happened",
    "F5": "a Primary without current data of its own serves garbage",
    "F6": "DRBD remembers an outdated peer across boots, so a promotion may pass without any question",
    "F7": "a lock that is not given back blocks the peer; one given back too early lets it serve old data",
    "F8": "only a person can say that the owner of a lock will not return",
    "F9": "a store or a node that was put back from a backup tells yesterday's truth",
    "F10": "a cut-off Primary must be gone before its peer serves",
    "F11": "a setting that the protocol rests on may have been changed by hand",
    "F12": "replicas that diverged can be joined only by throwing one side's writes away",
    "bounded-demotion": "a node that is half stopped neither serves nor lets the peer serve",
    "demote": "a Primary that steps down must have stopped its services",
    "events": "a missed event of DRBD is a missed decision",
    "handshake": "in a handshake the disks' states are not settled",
    "held": "a person demoted this node and does not want it back at once",
    "hook": "a person's script runs beside the decisions, never before them",
    "preferred": "two nodes that could both serve must not race for it",
    "reconnect": "DRBD gives a refused connection up for good",
    "services": "two nodes must never answer for one address",
    "standby": "the peer serves",
    "up": "a disk or a network that came late leaves the pair without a standby",
}
LARGEST_TAIL_BYTES = 4 << 20
"""How much of the log's end is looked at."""


def last_decisions(log: Path, resource: str, count: int) -> List[Dict[str, Any]]:
    """Return the last `count` entries about `resource` (or about all), oldest first; broken lines are skipped.

    Raises:
        OSError: there is no log, or it cannot be read.
    """
    found: deque[Dict[str, Any]] = deque(maxlen=count)
    with log.open("rb") as lines:
        size = lines.seek(0, 2)
        lines.seek(max(0, size - LARGEST_TAIL_BYTES))
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("resource") in (resource, "*"):
                found.append(entry)
    return list(found)


def text(entries: List[Dict[str, Any]], names: Mapping[str, str]) -> str:
    """Return the entries for people: when, rule and action, how it ended and why; the hazard once for each rule.

    `names` (uuid → node) are put in place of the uuids by which locks name their owners.
    """
    lines: List[str] = []
    told = set()
    for entry in entries:
        rule = str(entry.get("rule", "?"))
        at = float(entry.get("t", 0.0))
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) + f".{int(at * 1000) % 1000:03d}"
        took = float(entry.get("took_s", 0.0))
        lines.append(f"{when}  {rule}: {entry.get('action')} -> {entry.get('outcome')}  ({took:g} s)")
        lines.append(f"    why: {entry.get('why')}")
        if rule in HAZARDS and rule not in told:
            told.add(rule)
            lines.append(f"    {rule} is there because {HAZARDS[rule]}")
    told_so = "\n".join(lines)
    for uuid, name in names.items():
        told_so = told_so.replace(uuid, name)
    return told_so
