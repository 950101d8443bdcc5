"""The hardware watchdog: the deciding thread feeds it, so that a hung agent, kernel or root disk ends the node (F10).

Once opened, the device restarts the machine unless it is fed; only a letter V before the close stops that (the kernel's
Documentation/watchdog/watchdog-api.rst). An agent that crashes leaves it running, and the next one feeds it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

from hapair.paths import Paths

WDIOC_SETTIMEOUT = 0xC0045706
"""linux/watchdog.h: set the time-out in whole seconds; the device answers with the one that it took."""
SHARE = 3.0
"""Fed this often within one time-out, so that one late feeding does no harm."""


class Watchdog:
    """The device, if the site names one (`limit_s` above 0); `fault` says why it does not guard this node."""

    def __init__(self, paths: Paths, limit_s: float) -> None:
        self._fd, self._starved, self._limit_s = -1, False, limit_s
        self._fed_at = 0.0
        self.fault = self._arm(paths) if limit_s > 0 else ""

    @property
    def armed(self) -> bool:
        """True while a hung agent would end this node."""
        return self._fd >= 0

    def feed(self, now: float) -> float | None:
        """Feed it when that is due (monotonic seconds); return when it is due again, or None without a device."""
        if not self.armed:
            return None
        if now >= self._fed_at + self._limit_s / SHARE and not self._starved:
            with contextlib.suppress(OSError):
                os.write(self._fd, b".")
            self._fed_at = now
        return self._fed_at + self._limit_s / SHARE

    def starve(self) -> None:
        """Feed it no more: this node is to go, whatever else hangs."""
        self._starved = True

    def release(self) -> None:
        """Stop the device: nothing of this node's is to be guarded any more."""
        if self.armed and not self._starved:
            with contextlib.suppress(OSError):
                os.write(self._fd, b"V")
            os.close(self._fd)
            self._fd = -1

    def _arm(self, paths: Paths) -> str:
        try:
            self._fd = os.open(paths.watchdog, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as bad:
            return f"F10 watchdog: {paths.watchdog}: {bad.strerror}; load its module (softdog, if the board has none)"
        try:
            taken = fcntl.ioctl(self._fd, WDIOC_SETTIMEOUT, struct.pack("i", max(1, int(self._limit_s))))
            seconds: int = struct.unpack("i", taken)[0]
        except OSError as bad:
            self.release()
            return f"F10 watchdog: {paths.watchdog} takes no time-out: {bad.strerror}"
        if seconds > self._limit_s:
            self.release()
            return f"F10 watchdog: it takes {seconds} s at least, but watchdog_s is {self._limit_s:g}"
        return ""
