"""F9: a replica that was put back from a snapshot is recognised before it is attached.

Each attach of a node's replica has a number, its incarnation, one above all before it. It stands beside the data, in
the device uuid of DRBD's meta-data: the 8.4 kernel reads that at attach, writes it back with every change of its
meta-data and uses it for nothing (drbd_main.c: drbd_md_read, drbd_md_write); `drbdmeta write-dev-uuid` changes nothing
else. And it stands in the store, in an object of its own beside the lock (`LOCK.NODE.incarnation`). Old data brings its
old number along, and the store knows a higher one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Iterator, List, Tuple

from hapair import proc
from hapair.config import Config
from hapair.fence import base
from hapair.fence.site import SiteStore
from hapair.guards import Guards
from hapair.paths import Paths
from hapair.states import Disk

FORMAT = 1
LIMIT_S = 5.0
"""For one call of drbdadm or drbdmeta, which answer within some milliseconds."""
STORE_S = 10.0
"""How long an attach waits for the store: at boot the agent may be there before the network is."""
PAUSE_S = 0.5
LOCK_PAUSE_S = 0.02
MARK = 0x48415041
"""The upper half of a device uuid that holds an incarnation ("HAPA"); `drbdadm create-md` writes a random one."""
JUST_CREATED = 4
"""The data generation of meta-data that was never used (drbd.h: UUID_JUST_CREATED): DRBD copies everything to it."""
META_DEVICE = 3
"""Place of the meta-data's device in `drbdmeta MINOR v08 DEVICE INDEX COMMAND`."""
DEVICE_UUID = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
GENERATIONS = re.compile(r"([0-9a-f]{16})(:[0-9a-f]{16}){3}(:\d)+", re.IGNORECASE)


class Unknown(Exception):
    """An incarnation cannot be read or written; the text says why."""


class InUse(Exception):
    """Somebody else attaches the replica, or changes its meta-data."""


@dataclass(frozen=True)
class Stored:
    """What the store has: the highest incarnation it was told (0: none yet) and the version tag of that."""

    number: int
    tag: str | None


@dataclass(frozen=True)
class Local:
    """What the meta-data of one volume has: its incarnation (0: none), and whether it was never used."""

    number: int
    fresh: bool


Replica = Tuple[Local, ...]


def older(replica: Replica, stored: int) -> bool:
    """True when a volume that holds data was attached after it was what it is now.

    Fresh meta-data has no number and needs none: DRBD takes such a volume for nothing but the target of a full resync.
    An older one that is Inconsistent is no exception: its bitmap does not know what was written since.
    """
    return any(not one.fresh and one.number < stored for one in replica)


def successor(replica: Replica, stored: int) -> int | None:
    """Return the incarnation of the attach to come, or None: this replica may not be attached."""
    if older(replica, stored):
        return None
    return max(stored, *(one.number for one in replica)) + 1


