"""The management console's client against a stand-in for the kernel's end."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path

import pytest

from lab.errors import HapairError
from lab.providers import mconsole


def ask(folder: Path, command: str, replies: list[tuple[int, int, bytes]], limit_s: float = 5.0) -> tuple[str, bytes]:
    """Send a command to a socket that answers with `replies`; return the answer and what the socket got."""
    (folder / "run/n1").mkdir(parents=True)
    path = folder / "run/n1/mconsole"

    async def body() -> tuple[str, bytes]:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kernel:
            here = os.open(path.parent, os.O_RDONLY)
            kernel.bind(f"/proc/self/fd/{here}/mconsole")
            os.close(here)
            kernel.setblocking(False)
            got: list[bytes] = []

            def answer() -> None:
                data, sender = kernel.recvfrom(1000)
                got.append(data)
                for error, more, text in replies:
                    kernel.sendto(struct.pack("=III", error, more, len(text)) + text, sender)

            loop.add_reader(kernel, answer)
            try:
                return await mconsole.command(path, command, limit_s=limit_s), got[0]
            finally:
                loop.remove_reader(kernel)

    try:
        return asyncio.run(body())
    finally:
        assert [entry.name for entry in (folder / "run").iterdir()] == ["n1"], "its own socket left behind"


def test_an_answer_may_come_in_parts_and_from_a_deep_folder(tmp_path: Path) -> None:
    answer, got = ask(tmp_path / ("x" * 100), "proc uptime", [(0, 1, b"1.5 \0"), (0, 0, b"0.5\n\0")])
    assert answer == "1.5 0.5\n"
    assert got == struct.pack("=III", 0xCAFEBABE, 2, 11) + b"proc uptime"


def test_a_refusal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HapairError, match="n1: remove ubda: Device is currently open"):
        ask(tmp_path, "remove ubda", [(1, 0, b"Device is currently open\0")])


def test_silence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HapairError, match=r"n1: the kernel did not answer 'sysrq s' in 0\.05 s"):
        ask(tmp_path, "sysrq s", [], limit_s=0.05)


def test_no_console_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "run/n1").mkdir(parents=True)
    with pytest.raises(HapairError, match="n1: no management console"):
        asyncio.run(mconsole.command(tmp_path / "run/n1/mconsole", "sysrq s"))


def test_a_command_that_the_kernel_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HapairError, match="the kernel takes 511"):
        asyncio.run(mconsole.command(tmp_path / "n1/mconsole", "x" * 512))
