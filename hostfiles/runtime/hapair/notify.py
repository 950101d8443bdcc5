"""sd_notify: readiness and watchdog ticks for systemd."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(text: str) -> None:
    """Send `text` (READY=1, WATCHDOG=1, STATUS=…) to systemd, when it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.connect(address)
        out.send(text.encode())


def watchdog_pause_s() -> float | None:
    """Return how often systemd wants a tick (half of WatchdogSec), or None without a watchdog."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
