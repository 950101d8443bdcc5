"""F9: a replica that was put back from a snapshot is recognised before it is attached.

Each attach of a node's replica has a number, its incarnation, one above all before it. It stands beside the data, in
the device uuid of DRBD's meta-data: the 8.4 kernel reads that at attach, writes it back with every change of its
meta-data and uses it for nothing (drbd_main.c: drbd_md_read, drbd_md_write); `drbdmeta write-dev-uuid` changes nothing
else. And it stands in the store, in an object of its own beside the lock (`LOCK.NODE.incarnation`). Old data brings its
old number along, and the store knows a higher one.

While the store is away a replica is attached all the same, or no pair could start without it. A mark in /run then says
that nobody has judged it yet: until the store has answered, it claims nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass
from typing import Iterator, List, Tuple

from hapair import proc
from hapair.config import Config
from hapair.fence.base import Found, Written
from hapair.fence.site import SiteStore
from hapair.fencing import flocked, replace_file
from hapair.guards import Guards
from hapair.paths import Paths
from hapair.states import Disk

FORMAT = 1
LIMIT_S = 5.0
"""For one call of drbdadm or drbdmeta, which answer within some milliseconds."""
STORE_S = 3.0
"""How long an attach waits for the store: at boot the agent may be there before the network is."""
TRIES = 3
"""Answers of the store that were overtaken by a newer one before an attach is given up for now."""
LARGEST = 0xFFFFFFFE
"""The number has half a device uuid."""
PAUSE_S = 0.5
MARK = 0x48415041
"""The upper half of a device uuid that holds an incarnation ("HAPA"); `drbdadm create-md` writes a random one."""
JUST_CREATED = 4
"""The data generation of meta-data that was never used (drbd.h: UUID_JUST_CREATED): DRBD copies everything to it."""
META_DEVICE = 3
"""Place of the meta-data's device in `drbdmeta MINOR v08 DEVICE INDEX COMMAND`."""
DEVICE_UUID = re.compile(r"[0-9a-f]{16}", re.IGNORECASE)
GENERATIONS = re.compile(r"([0-9a-f]{16})(:[0-9a-f]{16}){3}(:\d)+", re.IGNORECASE)


NOT_YET = "F9: the store has not answered yet whether this replica was put back from a snapshot"


class Unknown(Exception):
    """An incarnation cannot be read or written; the text says why."""


class NoStore(Unknown):
    """The store does not answer, or not with this node's incarnation."""


class PutBack(Exception):
    """The replica is older than the one that was attached last; the text says so, and the cure."""


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


@dataclass(frozen=True)
class Unjudged:
    """A replica that was attached without the store: what its meta-data said, and why it claims nothing."""

    replica: Replica
    why: str = NOT_YET


