"""Takes, releases and hands over a resource's lock: every change is one conditional write under a local lock.

The answer is one of three: HELD, REFUSED (another node has it), UNAVAILABLE (nobody knows). Agent, handlers and
commands all come through here; the local `flock` keeps them apart, the store's condition keeps the nodes apart.

A confirmed SOLO of this node leaves a *note* in /run, which ends with the boot. It is removed before a release or a
hand-over is written, so while it lies there no such write of this node can be under way.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import time
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Callable, Iterator

from hapair import lock
from hapair.fence import probe
from hapair.fence.base import Backend, Found, Written
from hapair.lock import Claim, LockInvalid, LockRecord, LockState
from hapair.paths import Paths

ATTEMPTS = 4
"""Conflicts in a row before a change is given up: each one means that somebody else's write landed."""
FLOCK_PAUSE_S = 0.01
"""Pause between attempts on the local lock: flock has no time limit of its own, and no event."""

Change = Callable[[LockRecord], "LockRecord | None"]
Guard = Callable[[], str]
NO_CLAIM = Claim()


class Held(Enum):
    """The three answers (FAILOVER.md, rule 5 of the house: unavailable never means held)."""

    HELD = "held"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class Answer:
    """What came of a question to the lock: `record` is the version now in force, as far as known.

    `down` tells a store that gave no clear answer from one that answered with something that is not this lock.
    """

    held: Held
    record: LockRecord | None = None
    text: str = ""
    down: bool = False


class Busy(Exception):
    """A lock file of this node did not come free in time."""