class Incarnation:
    """The incarnations of one resource's replica on this node."""

    def __init__(self, config: Config, resource: str, paths: Paths) -> None:
        self._config, self._resource, self._paths = config, resource, paths
        self._store = SiteStore(config.store, paths)
        self._name = f"{config.lock_name(resource)}.{config.node}.incarnation"
        self._guards = Guards(paths, resource, config.resources[resource].minor)

    @contextlib.contextmanager
    def alone(self, limit_s: float = 0.0) -> Iterator[None]:
        """Keep every other program of hapair's away from the meta-data, from the look at it to the attach.

        Raises:
            InUse: one is at it, for longer than `limit_s`.
        """
        path = self._paths.attaching(self._resource)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + limit_s
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise InUse("another program works on the meta-data") from None
                # A flock that waits cannot be bounded.
                time.sleep(LOCK_PAUSE_S)
            yield
        finally:
            os.close(fd)

    def attached(self) -> bool:
        """True while the kernel has the replica, so that nobody else may touch its meta-data."""
        kernel = self._guards.kernel()
        return kernel is not None and any(volume.disk is not Disk.DISKLESS for volume in kernel.volumes)

    def count(self) -> Tuple[str, str]:
        """Count the attach that comes next; return why it must not be, or "", and what should be known of it.

        What cannot be looked at is attached all the same: without the store nothing is promoted alone, and a disk that
        cannot be read cannot be attached either. The number is on the disk before it is in the store: whatever breaks
        off in between, the disk is ahead and not behind.
        """
        if self.attached():
            return "", ""
        try:
            volumes = self.volumes()
            replica = read(volumes)  # first: a disk that is not there waits for no store
            stored = self._awaited()
            number = successor(replica, stored.number)
            if number is None:
                return refusal(self._resource, replica, stored.number), ""
            write(volumes, number)
        except Unknown as why:
            return "", f"WARNING: this attach is not counted (F9): {why}"
        return "", self._tell(number, stored)

    def volumes(self) -> List[List[str]]:
        """Return the call of drbdmeta for each volume, all but the command, as drbdadm makes it from the configuration.

        Raises:
            Unknown: drbdadm cannot tell.
        """
        done = proc.run(["drbdadm", "-d", "dump-md", self._resource], LIMIT_S)
        calls = [line.split() for line in done.output.splitlines()]
        found = [words[:-1] for words in calls if len(words) > META_DEVICE + 2 and words[-1] == "dump-md"]
        if not done.ok or not found:
            raise Unknown(f"drbdadm -d dump-md {self._resource}: {done.last_line or 'says nothing'}")
        return found

    def stored(self) -> Stored:
        """Return what the store has.

        Raises:
            Unknown: it does not answer, or has something else.
        """
        seen = self._store.read(self._name, self._config.store.timeout_s)
        if seen.found is base.Found.MISSING:
            return Stored(0, None)
        if seen.found is base.Found.UNAVAILABLE:
            raise Unknown(seen.text)
        try:
            told = json.loads(seen.body)
            if told["format"] == FORMAT and told["node"] == self._config.node:
                return Stored(int(told["incarnation"]), seen.tag)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise Unknown(f"{self._config.store.place(self._name)} is not what this release writes")

    def _awaited(self) -> Stored:
        until = time.monotonic() + STORE_S
        while True:
            try:
                return self.stored()
            except Unknown:
                if time.monotonic() >= until:
                    raise
            # Nothing announces that the store can be reached.
            time.sleep(PAUSE_S)

    def _tell(self, number: int, before: Stored) -> str:
        """Write the number to the store; return what went wrong, or ""."""
        told = {"format": FORMAT, "node": self._config.node, "incarnation": number}
        body = json.dumps(told, sort_keys=True).encode()
        limit_s = self._config.store.timeout_s
        wrote = self._store.write(self._name, body, before.tag, limit_s)
        if wrote.written is base.Written.YES or self._store.read(self._name, limit_s).body == body:
            return ""
        why = wrote.text or "another write came first"
        return f"WARNING: the store does not know of this attach, incarnation {number} (F9): {why}"


def read(volumes: List[List[str]]) -> Replica:
    """Return what the volumes' meta-data say; they must not be attached.

    Raises:
        Unknown: one cannot be read.
    """
    found = []
    for call in volumes:
        uuid = int(_asked([*call, "read-dev-uuid"], DEVICE_UUID), 16)
        generation = _asked([*call, "get-gi"], GENERATIONS).partition(":")[0]
        number = uuid & 0xFFFFFFFF if uuid >> 32 == MARK else 0
        found.append(Local(number, int(generation, 16) == JUST_CREATED))
    return tuple(found)


def write(volumes: List[List[str]], number: int) -> None:
    """Write an incarnation into every volume's meta-data, and wait until it is on the disks.

    Raises:
        Unknown: one cannot be written.
    """
    for call in volumes:
        _run([*call, "write-dev-uuid", f"{MARK:08x}{number:08x}"])
        # drbdmeta writes past the page cache, but no further than into the disk's own.
        _run(["sync", call[META_DEVICE]])


def refusal(resource: str, replica: Replica, stored: int) -> str:
    """Say why a replica is not attached, and the cure."""
    number = min(one.number for one in replica if not one.fresh)
    return (
        f"F9: the replica of {resource} here is older than the one attached last (incarnation {number}, the store has "
        f"{stored}): put back from a snapshot or a backup, it lacks what was written since, and is not attached. "
        f"`hapair restored-replica {resource} --discard` has the peer's data copied to it"
    )


def _asked(argv: List[str], form: "re.Pattern[str]") -> str:
    """Return the line of a command's output that has this form; drbdmeta may say more on standard error."""
    for line in _run(argv).splitlines():
        if form.fullmatch(line.strip()):
            return line.strip()
    raise Unknown(f"{' '.join(argv)}: says nothing that is understood")


def _run(argv: List[str]) -> str:
    done = proc.run(argv, LIMIT_S)
    if not done.ok:
        raise Unknown(f"{' '.join(argv)}: {done.last_line or f'exit code {done.code}'}")
    return done.output
