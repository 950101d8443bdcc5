"""What a node's console tells: how it ended, how it runs its processes, its last words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Ending = Literal["restart", "power-off", "panic", "died"]

# kernel/reboot.c, drivers/tty/sysrq.c and kernel/panic.c of Linux 7.2; the last of these lines decides.
MARKS: tuple[tuple[str, Ending], ...] = (
    ("reboot: Restarting system", "restart"),
    ("sysrq: Resetting", "restart"),
    ("reboot: Power down", "power-off"),
    ("reboot: System halted", "power-off"),
    ("Kernel panic - not syncing", "panic"),
)
# arch/um/os-Linux/start_up.c
SECCOMP_CHECK = "Checking that seccomp filters can be installed..."
LAST_LINES = 12
TAIL_BYTES = 64 << 10


def ending(text: str) -> Ending:
    """Return why a kernel ended, judged by the console text of that run."""
    found: Ending = "died"
    for line in text.splitlines():
        for mark, meaning in MARKS:
            if mark in line:
                found = meaning
    return found


def mode(text: str) -> str:
    """Return how the node's user processes are run: "seccomp", "ptrace" or "" (the kernel did not say yet)."""
    _, found, rest = text.partition(SECCOMP_CHECK)
    if not found or "\n" not in rest:
        return ""
    return "seccomp" if rest.startswith("OK") else "ptrace"


def head(path: Path, start_bytes: int, limit_bytes: int = 4096) -> str:
    """Return the first part of a console's text from an offset on."""
    with path.open("rb") as file:
        file.seek(start_bytes)
        return file.read(limit_bytes).decode(errors="replace")


def end(path: Path, start_bytes: int) -> str:
    """Return the last part of a console's text, but nothing before an offset."""
    with path.open("rb") as file:
        file.seek(max(start_bytes, os.fstat(file.fileno()).st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def tail(path: Path, lines: int = LAST_LINES) -> str:
    """Return the last lines of a console, "" if there is none."""
    try:
        return "\n".join(end(path, 0).splitlines()[-lines:])
    except FileNotFoundError:
        return ""
