"""A time limit for calls that have none of their own: name resolution, a server that dribbles, an SDK's inner steps."""

from __future__ import annotations

import threading
import time
from typing import Callable, Generic, List, TypeVar

Result = TypeVar("Result")

_call = threading.local()


class Late(Exception):
    """The limit has passed. What was asked for may still happen."""


class _Worker(threading.Thread, Generic[Result]):
    """One call in a thread of its own."""

    def __init__(self, call: Callable[[], Result], due: float) -> None:
        super().__init__(name="fence-store", daemon=True)
        self._call, self._due = call, due
        self.results: List[Result] = []
        self.error: BaseException | None = None

    def run(self) -> None:
        _call.due = self._due
        try:
            self.results.append(self._call())
        except BaseException as error:  # it is raised again, in the thread that waits
            self.error = error


def within(limit_s: float, call: Callable[[], Result]) -> Result:
    """Return what `call` returns, or raise what it raises, if it ends in time.

    A call that does not is left to itself in a daemon thread; it should ask `left_s` before each step with an effect.

    Raises:
        Late: it did not end within `limit_s`.
    """
    worker = _Worker(call, time.monotonic() + limit_s)
    worker.start()
    worker.join(max(0.0, limit_s))
    if worker.error is not None:
        raise worker.error
    if not worker.results:
        raise Late(f"no answer within {limit_s:.3g} s")
    return worker.results[0]


def left_s() -> float:
    """Return the seconds left to the call that this thread works on.

    Raises:
        Late: there are none, and nobody waits for the call any more.
    """
    left = float(_call.due) - time.monotonic()
    if left <= 0:
        raise Late("nobody waits for this any more")
    return left
