"""A thread that carries out one resource's action lists, one list at a time."""

from __future__ import annotations

import queue
import threading
import time
from typing import Callable

from hapair.actions import Action, Outcome, Verdict
from hapair.executor import Executor


class Lane(threading.Thread):
    """Runs action lists of one resource, one at a time, and tells about each outcome and about the end."""

    def __init__(
        self, name: str, executor: Executor, told: Callable[[Outcome], None], idle: Callable[[], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.busy = False
        self._executor, self._told, self._idle = executor, told, idle
        self._lists: queue.Queue[tuple[Action, ...]] = queue.Queue()

    def start_list(self, actions: tuple[Action, ...]) -> None:
        """Begin a list; only called while the lane is not busy, by the deciding thread."""
        self.busy = True
        self._lists.put(actions)

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            for action in self._lists.get():
                outcome = self._run_one(action)
                self._told(outcome)
                if outcome.verdict is not Verdict.DONE:
                    break
            self._idle()

    def _run_one(self, action: Action) -> Outcome:
        began = time.monotonic()
        try:
            return self._executor.run(action)
        except Exception as bug:
            # The executor raises nothing; should it do so after all, a dead lane would mean no failover.
            return Outcome(action, Verdict.FAILED, began, f"{type(bug).__name__}: {bug}")
