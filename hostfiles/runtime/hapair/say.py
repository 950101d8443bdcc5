"""What commands print: results on standard output, complaints on standard error."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def complain(text: str, code: int) -> int:
    """Print a complaint and return the exit code that goes with it."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
    return code


def typed(wanted: str, given: str | None, prompt: str) -> bool:
    """True when a person typed `wanted`: in `given`, or (None) at the terminal, if there is one."""
    if given is None:
        if not sys.stdin.isatty():
            return False
        say(prompt)
        given = sys.stdin.readline().strip()
    return given == wanted
