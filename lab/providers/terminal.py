"""A node's shell and console in the user's own terminal."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path

from lab.errors import BadInput
from lab.providers import console as console_text
from lab.providers.client import Connection, RunningNode

SESSION_LIMIT_S = 24 * 3600.0
POLL_S = 0.1
CONSOLE_LINES = 50


def shell(node: RunningNode, command: str) -> int:
    """Run a shell command in a node, or an interactive shell if there is none; return its exit code.

    It gets a terminal of its own when this process has one, as with ssh -t.

    Raises:
        BadInput: there is neither a command nor a terminal.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if not command and not interactive:
        raise BadInput("a shell needs a terminal, and standard input is none", "give a command after --")
    argv = ["sh", "-c", command] if command else ["bash", "-l"]
    if not interactive:
        with node.start(argv, limit_s=SESSION_LIMIT_S) as connection:
            return _pass_on(connection)
    columns, rows = os.get_terminal_size(sys.stdin.fileno())
    with node.terminal(argv, rows, columns, limit_s=SESSION_LIMIT_S) as connection, _typing(connection):
        return _pass_on(connection)


def console(path: Path) -> None:
    """Show the last lines of a node's console, and what it says from now on, until Ctrl-C."""
    sys.stdout.write(console_text.tail(path, CONSOLE_LINES) + "\n")
    with contextlib.suppress(KeyboardInterrupt), path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        while True:
            _write(sys.stdout.fileno(), file.read())
            # Nothing tells that a file has grown: the pause is the polling interval.
            time.sleep(POLL_S)


def _pass_on(connection: Connection) -> int:
    code = 0
    for frame in connection.frames():
        for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
            if name in frame:
                _write(stream.fileno(), base64.b64decode(frame[name]))
        code = frame.get("value", {"code": 0})["code"]
    return code if code >= 0 else 128 - code  # as a shell reports a signal


@contextlib.contextmanager
def _typing(connection: Connection) -> Iterator[None]:
    """Send what is typed, and the size of the window whenever it changes."""
    here = sys.stdin.fileno()
    before = termios.tcgetattr(here)
    lock = threading.Lock()

    def tell(op: str, **fields: object) -> None:
        with lock:
            connection.tell({"op": op, **fields})

    def type_in() -> None:
        with contextlib.suppress(Exception):  # the session is over: nobody is left to tell
            while data := os.read(here, 256):
                tell("data", b=base64.b64encode(data).decode())

    def resize(*_: object) -> None:
        columns, rows = os.get_terminal_size(sys.stdin.fileno())
        tell("size", rows=rows, cols=columns)

    old_handler = signal.signal(signal.SIGWINCH, resize)
    try:
        tty.setraw(here, termios.TCSANOW)  # what was typed already counts
        threading.Thread(target=type_in, daemon=True).start()
        yield
    finally:
        termios.tcsetattr(here, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, old_handler)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
