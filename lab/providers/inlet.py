"""A port of the loopback address at which a machine's QEMU calls, and nobody else may. Lives inside the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from lab.errors import HostLacks
from lab.providers.cable import LOOPBACK

CHUNK_BYTES = 64 << 10


class Inlet:
    """One listening port."""

    def __init__(
        self, port: int, users: Callable[[], Collection[int]], on_call: Callable[[socket.socket], None]
    ) -> None:
        """`users`: whose programs may call; `on_call` gets each connection, and closes it."""
        self._port, self._users, self._on_call = port, users, on_call
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Listen.

        Raises:
            HostLacks: another program has taken the port.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, self._port))
        except OSError as error:
            listener.close()
            raise HostLacks(
                f"port {self._port} of {LOOPBACK} cannot be used: {error.strerror}",
                "invoke lab.destroy, then invoke lab.up: it takes other ports",
            ) from None
        listener.listen(4)
        listener.setblocking(False)
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    def close(self) -> None:
        """Stop listening."""
        if self._listener:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()

    def _accept(self) -> None:
        if self._listener is None:
            return
        sock, address = self._listener.accept()
        if owner(address) not in self._users():
            sock.close()
            return
        self._on_call(sock)


class Transcript:
    """Writes what a machine's console says to the end of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sock: socket.socket | None = None

    def take(self, sock: socket.socket) -> None:
        """Listen to this connection from now on; what the one before still has to say is written first."""
        self.close()
        sock.setblocking(False)
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._read)

    def close(self) -> None:
        """Write what has come, and hang up."""
        while self._sock:
            self._read(hang_up=True)

    def _read(self, *, hang_up: bool = False) -> None:
        if self._sock is None:
            return
        data = b""
        try:
            data = self._sock.recv(CHUNK_BYTES)
        except BlockingIOError:
            if not hang_up:
                return
        except OSError:  # reset by a QEMU that was killed
            pass
        if data:
            with self._path.open("ab") as file:
                file.write(data)
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._sock = None


def owner(address: tuple[str, int]) -> int | None:
    """Return the user whose program has connected from a loopback address (proc(5), /proc/net/tcp)."""
    host = "".join(f"{int(part):02X}" for part in reversed(address[0].split(".")))
    wanted = f"{host}:{address[1]:04X}"
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted:
            return int(fields[7])
    return None


def owner_of_process(pid: int) -> int | None:
    """Return the user that a process runs as; None: it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None
