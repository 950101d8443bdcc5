"""The host's end of the control line against the real agent, run as a process of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
import tty
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lab import paths, proc
from lab.errors import HapairError
from lab.providers.control import WINDOW_BYTES, ControlLine

AGENT = paths.PROJECT / "hostfiles/lab/control.py"

pytestmark = pytest.mark.spawns


class Node:
    """An agent, and the line to it."""

    def __init__(self, folder: Path, line: socket.socket, device: str, fds: tuple[int, ...] = ()) -> None:
        self.share = folder / "share"
        self.share.mkdir()
        self.readies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.line = ControlLine(
            "n1", line, self.share, on_ready=self.readies.put_nowait, loop=asyncio.get_running_loop()
        )
        self._command: list[str | Path] = [sys.executable, "-IS", AGENT, device, self.share]
        self._fds = fds
        self.start()

    def start(self) -> None:
        self.agent = proc.spawn(self._command, pass_fds=self._fds)

    async def restart(self) -> None:
        self.kill()
        self.start()
        await asyncio.wait_for(self.readies.get(), 10)

    def kill(self) -> None:
        proc.kill_group(self.agent)
        self.agent.wait()


@contextlib.asynccontextmanager
async def node(folder: Path) -> AsyncIterator[Node]:
    ours, theirs = socket.socketpair()
    with theirs:
        made = Node(folder, ours, f"fd:{theirs.fileno()}", (theirs.fileno(),))
        try:
            await asyncio.wait_for(made.readies.get(), 10)
            yield made
        finally:
            made.kill()
            made.line.close("the test is over")


def test_a_command_gives_output_error_and_code(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            done = await made.line.run(["sh", "-c", "echo out; echo err >&2; exit 3"], limit_s=10)
            assert (done.code, done.stdout, done.stderr) == (3, b"out\n", b"err\n")

    asyncio.run(body())


def test_binary_data_passes_both_ways(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            data = os.urandom(3_000_000)
            assert (await made.line.run(["cat"], limit_s=20, stdin=data)).stdout == data
            await made.line.put(data, str(tmp_path / "new/folder/file"), 0o640)
            assert (tmp_path / "new/folder/file").read_bytes() == data
            assert (tmp_path / "new/folder/file").stat().st_mode & 0o777 == 0o640
            assert await made.line.get(str(tmp_path / "new/folder/file")) == data
            assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["file"]
            assert list(made.share.iterdir()) == []

    asyncio.run(body())


def test_commands_run_side_by_side(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def body() -> None:
        async with node(tmp_path) as made:
            reader = asyncio.create_task(made.line.run(["cat", str(fifo)], limit_s=10))
            writer = made.line.run(["sh", "-c", f"echo met > {fifo}"], limit_s=10)
            done = await asyncio.gather(reader, writer)
            assert done[0].stdout == b"met\n"

    asyncio.run(body())


def test_many_long_frames_never_exceed_the_window(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            words = [f"{number:04}" + "x" * 2 * WINDOW_BYTES for number in range(20)]
            done = await asyncio.gather(*(made.line.run(["echo", "-n", word], limit_s=10) for word in words))
            assert [one.text for one in done] == words
            assert made.line._under_way == 0

    asyncio.run(body())


def test_the_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            done = await made.line.run(["sh", "-c", "echo $$; sleep 100 & wait"], limit_s=0.3)
            assert done.code == -signal.SIGTERM
            with pytest.raises(ProcessLookupError):
                while True:  # the group's other member may take a moment to die
                    os.killpg(int(done.stdout), 0)
                    await asyncio.sleep(0.01)

    asyncio.run(body())


def test_what_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            done = await made.line.run(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], limit_s=0.2)
            assert done.code == -signal.SIGKILL
            assert (await made.line.run(["true"], limit_s=5)).code == 0

    asyncio.run(body())


def test_leaving_a_command_ends_it_in_the_node(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            async with made.line.command(["sh", "-c", "echo $$; exec sleep 100"], limit_s=50) as job:
                async for _, data in job:
                    pid = int(data)
                    break
            with pytest.raises(ProcessLookupError):
                while True:
                    os.kill(pid, 0)
                    await asyncio.sleep(0.01)

    asyncio.run(body())


def test_a_daemon_left_behind_does_not_hold_the_command_up(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            done = await made.line.run(["sh", "-c", "sleep 100 & echo $!"], limit_s=5)
            os.kill(int(done.stdout), signal.SIGKILL)
            assert done.code == 0

    asyncio.run(body())


def test_a_missing_program_is_reported_as_a_shell_would(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            done = await made.line.run(["hapair-no-such-program"], limit_s=5)
            assert (done.code, done.stderr) == (127, b"hapair-no-such-program: not found\n")

    asyncio.run(body())


@pytest.mark.parametrize("op", ["get", "put"])
def test_a_file_that_cannot_be_is_an_error_with_its_name(tmp_path: Path, op: str) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            with pytest.raises(HapairError, match=rf"n1: {op}: .*/proc/none"):
                if op == "get":
                    await made.line.get("/proc/none/file")
                else:
                    await made.line.put(b"x", "/proc/none/file", 0o644)

    asyncio.run(body())


def test_a_put_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()

    async def body() -> None:
        async with node(tmp_path) as made:
            with pytest.raises(HapairError, match="directory"):
                await made.line.put(b"x", str(tmp_path / "folder"), 0o644)

    asyncio.run(body())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "share"]


def test_an_agent_that_starts_anew_fails_the_old_jobs_and_serves_new_ones(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            job = made.line.start("run", argv=["sleep", "100"], limit=5)
            made.line.send({"id": 999, "op": "half a line that its reader never ends"})
            await made.restart()
            with pytest.raises(HapairError, match="started anew"):
                await job.finish()
            assert (await made.line.run(["echo", "again"], limit_s=5)).stdout == b"again\n"

    asyncio.run(body())


def test_noise_on_the_line_is_ignored_in_both_directions(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            for noise in (b"[  1.2] boot message\n", b'{"half": \n', b"\xff\xfe\n", b"[]\n", b'{"id": 7}\n', b"\n"):
                made.line._pending += noise
                made.line._obey(noise)
            assert (await made.line.run(["echo", "clear"], limit_s=5)).stdout == b"clear\n"

    asyncio.run(body())


def test_nothing_is_sent_before_the_agent_has_answered(tmp_path: Path) -> None:
    async def body() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            line = ControlLine("n1", ours, tmp_path, on_ready=lambda _: None, loop=asyncio.get_running_loop())
            with pytest.raises(HapairError, match="n1 is not ready"):
                line.start("run", argv=["true"], limit=1)
            line.close("over")

    asyncio.run(body())


def test_a_terminal_of_its_own(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            async with made.line.job("pty", argv=["sh"], rows=33, cols=99, limit=10) as job:
                job.tell("data", b="c3R0eSBzaXplOyB0dHk7IHBzIC1vIHRwZ2lkPSAtcCAkJDsgZXhpdCA1Cg==")
                code, out, _ = await job.finish()
            assert code == 5
            assert b"33 99" in out
            assert b"/dev/pts/" in out

    asyncio.run(body())


def test_the_same_over_a_real_terminal_line(tmp_path: Path) -> None:
    """A line that echoes and edits until the agent has made it raw, as a serial line does at boot."""

    async def body() -> None:
        ours, theirs = os.openpty()
        name = os.ttyname(theirs)
        tty.setraw(ours)
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, lambda: far.sendall(os.read(ours, 65536)))
        loop.add_reader(far, lambda: os.write(ours, far.recv(65536)))
        made = Node(tmp_path, near, name)
        try:
            await asyncio.wait_for(made.readies.get(), 10)
            data = bytes(range(256)) * 500
            assert (await made.line.run(["cat"], limit_s=10, stdin=data)).stdout == data
        finally:
            loop.remove_reader(ours)
            loop.remove_reader(far)
            made.kill()
            made.line.close("the test is over")
            far.close()
            os.close(ours)
            os.close(theirs)

    asyncio.run(body())


def test_ready_tells_which_boot_it_is(tmp_path: Path) -> None:
    async def body() -> None:
        async with node(tmp_path) as made:
            made.kill()
            made.start()
            ready = await asyncio.wait_for(made.readies.get(), 10)
            assert ready["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            assert ready["uptime_s"] > 0

    asyncio.run(body())


def test_without_a_share_whole_files_go_over_the_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        readies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        folder = tmp_path / "own"
        folder.mkdir()
        line = ControlLine("n1", ours, None, on_ready=readies.put_nowait, loop=asyncio.get_running_loop())
        command: list[str | Path] = [sys.executable, "-IS", AGENT, f"fd:{theirs.fileno()}", folder]
        agent = proc.spawn(command, pass_fds=(theirs.fileno(),))
        theirs.close()
        try:
            first = await asyncio.wait_for(readies.get(), 10)
            data = os.urandom(300_000)
            await line.put(data, str(tmp_path / "file"), 0o600)
            assert (tmp_path / "file").read_bytes() == data
            assert await line.get(str(tmp_path / "file")) == data
            done = await line.run(["wc", "-c"], limit_s=10, stdin=data)
            assert done.text == "300000"
            assert abs(await line.clock() - time.time()) < 5
            line.renew()
            assert not line.ready
            assert await asyncio.wait_for(readies.get(), 10) == first
            assert (await line.run(["true"], limit_s=10)).code == 0
            await line.clock()  # what was sent before it has been obeyed by then
            assert list(folder.iterdir()) == []
        finally:
            line.close("over")
            proc.kill_group(agent)
            agent.wait()

    asyncio.run(scenario())
