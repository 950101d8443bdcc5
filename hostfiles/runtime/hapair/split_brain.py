"""`hapair recover-split-brain RESOURCE --victim NODE`: a person chooses which replica to discard (F12, R10).

With fencing in force the replicas diverge only after an override whose owner lived on. Each node does its own part:
on the victim the replica is saved to a file and then offered up (`connect --discard-my-data`), on the other node the
connection is opened again. Nothing of the victim is lost before the copy is on disk.

The copy is one of the backing device, which needs no promotion: the lock forbids that on a victim, and DRBD holds the
device, so nothing else can mount it. DRBD writes past the page cache, hence the flush before reading.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List

from hapair import proc
from hapair.config import Config
from hapair.decisions import DecisionLog
from hapair.events import out_of_sync_kib
from hapair.fence.site import fence_of
from hapair.fencing import replace_file
from hapair.guards import Guards
from hapair.lock import LockState
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.states import Connection, Role

BLOCK_BYTES = 1 << 20
BLKFLSBUF = 0x1261
"""linux/fs.h: write back and forget the page cache of a block device."""
SPARE_BYTES = 64 << 20
"""What must stay free beside the copy: a full root disk would hurt the agent."""
DRBD_LIMIT_S = 20.0
LOG_LIMIT_S = 2.0
OWN_MARK = b"recovery"
"""What the mark holds when a recovery made it; the kernel's handler leaves an empty one."""


@dataclass(frozen=True)
class Recovery:
    """One guided recovery, seen from this node."""

    config: Config
    paths: Paths
    resource: str
    victim: str

    @property
    def here(self) -> bool:
        """True on the victim."""
        return self.victim == self.config.node

    @property
    def guards(self) -> Guards:
        """The resource's state, from /proc/drbd."""
        return Guards(self.paths, self.resource, self.config.resources[self.resource].minor)

    def objection(self) -> str:
        """Say what forbids this node's part, or ""."""
        kernel = self.guards.kernel()
        if kernel is None:
            return f"DRBD does not know {self.resource} here: start hapair-agent first"
        if kernel.connection is Connection.CONNECTED:
            return "the replicas are connected: there is nothing to recover"
        if self.here and kernel.role is Role.PRIMARY:
            return f"the victim is Primary: `{self.resource} secondary` first"
        return self.lock_objection()

    def lock_objection(self) -> str:
        """Say why the lock forbids to discard the victim's writes, or ""; unknown is no leave to do so."""
        answer = fence_of(self.config, self.resource, self.paths).read()
        if answer.record is None:
            return f"the lock is unknown ({answer.text}): nobody knows which replica is current"
        if answer.record.state is LockState.STEALING:
            return "an override is in progress: take `drbd-fence steal` up or undo it first"
        owner = {self.config.me.uuid: self.config.node, self.config.other.uuid: self.config.peer}
        if answer.record.state is LockState.SOLO and owner.get(answer.record.owner) == self.victim:
            return (
                f"the lock says that only {self.victim} has every acknowledged write (epoch {answer.record.epoch}); "
                "to discard it all the same, `drbd-fence steal` on the other node first"
            )
        return ""


def run(recovery: Recovery, *, folder: Path, confirm: str | None, dry_run: bool) -> int:
    """Do this node's part; 0: done, 1: refused or failed, 2: not confirmed."""
    for line in what_differs(recovery):
        say(line)
    objection = recovery.objection()
    if objection:
        if not dry_run:
            _forget_mark(recovery, of_own=False)
        return complain(f"refused: {objection}", 1)
    if recovery.here:
        say(f"  all of this is discarded, and replaced by what {recovery.config.peer} has")
    if dry_run:
        say("a dry run: nothing was changed. The same with --dry-run on the other node shows what that side has.")
        return 0
    if not _confirmed(recovery, confirm):
        return complain(f"not confirmed: the name of the victim, {recovery.victim}, was not typed", 2)
    return _victim(recovery, folder) if recovery.here else _survivor(recovery)


def what_differs(recovery: Recovery) -> List[str]:
    """Return, for people, what this side has that the other has not.

    DRBD marks in its bitmap what changed since the replicas were last connected, in blocks of 4 KiB; after a crash it
    marks every extent of 4 MiB that was in use.
    """
    kernel = recovery.guards.kernel()
    if kernel is None:
        return []
    try:
        text = recovery.paths.proc_drbd.read_text()
    except OSError:
        text = ""
    kib = out_of_sync_kib(text, recovery.config.resources[recovery.resource].minor)
    disks = ", ".join(volume.disk.value for volume in kernel.volumes)
    lines = [
        f"{recovery.config.node}: {kernel.role.value}, {disks}, {kernel.connection.value}",
        f"  changed here since the replicas parted: {'unknown' if kib is None else f'at most {kib} KiB'}",
    ]
    generations = proc.run(["drbdadm", "get-gi", recovery.resource], DRBD_LIMIT_S)
    if generations.ok:
        lines.append(f"  data generations (current:bitmap:history): {generations.last_line}")
    device = backing_device(recovery.resource)
    with contextlib.suppress(OSError):
        forget_cache(Path(device))
    shown = proc.run(["btrfs", "inspect-internal", "dump-super", device], DRBD_LIMIT_S) if device else None
    if shown is not None and shown.ok:
        words = [line.split() for line in shown.output.splitlines()]
        transaction = next((word[1] for word in words if word[:1] == ["generation"] and len(word) > 1), "unknown")
        lines.append(f"  last transaction of the file system: {transaction}")
    return lines


