"""Self-removal: the node restarts at once, without sync, unmount or any program that could hang (F10)."""

from __future__ import annotations

import contextlib
import os

from hapair.decisions import DecisionLog
from hapair.paths import Paths
from hapair.watchdog import Watchdog

LOG_LIMIT_S = 0.2
"""How long the log may hold up the removal."""


class Remover:
    """Holds the sysrq trigger open from the start, so that a full or broken root disk cannot stop it."""

    def __init__(self, paths: Paths, log: DecisionLog, watchdog: Watchdog | None = None) -> None:
        self._log, self._watchdog = log, watchdog
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(paths.sysrq, os.O_WRONLY | os.O_CLOEXEC)

    @property
    def armed(self) -> bool:
        """True when the trigger could be opened."""
        return self._fd >= 0

    def remove(self, resource: str, rule: str, why: str) -> None:
        """Restart this machine now. Returns only where the trigger does nothing (tests, containers)."""
        if self._watchdog is not None:
            # Should the restart hang, the device ends the node all the same.
            self._watchdog.starve()
        self._log.add(resource, rule=rule, action="remove this node", outcome="now", why=why, durable=True)
        self._log.drain(LOG_LIMIT_S)
        with contextlib.suppress(OSError):
            os.write(self._fd, b"b")