def unjudged(paths: Paths, resource: str) -> Unjudged | None:
    """Return the mark on a replica that nobody could judge, or that was found too old, since it was attached."""
    try:
        told = json.loads(paths.unjudged(resource).read_bytes())
        return Unjudged(tuple(Local(int(number), bool(fresh)) for number, fresh in told["replica"]), str(told["why"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return Unjudged(())


def mark(paths: Paths, resource: str, found: Unjudged) -> None:
    """Write that mark, which ends with the boot.

    Raises:
        OSError: it cannot be written.
    """
    told = {"replica": [[one.number, one.fresh] for one in found.replica], "why": found.why}
    replace_file(paths.unjudged(resource), json.dumps(told).encode(), durable=False)


def late_verdict(resource: str, found: Unjudged, stored: int) -> str:
    """Return why an attached replica must claim nothing, now that the store has answered, or ""."""
    if not found.replica:
        return (
            f"F9: the replica of {resource} was attached before anybody could read its incarnation: "
            f"`drbdadm down {resource}`, and the agent brings it up again"
        )
    return refusal(resource, found.replica, stored) if older(found.replica, stored) else ""


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
        self._lock = config.lock_name(resource)
        self._name = f"{self._lock}.{config.node}.incarnation"
        self._guards = Guards(paths, resource, config.resources[resource].minor)

    @contextlib.contextmanager
    def alone(self, limit_s: float = 0.0) -> Iterator[None]:
        """Keep every other program of hapair's away from the meta-data, from the look at it to the attach.

        Raises:
            Busy: one is at it, for longer than `limit_s`.
        """
        with flocked(self._paths.attaching(self._resource), limit_s, "works on the meta-data"):
            yield

    def attached(self) -> bool:
        """True while the kernel has the replica, so that nobody else may touch its meta-data."""
        kernel = self._guards.kernel()
        return kernel is not None and any(volume.disk is not Disk.DISKLESS for volume in kernel.volumes)

    def count(self) -> str:
        """Count the attach that comes next, and return what should be known of it, or "".

        The number is on the disk before it is in the store: whatever breaks off in between, the disk is ahead and not
        behind. Without an answer of the store the replica is marked, and judged later (`judge`).

        Raises:
            PutBack: it must not be attached.
            Unknown: its meta-data can be neither read nor written, although the disk is there.
            OSError: the mark cannot be written.
        """
        if self.attached():
            return ""
        volumes = self.volumes()
        try:
            replica = read(volumes)
        except Unknown as why:
            if all(_there(call[META_DEVICE]) for call in volumes):
                raise
            # Without its disk the node comes up diskless; should the disk come in this very moment, nobody has read it.
            mark(self._paths, self._resource, Unjudged(()))
            return f"WARNING: this attach is not counted (F9): {why}"
        try:
            return self._counted(volumes, replica)
        except NoStore as why:
            mark(self._paths, self._resource, Unjudged(replica))
            return f"WARNING: this attach is not counted, and nothing is claimed with it until it is (F9): {why}"

    def _counted(self, volumes: List[List[str]], replica: Replica) -> str:
        """Judge the replica as it was found, and write its next number to the disk and to the store."""
        for _ in range(TRIES):
            stored = self._awaited(replica)
            number = successor(replica, stored.number)
            if number is None:
                raise PutBack(refusal(self._resource, replica, stored.number))
            write(volumes, number)
            told, why = self._tell(number, stored)
            if told is Written.YES:
                self.forget()
                return ""
            if told is Written.UNCLEAR:
                mark(self._paths, self._resource, Unjudged(tuple(Local(number, one.fresh) for one in replica)))
                return f"WARNING: the store does not know yet of this attach, incarnation {number} (F9): {why}"
            # As it was: the number of a try that came to nothing would let it pass next time.
            for place, one in enumerate(replica):
                write([volumes[place]], one.number)
        raise Unknown("F9: the store has other numbers each time that it is asked")

    def judge(self) -> str:
        """Judge a replica that was attached without the store; return why it must claim nothing, or "".

        Raises:
            Unknown: the store still does not answer.
            OSError: the mark cannot be changed.
        """
        found = unjudged(self._paths, self._resource)
        if found is None:
            return ""
        if not self.attached():
            # The attach to come judges it.
            return ""
        stored = self.stored(found.replica)
        wrong = late_verdict(self._resource, found, stored.number)
        if wrong:
            mark(self._paths, self._resource, Unjudged(found.replica, wrong))
            return wrong
        number = max(one.number for one in found.replica)
        if number > stored.number:
            told, why = self._tell(number, stored)
            if told is not Written.YES:
                raise NoStore(why)
        self.forget()
        return ""

    def forget(self) -> None:
        """Take the mark off a replica: it was judged, or is another one now."""
        with contextlib.suppress(FileNotFoundError):
            self._paths.unjudged(self._resource).unlink()

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

    def stored(self, replica: Replica = ()) -> Stored:
        """Return what the store has for this node; `replica` is what its meta-data say.

        Raises:
            NoStore: it does not answer, or has something else.
        """
        limit_s = self._config.store.timeout_s
        seen = self._store.read(self._name, limit_s)
        if seen.found is Found.MISSING:
            if any(one.number for one in replica) and self._store.read(self._lock, limit_s).found is not Found.OBJECT:
                raise NoStore("it has neither the incarnation nor the lock: is it the right one?")
            return Stored(0, None)
        if seen.found is Found.UNAVAILABLE:
            raise NoStore(seen.text)
        try:
            told = json.loads(seen.body)
            number = told["incarnation"]
            known = isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= LARGEST
            if known and told["format"] == FORMAT and told["node"] == self._config.node:
                return Stored(number, seen.tag)
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise NoStore(f"{self._config.store.place(self._name)} is not what this release writes")

    def _awaited(self, replica: Replica) -> Stored:
        until = time.monotonic() + STORE_S
        while True:
            try:
                return self.stored(replica)
            except NoStore:
                if time.monotonic() >= until:
                    raise
            # Nothing announces that the store can be reached.
            time.sleep(PAUSE_S)

    def _tell(self, number: int, before: Stored) -> Tuple[Written, str]:
        """Write the number to the store; return whether it is there, and what went wrong."""
        # With a mark of this very write: upon an old answer, its number may be the one that the store has already.
        told = {"format": FORMAT, "node": self._config.node, "incarnation": number, "attempt_id": os.urandom(16).hex()}
        body = json.dumps(told, sort_keys=True).encode()
        limit_s = self._config.store.timeout_s
        wrote = self._store.write(self._name, body, before.tag, limit_s)
        if wrote.written is Written.YES or self._store.read(self._name, limit_s).body == body:
            return Written.YES, ""
        return wrote.written, wrote.text or "another write came first"


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
    cause = "put back from a snapshot or a backup, it lacks what was written since"
    if not number:
        cause = "put back, or attached by hand only (then `--trust` instead)"
    return (
        f"F9: the replica of {resource} here is older than the one attached last (incarnation {number}, the store has "
        f"{stored}): {cause}; it must not be used. "
        f"`hapair restored-replica {resource} --discard` has the peer's data copied to it"
    )


def _there(device: str) -> bool:
    """True when a device can be opened: DRBD could attach it."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


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
