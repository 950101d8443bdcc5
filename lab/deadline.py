"""One kind of time limit: a moment on the monotonic clock that is handed down, never restarted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from lab.errors import BadInput, TimedOut

T = TypeVar("T")


def time_scale() -> float:
    """Return the one multiplier of every time limit (HAPAIR_TIME_SCALE, default 1), for slow machines.

    Raises:
        BadInput: the variable is not a number of at least 0.1.
    """
    text = os.environ.get("HAPAIR_TIME_SCALE", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0.1 <= scale < 1000:
        raise BadInput(f"HAPAIR_TIME_SCALE={text!r} is not a number from 0.1 to 1000", "unset it, or set it to 2 or 3")
    return scale


@dataclass(frozen=True)
class Deadline:
    """A point in time (seconds of `time.monotonic`) by which something must have happened."""

    at_s: float

    @classmethod
    def after(cls, limit_s: float) -> Deadline:
        """Return the deadline `limit_s` seconds from now, stretched by `time_scale`."""
        return cls(time.monotonic() + limit_s * time_scale())

    @property
    def left_s(self) -> float:
        """Seconds that remain, never below zero."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        """True once nothing remains."""
        return self.left_s <= 0.0


def wait_until(what: str, probe: Callable[[], T | None], deadline: Deadline, *, pause_s: float = 0.05) -> T:
    """Call `probe` until it returns something true, and return that.

    For conditions that no event announces. `what` completes the sentence "timed out waiting until …".

    Raises:
        TimedOut: the deadline passed first; the text carries the last thing `probe` returned.
    """
    while True:
        seen = probe()
        if seen:
            return seen
        if deadline.passed:
            raise TimedOut(f"timed out waiting until {what}; last seen: {seen!r}")
        # No event announces what `probe` looks at; the pause is the polling interval.
        time.sleep(min(pause_s, deadline.left_s))
