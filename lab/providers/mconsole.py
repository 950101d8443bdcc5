"""Client of a UML kernel's management console: a datagram socket that works when nothing in the node does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import tempfile
from pathlib import Path

from lab.errors import HapairError

# arch/um/drivers/mconsole.h
MAGIC, VERSION, MAX_DATA = 0xCAFEBABE, 2, 512
REPLY = struct.Struct("=III")


async def command(path: Path, text: str, *, limit_s: float = 5.0) -> str:
    """Send one command (`sysrq s`, `config ubdd=file`, …) and return the kernel's answer.

    Raises:
        HapairError: the kernel refused, or did not answer in time (frozen, or hung).
    """
    data = text.encode()
    if len(data) >= MAX_DATA:
        raise HapairError(f"mconsole command of {len(data)} bytes: the kernel takes {MAX_DATA - 1}")
    loop = asyncio.get_running_loop()
    # The kernel answers to a name, so this end needs one; reached through descriptors, long folders do no harm.
    with tempfile.TemporaryDirectory(dir=path.parent.parent, prefix="mc-") as own, contextlib.ExitStack() as stack:
        ours, theirs = (_opened(stack, folder) for folder in (Path(own), path.parent))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.bind(f"/proc/{os.getpid()}/fd/{ours}/s")
        answer: list[str] = []
        try:
            async with asyncio.timeout(limit_s):
                await loop.sock_sendto(
                    sock, struct.pack("=III", MAGIC, VERSION, len(data)) + data, f"/proc/self/fd/{theirs}/{path.name}"
                )
                while True:
                    reply = await loop.sock_recv(sock, REPLY.size + MAX_DATA)
                    error, more, length = REPLY.unpack_from(reply)
                    answer.append(reply[REPLY.size :][:length].rstrip(b"\0").decode(errors="replace"))
                    if error:
                        raise HapairError(f"{path.parent.name}: {text}: {''.join(answer)}")
                    if not more:
                        return "".join(answer)
        except TimeoutError:
            raise HapairError(f"{path.parent.name}: the kernel did not answer {text!r} in {limit_s:g} s") from None
        except OSError as error:
            raise HapairError(f"{path.parent.name}: no management console: {error.strerror}") from None


def _opened(stack: contextlib.ExitStack, folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, fd)
    return fd
