"""Reads `drbdsetup events2` (drbd-utils 9.22 with the 8.4 module): lines to events, events to states. Pure.

A stream starts with a dump of `exists` lines that ends in `exists -`; then come changes in order, and
`call helper` / `response helper … status:N` around each handler. `/proc/drbd` is read by `parse_proc`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Dict, Mapping, Tuple, Type, TypeVar

from hapair.states import Connection, Disk, Helper, Kernel, Replication, Role, Volume

KINDS = ("exists", "create", "change", "rename", "destroy", "call", "response")
OBJECTS = ("resource", "connection", "device", "peer-device", "path", "helper")
HANDSHAKE = ("StartingSyncS", "StartingSyncT", "WFBitMapS", "WFBitMapT", "WFSyncUUID", "Ahead", "Behind")
PROC_LINE = re.compile(r"^\s*(\d+): cs:(\S+)(?: ro:(\S+?)/(\S+) ds:(\S+?)/(\S+))?")
OUT_OF_SYNC = re.compile(r"\boos:(\d+)")
E = TypeVar("E", bound=Enum)


class BadLine(ValueError):
    """A line that is not one of events2; the stream is then read anew from a dump."""


@dataclass(frozen=True)
class Event:
    """One line: what happened (`kind`) to what (`subject`; empty for the end of the dump)."""

    kind: str
    subject: str
    fields: Mapping[str, str]


@dataclass(frozen=True)
class World:
    """All resources of this node; `complete` once a whole dump was read."""

    resources: Mapping[str, Kernel] = field(default_factory=dict)
    complete: bool = False


def parse(line: str) -> Event:
    """Turn one line into an event; a leading time stamp (--timestamps) is skipped.

    Raises:
        BadLine: it has another form.
    """
    words = line.split()
    if words and words[0][:1].isdigit():
        words = words[1:]
    if words == ["exists", "-"]:
        return Event("exists", "", {})
    if len(words) < 2 or words[0] not in KINDS or words[1] not in OBJECTS:
        raise BadLine(line)
    fields: Dict[str, str] = {}
    for word in words[2:]:
        name, colon, value = word.partition(":")
        if colon:
            fields[name] = value
    if "name" not in fields:
        raise BadLine(line)
    return Event(words[0], words[1], fields)


def told_at(line: str) -> float | None:
    """Return when drbdsetup told a line (--timestamps), in wall seconds; None without a stamp, and within a dump."""
    from datetime import datetime  # noqa: PLC0415 - a handler, which starts while I/O is frozen, needs none of it

    words = line.split(maxsplit=2)
    if len(words) < 2 or words[1] == "exists":
        return None
    try:
        return datetime.fromisoformat(words[0]).timestamp()
    except ValueError:
        return None


def apply(world: World, event: Event) -> World:
    """Return the world after `event`."""
    if not event.subject:
        return replace(world, complete=True)
    resources = dict(world.resources)
    name = event.fields["name"]
    if event.subject == "resource" and event.kind == "destroy":
        resources.pop(name, None)
    else:
        resources[name] = _changed(resources.get(name) or Kernel(name), event)
    return replace(world, resources=resources)


def _changed(kernel: Kernel, event: Event) -> Kernel:
    """Return one resource after an event about it or one of its parts."""
    fields = event.fields
    if event.subject == "resource":
        if "role" in fields:
            kernel = replace(kernel, role=_word(Role, fields["role"], Role.UNKNOWN))
        if "suspended" in fields:
            kernel = replace(kernel, suspended=frozenset(fields["suspended"].split(",")) - {"no"})
    elif event.subject == "connection":
        kernel = _connection(kernel, event)
    elif event.subject == "device":
        kernel = _device(kernel, event)
    elif event.subject == "peer-device":
        kernel = _peer_device(kernel, event)
    elif event.subject == "helper" and fields.get("helper") == "fence-peer":
        kernel = replace(kernel, fence_helper=Helper(event.kind == "call", int(fields.get("status", "0"))))
    return kernel


def _connection(kernel: Kernel, event: Event) -> Kernel:
    if event.kind == "destroy":
        return replace(kernel, connection=Connection.STANDALONE, peer_role=Role.UNKNOWN)
    if "connection" in event.fields:
        connection = _word(Connection, event.fields["connection"], Connection.UNKNOWN)
        kernel = replace(kernel, connection=connection)
        if connection is not Connection.CONNECTED:
            kernel = replace(kernel, peer_role=Role.UNKNOWN)
    if "role" in event.fields:
        kernel = replace(kernel, peer_role=_word(Role, event.fields["role"], Role.UNKNOWN))
    return kernel


def _device(kernel: Kernel, event: Event) -> Kernel:
    number = int(event.fields.get("volume", "0"))
    if event.kind == "destroy":
        return replace(kernel, volumes=tuple(v for v in kernel.volumes if v.number != number))
    if "disk" not in event.fields:
        return kernel
    disk = _word(Disk, event.fields["disk"], Disk.UNKNOWN)
    return _with_volume(kernel, replace(_volume(kernel, number), disk=disk))


def _peer_device(kernel: Kernel, event: Event) -> Kernel:
    number = int(event.fields.get("volume", "0"))
    volume = _volume(kernel, number)
    if event.kind == "destroy":
        if all(known.number != number for known in kernel.volumes):
            return kernel
        return _with_volume(kernel, replace(volume, peer_disk=Disk.UNKNOWN, replication=Replication.OFF))
    if "peer-disk" in event.fields:
        volume = replace(volume, peer_disk=_word(Disk, event.fields["peer-disk"], Disk.UNKNOWN))
    if "replication" in event.fields:
        volume = replace(volume, replication=_word(Replication, event.fields["replication"], Replication.OTHER))
    return _with_volume(kernel, volume)


def _volume(kernel: Kernel, number: int) -> Volume:
    return next((volume for volume in kernel.volumes if volume.number == number), Volume(number))


def _with_volume(kernel: Kernel, volume: Volume) -> Kernel:
    others = [known for known in kernel.volumes if known.number != volume.number]
    return replace(kernel, volumes=tuple(sorted([*others, volume], key=lambda known: known.number)))


def _word(kind: Type[E], word: str, otherwise: E) -> E:
    """Return the member of `kind` for `word`; a word nobody documented counts as the most careful one."""
    try:
        return kind(word)
    except ValueError:
        return otherwise


def parse_proc(text: str) -> Dict[int, Kernel]:
    """Read /proc/drbd: minor number → state. It takes no lock of the kernel, so handlers may read it (FAILOVER.md).

    Each minor is reported as a resource of one volume; its name is the minor number. Lines about resync progress and
    counters are skipped; "cs:Unconfigured" minors are left out.
    """
    found: Dict[int, Kernel] = {}
    for line in text.splitlines():
        match = PROC_LINE.match(line)
        if match is None or match.group(3) is None:
            continue
        minor, state, role, peer_role, disk, peer_disk = match.groups()
        connection, replication = _proc_connection(state)
        rest = line[match.end() :].split()
        found[int(minor)] = Kernel(
            name=minor,
            role=_word(Role, role, Role.UNKNOWN),
            # The last word holds flags; its first letter is s while I/O is suspended, for whatever reason.
            suspended=frozenset(("io",)) if rest and rest[-1].startswith("s") else frozenset(),
            connection=connection,
            peer_role=_word(Role, peer_role, Role.UNKNOWN),
            volumes=(
                Volume(
                    0,
                    _word(Disk, disk, Disk.UNKNOWN),
                    _word(Disk, peer_disk, Disk.UNKNOWN),
                    replication,
                ),
            ),
        )
    return found


def out_of_sync_kib(text: str, minor: int) -> int | None:
    """Return how much of a minor's data /proc/drbd marks as different from the peer's (oos, KiB); None: not told."""
    here = False
    for line in text.splitlines():
        match = PROC_LINE.match(line)
        if match is not None:
            here = int(match.group(1)) == minor
        counter = OUT_OF_SYNC.search(line)
        if here and counter is not None:
            return int(counter.group(1))
    return None


def _proc_connection(state: str) -> Tuple[Connection, Replication]:
    """Split the one word of /proc/drbd into connection and replication state."""
    if state == "WFConnection":
        return Connection.CONNECTING, Replication.OFF
    if state == "WFReportParams":
        return Connection.CONNECTING, Replication.OFF
    if state == "Connected":
        return Connection.CONNECTED, Replication.ESTABLISHED
    if state in HANDSHAKE:
        return Connection.CONNECTED, Replication.OTHER
    replication = _word(Replication, state, Replication.OFF)
    if replication is not Replication.OFF:
        return Connection.CONNECTED, replication
    return _word(Connection, state, Connection.UNKNOWN), Replication.OFF
