"""A person's terminal on a node: one command, a shell, or the console."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

from lab.providers.client import Connection, UmlNode

SESSION_S = 12 * 3600.0
"""A session that was forgotten ends by itself."""
CONSOLE_EVERY_S = 0.2


def shell(node: UmlNode, command: str) -> int:
    """Run one shell command on a node, or a login shell when there is none; return its exit code as a shell would.

    Raises:
        HapairError: the node is off, frozen, or does not answer.
    """
    if command:
        return _command(node, command)
    columns, rows = shutil.get_terminal_size()
    with node.terminal(["bash", "-l"], rows, columns, limit_s=SESSION_S) as connection, _raw():
        threading.Thread(target=_type_in, args=(connection,), daemon=True).start()
        with _resizing(connection):
            return _show(connection)


def _command(node: UmlNode, command: str) -> int:
    with node.command(["sh", "-c", command], SESSION_S) as connection:
        return _show(connection)


def _show(connection: Connection) -> int:
    code = 0
    for frame in connection.frames():
        for name, stream in (("out", sys.stdout.buffer), ("err", sys.stderr.buffer)):
            if name in frame:
                stream.write(base64.b64decode(frame[name]))
                stream.flush()
        code = frame.get("value", 0)
    # What a shell says of a command that a signal ended (POSIX, XCU 2.8.2).
    return 128 - code if code < 0 else code


def _type_in(connection: Connection) -> None:
    while data := os.read(sys.stdin.fileno(), 4096):
        connection.tell({"op": "data", "b": base64.b64encode(data).decode()})


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Hand every key to the node, Ctrl-C too, where standard input is a terminal."""
    fd = sys.stdin.fileno()
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _resizing(connection: Connection) -> Iterator[None]:
    def resized(*_: object) -> None:
        columns, rows = shutil.get_terminal_size()
        connection.tell({"op": "size", "rows": rows, "cols": columns})

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def console(path: Path) -> None:
    """Print a node's console file, and what is added to it, until the reader has enough (Ctrl-C)."""
    pause = threading.Event()
    with path.open("rb") as file:
        while True:
            data = file.read(65536)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if not data:
                pause.wait(CONSOLE_EVERY_S)  # a file tells nobody that it grew
