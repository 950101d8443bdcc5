"""The lock store of the world model, in memory: it can be down, slow, or lose its reply."""

from __future__ import annotations

from hapair.fence.base import Found, Reading, Writing, Written
from hapair.lock import LockRecord, parse


class Broken(AssertionError):
    """An invariant does not hold."""


class MemoryStore:
    """A `Backend` in memory. `down`: no answer. `lose_reply`: the write happens, nobody hears. `late`: lands later."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.down = False
        self.lose_reply = False
        self.late = False
        self.pending: list[tuple[bytes, str | None]] = []
        self.history: list[LockRecord] = []

    @property
    def record(self) -> LockRecord:
        """The lock as it stands."""
        assert self.body is not None
        return parse(self.body, "r0")

    def read(self, name: str, limit_s: float) -> Reading:
        """Answer at once; there is one object, and no time."""
        del name, limit_s
        if self.down:
            return Reading(Found.UNAVAILABLE, text="down")
        if self.body is None:
            return Reading(Found.MISSING, text="missing")
        return Reading(Found.OBJECT, self.body, self._tag())

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """Write under the condition, or fail as told."""
        del name, limit_s
        if self.down:
            return Writing(Written.UNCLEAR, "down")
        if self.late:
            self.late = False
            self.pending.append((body, tag))
            return Writing(Written.UNCLEAR, "no reply yet")
        done = self._put(body, tag)
        if self.lose_reply:
            self.lose_reply = False
            return Writing(Written.UNCLEAR, "reply lost")
        return Writing(Written.YES if done else Written.CONFLICT)

    def land(self) -> None:
        """Let the oldest late write arrive; its condition is judged now."""
        if self.pending:
            self._put(*self.pending.pop(0))

    def _put(self, body: bytes, tag: str | None) -> bool:
        if (tag is None and self.body is not None) or (tag is not None and tag != self._tag()):
            return False
        self.body = body
        record = self.record
        if self.history and record.epoch <= self.history[-1].epoch:
            raise Broken(f"epoch did not grow: {self.history[-1]} -> {record}")
        self.history.append(record)
        return True

    def _tag(self) -> str:
        return f'"{hash(self.body)}"'