def backing_device(resource: str) -> str:
    """Return the path of the device below DRBD on this node, or "" when drbdadm cannot tell."""
    done = proc.run(["drbdadm", "sh-ll-dev", resource], DRBD_LIMIT_S)
    return done.last_line if done.ok else ""


def _confirmed(recovery: Recovery, typed: str | None) -> bool:
    if typed is None:
        if not sys.stdin.isatty():
            return False
        say(f"Type the name of the victim, whose changes are discarded ({recovery.victim}), to go on:")
        typed = sys.stdin.readline().strip()
    return typed == recovery.victim


def _victim(recovery: Recovery, folder: Path) -> int:
    """Save, then connect as the one that gives in. The mark keeps the agent from connecting in between."""
    mark = recovery.paths.split_brain(recovery.resource)
    if not mark.exists():
        replace_file(mark, OWN_MARK, durable=False)
    try:
        return _give_in(recovery, folder)
    finally:
        _forget_mark(recovery, of_own=True)


def _forget_mark(recovery: Recovery, *, of_own: bool) -> None:
    """Let the agent connect again: the replicas have met, or (`of_own`) only this recovery kept it from that."""
    mark, kernel = recovery.paths.split_brain(recovery.resource), recovery.guards.kernel()
    with contextlib.suppress(FileNotFoundError):
        if (kernel is not None and kernel.connected) or (of_own and mark.read_bytes() == OWN_MARK):
            mark.unlink()


def _give_in(recovery: Recovery, folder: Path) -> int:
    resource = recovery.resource
    device = backing_device(resource)
    target = folder / f"{resource}-{recovery.config.node}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.img"
    try:
        size = save(Path(device), target)
    except OSError as bad:
        return complain(f"not saved, so nothing is discarded: {bad}", 1)
    say(f"saved: {target} ({size} bytes)")
    say("  look into it on another machine: a second btrfs of the same identity must not meet the first one")
    objection = recovery.objection()
    if objection:
        return complain(f"refused: {objection}", 1)
    kernel = recovery.guards.kernel()
    if kernel is not None and kernel.connection is not Connection.STANDALONE:
        proc.run(["drbdadm", "disconnect", resource], DRBD_LIMIT_S)
    done = proc.run(["drbdadm", "connect", "--discard-my-data", resource], DRBD_LIMIT_S)
    _log(recovery, "drbdadm connect --discard-my-data", "done" if done.ok else done.last_line)
    if not done.ok:
        return complain(f"drbdadm connect --discard-my-data {resource}: {done.last_line}", 1)
    with contextlib.suppress(FileNotFoundError):
        recovery.paths.split_brain(resource).unlink()
    say(f"{resource}: waits for {recovery.config.peer}: run the same command there now")
    return 0


def _survivor(recovery: Recovery) -> int:
    """Connect again; the victim waits for it already, or DRBD finds the split brain once more and nothing is lost."""
    done = proc.run(["drbdadm", "connect", recovery.resource], DRBD_LIMIT_S)
    _log(recovery, "drbdadm connect", "done" if done.ok else done.last_line)
    if not done.ok:
        return complain(f"drbdadm connect {recovery.resource}: {done.last_line}", 1)
    with contextlib.suppress(FileNotFoundError):
        recovery.paths.split_brain(recovery.resource).unlink()
    say(f"{recovery.resource}: connects; {recovery.victim} is synchronised from here (`hapair status`)")
    return 0


def save(device: Path, target: Path) -> int:
    """Copy a device into a sparse file, and return its size. The file has its name only once it is whole and on disk.

    Raises:
        OSError: the device cannot be read, or the file not be written; or there is not enough room for it.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = target.with_name(f".{target.name}.part")
    source = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flush(source)
        size = os.lseek(source, 0, os.SEEK_END)
        with part.open("wb") as copy:
            os.fchmod(copy.fileno(), 0o600)
            for offset in range(0, size, BLOCK_BYTES):
                block = os.pread(source, BLOCK_BYTES, offset)
                if block.count(0) != len(block):
                    if shutil.disk_usage(target.parent).free < SPARE_BYTES:
                        raise OSError(f"{target.parent} is nearly full: name another folder with --save")
                    copy.seek(offset)
                    copy.write(block)
            copy.truncate(size)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(target)
        return size
    finally:
        os.close(source)
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def forget_cache(device: Path) -> None:
    """Have the next reader of a backing device see what DRBD wrote past the page cache.

    Raises:
        OSError: there is no such device.
    """
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    with contextlib.suppress(OSError):
        # Only block devices have it; a plain file has nothing to forget.
        fcntl.ioctl(fd, BLKFLSBUF)


def _log(recovery: Recovery, action: str, outcome: str) -> None:
    log = DecisionLog(recovery.paths.decisions, journal=False)
    why = f"split brain: a person chose {recovery.victim} as the victim"
    log.add(recovery.resource, rule="F12", action=action, outcome=outcome, why=why, durable=True)
    log.drain(LOG_LIMIT_S)
