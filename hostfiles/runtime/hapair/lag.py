"""How long an event of DRBD waits for its decision, and where that time goes."""

from __future__ import annotations

import time
from typing import Any

from hapair.events import told_at

LATE_S = 0.05
"""From an event of DRBD to the decision: longer than this, and than ever before, is told in the log."""
LONGEST_S = 60.0
"""What seems longer was no waiting: the clock was set meanwhile."""


class Lag:
    """Times the events that wait for a decision; the oldest of them counts."""

    def __init__(self) -> None:
        self._told_at: float | None = None
        self._read_at = self._worked_s = 0.0
        self.last_s = self.worst_s = 0.0
        self._late = self._decided = 0

    def told(self, line: str) -> None:
        """Take note of a line of drbdsetup, just read."""
        if self._told_at is None:
            self._told_at, self._read_at, self._worked_s = told_at(line), time.time(), time.thread_time()

    def decided(self) -> str:
        """End the waiting; return what the log shall say of it: something if it was late, and later than ever before.

        Three parts: until drbdsetup's line was read, what this thread worked, and the rest: others had the processor.
        """
        if self._told_at is None:
            return ""
        lag_s, told_s = time.time() - self._told_at, self._read_at - self._told_at
        self._told_at = None
        if not 0 <= lag_s < LONGEST_S:
            return ""
        before_s, self.last_s, self.worst_s = self.worst_s, lag_s, max(lag_s, self.worst_s)
        self._decided += 1
        self._late += lag_s > LATE_S
        if lag_s <= max(LATE_S, before_s):
            return ""
        worked_s = time.thread_time() - self._worked_s
        held_s = max(lag_s - told_s - worked_s, 0.0)  # the clocks of processes and of the wall round differently
        parts = f"{_ms(told_s)} until it was read, {_ms(worked_s)} at work, {_ms(held_s)} held up"
        return f"{_ms(lag_s)} ms after DRBD told the event: {parts}"

    def report(self) -> dict[str, Any]:
        """Return what `hapair status --json` tells: milliseconds, and how many decisions upon events were late."""
        last, worst = round(self.last_s * 1000, 1), round(self.worst_s * 1000, 1)
        return {"last": last, "worst": worst, "decided": self._decided, "late": self._late}


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"