@contextlib.contextmanager
def flocked(path: Path, limit_s: float, doing: str) -> Iterator[None]:
    """Keep every other program of this node from what the lock file stands for; the kernel frees it with the process.

    Raises:
        Busy: another one held on for longer than `limit_s`; `doing` completes "another program of this node …".
        OSError: the file cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        due = time.monotonic() + limit_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= due:
                    raise Busy(f"another program of this node {doing}") from None
                # A flock that waits cannot be bounded, and no event tells when it is free.
                time.sleep(FLOCK_PAUSE_S)
        yield
    finally:
        os.close(fd)


def no_guard() -> str:
    """Return no objection."""
    return ""


class Fence:
    """The lock of one resource, as this node sees it. Every method returns an answer and raises nothing."""

    def __init__(
        self, *, resource: str, name: str, me: str, peer: str, backend: Backend, paths: Paths, timeout_s: float
    ) -> None:
        self.resource, self.name, self.me, self.peer = resource, name, me, peer
        self._backend, self._paths, self._timeout_s = backend, paths, timeout_s

    def read(self) -> Answer:
        """Return the lock as it stands; HELD means only that it was read (no decision to serve rests on a read).

        A version that is not this node's SOLO, and no older than the note, contradicts the note, which goes: a person
        may have changed the lock. Should a handler write a new note meanwhile, its loss costs one more write.
        """
        answer, _ = self._read()
        record, note = answer.record, self.note()
        if record is not None and note is not None and record.epoch >= note.epoch and not lock.held_by(record, self.me):
            with contextlib.suppress(OSError):
                self._keep_note(None)
        return answer

    def take(
        self,
        guard: Guard = no_guard,
        until: float = math.inf,
        reason: str = "taken alone",
        claim: Claim = NO_CLAIM,
    ) -> Answer:
        """F1: SHARED or own SOLO → SOLO of this node, by a fresh write in any case.

        `guard` is asked right before each write, under the local lock; a text from it is an objection: UNAVAILABLE.
        `until` (monotonic) ends every wait for the store. `reason` goes into the lock's history.
        `claim` is made for a promotion: REFUSED as well when it is too old for what was served last (F11).
        """

        def change(before: LockRecord) -> LockRecord | None:
            if lock.closed_to(before, self.me) or claim.too_old(before):
                return None
            return self._after(before, LockState.SOLO, self.me, attempt, reason, schema=claim.schema)

        attempt = _nonce()
        return self._change(change, guard, until, claim)

    def record_promotion(self, claim: Claim = NO_CLAIM) -> Answer:
        """F6: a write before a promotion beside a connected peer.

        Of two attempts at once one loses, and looks again before it asks again: the peer may be Primary by then.
        """

        def change(before: LockRecord) -> LockRecord | None:
            if lock.closed_to(before, self.me) or claim.too_old(before):
                return None
            state = LockState.SOLO if lock.held_by(before, self.me) else LockState.SHARED
            return self._after(before, state, self.me, attempt, "promotion", schema=claim.schema)

        attempt = _nonce()
        return self._change(change, no_guard, claim=claim, attempts=1)

    def release(self, guard: Guard) -> Answer:
        """F7: own SOLO → SHARED. One that was handed over is refused until the peer stays: it may be about to leave."""

        def change(before: LockRecord) -> LockRecord | None:
            if before.state is LockState.SHARED:
                return before
            if not lock.held_by(before, self.me) or lock.handed_to(before, self.me):
                return None
            return self._after(before, LockState.SHARED, self.me, attempt, "released: both are current")

        attempt = _nonce()
        return self._change(change, guard)

    def hand_over(self, guard: Guard) -> Answer:
        """F3, F4: SHARED or own SOLO → SOLO of the peer. One that is the peer's already is written anew.

        The new version makes a release of the peer that is still under way fail.
        """

        def change(before: LockRecord) -> LockRecord | None:
            if before.state is LockState.STEALING:
                return None
            return self._after(before, LockState.SOLO, self.peer, attempt, "handed over")

        attempt = _nonce()
        return self._change(change, guard)

    def stay(self, guard: Guard) -> Answer:
        """F7: own hand-over to the peer → the same, with the word that this node stays: the peer may give it back.

        A later hand-over writes another version, so a release that is under way then fails.
        """

        def change(before: LockRecord) -> LockRecord | None:
            if not lock.handed_to(before, self.peer) or before.writer != self.me:
                return None
            return self._after(before, LockState.SOLO, self.peer, attempt, "did not leave, or is back", stays=True)

        attempt = _nonce()
        return self._change(change, guard)

    def begin_override(self, epoch: int, owner: str, guard: Guard, reason: str) -> Answer:
        """F8: the version `epoch`, which names `owner` (uuid) → STEALING. From then on nobody can take the lock.

        An override that broke off is taken up the same way. HELD carries the version to hand to `end_override`.
        """

        def change(before: LockRecord) -> LockRecord | None:
            if (before.epoch, before.owner) != (epoch, owner) or not lock.closed_to(before, self.me):
                return None
            return self._after(before, LockState.STEALING, before.owner, attempt, reason)

        attempt = _nonce()
        return self._change(change, guard)

    def end_override(self, stealing: LockRecord, guard: Guard, reason: str) -> Answer:
        """F8: the very version that `begin_override` wrote → SOLO of this node; REFUSED once another stands there."""

        def change(before: LockRecord) -> LockRecord | None:
            if before.attempt_id != stealing.attempt_id:
                return None
            return self._after(before, LockState.SOLO, self.me, attempt, reason)

        attempt = _nonce()
        return self._change(change, guard)

    def undo_override(self, epoch: int, reason: str) -> Answer:
        """F8: the STEALING version `epoch` → state and owner as they were before it; nobody wrote data under it."""

        def change(before: LockRecord) -> LockRecord | None:
            former = next((one for one in reversed(before.history) if one.state is not LockState.STEALING), None)
            if (before.epoch, before.state) != (epoch, LockState.STEALING) or former is None:
                return None
            return self._after(before, former.state, former.owner, attempt, reason)

        attempt = _nonce()
        return self._change(change, no_guard)

    def accept_restored(self, stored: int, seen: int, owner: str, guard: Guard, reason: str) -> Answer:
        """F9: the store was put back from a backup and has epoch `stored`, below `seen`, the highest known here.

        A person vouches for the truth of now: SOLO of `owner` (uuid), or SHARED when that is empty. The new version has
        an epoch above both. REFUSED when either of them is another by now.
        """
        try:
            with self.local_lock(self._timeout_s):
                reading = self._backend.read(self.name, self._timeout_s)
                if reading.found is not Found.OBJECT:
                    return Answer(Held.UNAVAILABLE, text=reading.text)
                before = lock.parse(reading.body, self.resource)
                highest = self._highest_epoch()
                if (before.epoch, highest) != (stored, seen) or stored >= seen:
                    text = f"the store has epoch {before.epoch}, and the highest seen here is {highest}"
                    return Answer(Held.REFUSED, before, text)
                state = LockState.SOLO if owner else LockState.SHARED
                wanted = self._after(replace(before, epoch=seen), state, owner or self.me, _nonce(), reason)
                objection = guard()
                if objection:
                    return Answer(Held.UNAVAILABLE, before, objection)
                settled, answer, _ = self._write(wanted, reading.tag, math.inf)
                return answer if settled else Answer(Held.UNAVAILABLE, answer.record, "another write landed first")
        except (Busy, LockInvalid, OSError) as bad:
            return Answer(Held.UNAVAILABLE, text=str(bad))

    def create(self, guard: Guard) -> Answer:
        """Write the first version, SHARED; only where there is no object. An object that exists is REFUSED."""
        try:
            with self.local_lock(self._timeout_s):
                # Above what this node has seen: a lock that is made anew after a loss must not look restored (F9).
                epoch = self._highest_epoch() + 1
                record = lock.first(self.resource, me=self.me, attempt_id=_nonce(), time=time.time(), epoch=epoch)
                objection = guard()
                if objection:
                    return Answer(Held.UNAVAILABLE, text=objection)
                wrote = self._backend.write(self.name, record.to_bytes(), None, self._timeout_s)
                if wrote.written is not Written.YES:
                    seen, _ = self._read()
                    if seen.record is None or seen.record.attempt_id != record.attempt_id:
                        held = Held.REFUSED if seen.record is not None else Held.UNAVAILABLE
                        return Answer(held, seen.record, wrote.text)
                self._remember_epoch(record.epoch)
                return Answer(Held.HELD, record)
        except Busy as busy:
            return Answer(Held.UNAVAILABLE, text=str(busy))

    def conditions_hold(self) -> str:
        """Probe that the store honours conditions (F11), on an object beside the lock; return what is wrong, or ""."""
        return probe.conditions_hold(self._backend, f"{self.name}.probe", self._timeout_s)

    def note(self) -> LockRecord | None:
        """Return the confirmation of this boot that SOLO is ours, or None."""
        try:
            record = lock.parse(self._paths.note(self.resource).read_bytes(), self.resource)
        except (OSError, LockInvalid):
            return None
        return record if lock.held_by(record, self.me) else None

    @contextlib.contextmanager
    def local_lock(self, limit_s: float) -> Iterator[None]:
        """Keep every other program of this node away from the lock object.

        Raises:
            Busy: another one held on for longer than `limit_s`.
        """
        with flocked(self._paths.local_lock(self.resource), limit_s, "holds the local lock"):
            yield

    def _after(
        self,
        before: LockRecord,
        state: LockState,
        owner: str,
        attempt: str,
        reason: str,
        *,
        schema: str = "",
        stays: bool = False,
    ) -> LockRecord:
        return lock.after(
            before,
            state,
            owner=owner,
            writer=self.me,
            attempt_id=attempt,
            time=time.time(),
            reason=reason,
            schema=schema,
            stays=stays,
        )

    def _change(
        self,
        change: Change,
        guard: Guard,
        until: float = math.inf,
        claim: Claim = NO_CLAIM,
        attempts: int = ATTEMPTS,
    ) -> Answer:
        """Read, check, write on the version read; a write that lost to a newer version starts over."""
        try:
            with self.local_lock(min(4 * self._timeout_s, until - time.monotonic())):
                return self._change_locked(change, guard, until, claim, attempts)
        except Busy as busy:
            return Answer(Held.UNAVAILABLE, text=str(busy))
        except OSError as bad:
            return Answer(Held.UNAVAILABLE, text=f"local lock: {bad}")

    def _change_locked(self, change: Change, guard: Guard, until: float, claim: Claim, attempts: int) -> Answer:
        seen, tag = self._read(until)
        for _ in range(attempts):
            if seen.record is None:
                return seen
            wanted = change(seen.record)
            if wanted is None or wanted is seen.record:
                return self._nothing_to_write(seen.record, claim, refused=wanted is None)
            objection = guard()
            if objection:
                return Answer(Held.UNAVAILABLE, seen.record, objection)
            settled, seen, tag = self._write(wanted, tag, until)
            if settled:
                return seen
        return Answer(Held.UNAVAILABLE, seen.record, "other writes kept landing first")

    def _nothing_to_write(self, record: LockRecord, claim: Claim, *, refused: bool) -> Answer:
        """The version in force forbids the change, or already says what was wanted."""
        if not lock.held_by(record, self.me):
            self._keep_note(None)
        return Answer(Held.REFUSED, record, self._refusal(record, claim)) if refused else Answer(Held.HELD, record)

    def _refusal(self, record: LockRecord, claim: Claim) -> str:
        if lock.closed_to(record, self.me) or not claim.too_old(record):
            owner = {self.me: "this node", self.peer: "the other node"}.get(record.owner, record.owner)
            return f"the lock is {record.state.value} of {owner}, epoch {record.epoch}"
        return (
            f"F11: an LXD of schema {record.schema} served last, and this node's has {claim.schema}, which cannot open "
            f"such databases; install the same one here, or `{self.resource} primary --anyway`"
        )

    def _write(self, wanted: LockRecord, tag: str, until: float) -> tuple[bool, Answer, str]:
        """Write once; after anything but a clear yes look whether it landed (F9).

        Returns whether the matter is settled, the answer (or what stands there now), and the tag to go on from.
        """
        if not lock.held_by(wanted, self.me):
            # From here on the store may say something else than the note.
            self._keep_note(None)
        wrote = self._backend.write(self.name, wanted.to_bytes(), tag, self._limit(until))
        if wrote.written is Written.YES:
            return True, self._confirmed(wanted), tag
        seen, tag = self._read(until)
        if seen.record is not None and seen.record.attempt_id == wanted.attempt_id:
            return True, self._confirmed(seen.record), tag
        if wrote.written is Written.UNCLEAR:
            return True, Answer(Held.UNAVAILABLE, seen.record, wrote.text or "no clear answer", down=True), tag
        return False, seen, tag

    def _limit(self, until: float) -> float:
        return max(0.01, min(self._timeout_s, until - time.monotonic()))

    def _read(self, until: float = math.inf) -> tuple[Answer, str]:
        reading = self._backend.read(self.name, self._limit(until))
        if reading.found is not Found.OBJECT:
            missing = reading.found is Found.MISSING
            cure = f"; drbd-fence init {self.resource} makes it, once, while both sides are UpToDate" if missing else ""
            return Answer(Held.UNAVAILABLE, None, reading.text + cure, down=not missing), ""
        try:
            record = lock.parse(reading.body, self.resource)
        except LockInvalid as bad:
            return Answer(Held.UNAVAILABLE, None, str(bad)), ""
        highest = self._highest_epoch()
        if record.epoch < highest:
            return Answer(Held.UNAVAILABLE, None, _went_back(record, highest)), ""
        self._remember_epoch(record.epoch)
        return Answer(Held.HELD, record), reading.tag

    def _confirmed(self, record: LockRecord) -> Answer:
        self._remember_epoch(record.epoch)
        self._keep_note(record if lock.held_by(record, self.me) else None)
        return Answer(Held.HELD, record)

    def _keep_note(self, record: LockRecord | None) -> None:
        """Write or remove the note. A note that cannot be written only costs a later write to the store.

        Raises:
            OSError: it cannot be removed, and so must not be contradicted.
        """
        path = self._paths.note(self.resource)
        if record is None:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            return
        with contextlib.suppress(OSError):
            replace_file(path, record.to_bytes(), durable=False)

    def _highest_epoch(self) -> int:
        try:
            return int(self._paths.epoch(self.resource).read_text())
        except (OSError, ValueError):
            return 0

    def _remember_epoch(self, epoch: int) -> None:
        """Keep the highest epoch seen (F9); a full root disk must not stop a decision."""
        if epoch > self._highest_epoch():
            with contextlib.suppress(OSError):
                replace_file(self._paths.epoch(self.resource), str(epoch).encode(), durable=False)


def replace_file(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a file whole or not at all; `durable` also waits until it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{_nonce()[:8]}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        if durable:
            os.fsync(fd)
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    finally:
        os.close(fd)
    if durable:
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _nonce() -> str:
    return os.urandom(16).hex()  # not of module uuid, whose import costs a handler milliseconds


def _went_back(record: LockRecord, highest: int) -> str:
    return (
        f"the store went back: epoch {record.epoch} after {highest} (F9); if it was put back from a backup: "
        f"drbd-fence accept-restored {record.resource} --stored {record.epoch} --seen {highest}"
    )
