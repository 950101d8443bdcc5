"""The host's end of a node's control line: many jobs side by side over one serial line, no network needed.

The other end, and the description of the frames, is hostfiles/lab/control.py.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from lab.errors import HapairError
from lab.proc import Completed
from lab.providers.base import Frame

WINDOW_BYTES = 1536
"""Bytes under way to the node that it has not acknowledged. A node's line stalls for good when its reader falls 3968
bytes behind (see hostfiles/lab/control.py); twice this, for an agent that restarts, stays below."""
ROOMY_WINDOW_BYTES = 1 << 20
"""The same for a line that has room and does not stall: a virtual machine's."""
CHUNK_BYTES = 48 << 10
"""Of a file that goes over the line, a frame."""
HELD_BYTES = 64 << 20
"""Output of one job that may wait for a slow reader."""


class Job:
    """One command, file or terminal in the node. Iterating yields its output; then `code` is set."""

    def __init__(self, line: ControlLine, number: int) -> None:
        self.number = number
        self.code = 0
        self._line = line
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._held_bytes = 0
        self._over = False

    async def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        while True:
            kind, value = await self._events.get()
            if kind == "end":
                self.code = int(value)
                return
            if kind == "fail":
                raise HapairError(f"{self._line.node}: {value}")
            self._held_bytes -= len(value)
            yield kind, value

    def tell(self, op: str, **fields: object) -> None:
        """Send the node a later frame about this job."""
        if not self._over:
            self._line.send({"id": self.number, "op": op, **fields})

    def kill(self) -> None:
        """End it in the node: its process group gets SIGTERM, and two seconds later SIGKILL."""
        self.tell("kill")

    def event(self, frame: Frame) -> None:
        """Take what the node says about this job."""
        for kind in ("end", "fail"):
            if kind in frame and not self._over:
                self._over = True
                self._events.put_nowait((kind, frame[kind]))
        for kind in ("out", "err"):
            if kind in frame and not self._over:
                data = base64.b64decode(frame[kind])
                self._held_bytes += len(data)
                self._events.put_nowait((kind, data))
        if self._held_bytes > HELD_BYTES:
            self.kill()
            self.event({"fail": "it printed more than its reader took"})

    async def finish(self) -> tuple[int, bytes, bytes]:
        """Return exit code, standard output and standard error once it has ended."""
        parts: dict[str, list[bytes]] = {"out": [], "err": []}
        async for stream, data in self:
            parts[stream].append(data)
        return self.code, b"".join(parts["out"]), b"".join(parts["err"])


class ControlLine:
    """One node's line, for one run of its kernel.

    Whole files go through `share`, a folder of this machine that the node sees; without one they go over the line.
    """

    def __init__(
        self,
        node: str,
        sock: socket.socket,
        share: Path | None,
        *,
        on_ready: Callable[[Frame], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.node = node
        self._sock = sock
        self._share = share
        self._on_ready = on_ready
        self._loop = loop
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        self._rest = b""
        self._pending = bytearray()
        self._under_way = 0
        self._window_bytes = WINDOW_BYTES if share else ROOMY_WINDOW_BYTES
        self._agent: Frame = {}
        self.ready = False
        sock.setblocking(False)
        loop.add_reader(sock, self._read)

    def lost(self, why: str) -> None:
        """The agent is gone for now: every job fails with `why`, and the next `ready` makes the line usable again."""
        self.ready = False
        self._fail_all(why)

    def renew(self) -> None:
        """Begin anew with a node that was put back to an earlier state: its agent says again that it is ready."""
        self.ready = False
        self._fail_all(f"{self.node} was put back to an earlier state")
        self._pending.clear()
        self._under_way = 0
        self._rest = b""
        self.send({"id": next(self._numbers), "op": "hello"})

    def close(self, why: str) -> None:
        """Give up the line; every job fails with `why`."""
        self.ready = False
        self._loop.remove_reader(self._sock)
        self._sock.close()
        self._fail_all(why)

    def start(self, op: str, **fields: object) -> Job:
        """Start a job.

        Raises:
            HapairError: the agent in the node does not answer (yet).
        """
        self._require_ready()
        job = Job(self, next(self._numbers))
        self._jobs[job.number] = job
        self.send({"id": job.number, "op": op, **fields})
        return job

    @contextlib.asynccontextmanager
    async def job(self, op: str, **fields: object) -> AsyncIterator[Job]:
        """Start a job, and end it in the node if the caller leaves early."""
        job = self.start(op, **fields)
        try:
            yield job
        finally:
            if job.number in self._jobs:
                job.kill()

    async def run(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"") -> Completed:
        """Run a command to its end; at the limit its process group is killed."""
        async with self.command(argv, limit_s=limit_s, stdin=stdin) as job:
            return Completed(tuple(argv), *await job.finish())

    @contextlib.asynccontextmanager
    async def command(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"") -> AsyncIterator[Job]:
        """Start a command whose output the caller iterates over."""
        async with self._shared(stdin) as name:
            given = {"stdin": name} if stdin else {}
            async with self.job("run", argv=list(argv), limit=limit_s, **given) as job:
                yield job

    async def put(self, data: bytes, path: str, mode: int) -> None:
        """Write a whole file in the node, atomically.

        Raises:
            HapairError: the node could not.
        """
        async with self._shared(data) as name:
            await self._copy("put", path, mode=mode, **{"from": name})

    async def get(self, path: str) -> bytes:
        """Return a whole file of the node.

        Raises:
            HapairError: the node could not read it.
        """
        async with self._shared(b"") as name:
            await self._copy("get", path, to=name)
            if self._share:
                return (self._share / name).read_bytes()
            return await self._copy("fetch", name)

    async def clock(self) -> float:
        """Return the node's wall clock, in seconds: without a process, which takes a slow node a while."""
        async with self.job("clock") as job:
            return float((await job.finish())[1])

    async def _copy(self, op: str, path: str, **fields: object) -> bytes:
        async with self.job(op, path=path, **fields) as job:
            code, data, error = await job.finish()
            if code:
                raise HapairError(f"{self.node}: {op} {path}: {error.decode(errors='replace').strip()}")
            return data

    @contextlib.asynccontextmanager
    async def _shared(self, data: bytes) -> AsyncIterator[str]:
        """Make a file of the share that holds `data`, yield its name, and remove it afterwards."""
        name = f"{next(self._numbers)}"
        try:
            if self._share:
                (self._share / name).write_bytes(data)
            else:
                self._require_ready()
                for start in range(0, max(len(data), 1), CHUNK_BYTES):
                    self.send({"op": "spool", "id": 0, "name": name, "b": _base64(data[start : start + CHUNK_BYTES])})
            yield name
        finally:
            if self._share:
                (self._share / name).unlink(missing_ok=True)
            elif self.ready:
                self.send({"op": "drop", "id": 0, "name": name})

    def _require_ready(self) -> None:
        if not self.ready:
            raise HapairError(f"{self.node} is not ready: its control agent has not answered yet")

    def send(self, frame: Frame) -> None:
        """Queue a frame; it goes as the window allows."""
        self._pending += json.dumps(frame, separators=(",", ":")).encode() + b"\n"
        self._push()

    def _push(self) -> None:
        room = self._window_bytes - self._under_way
        if room > 0 and self._pending:
            # A small window always fits into the socket. What does not goes with the next acknowledgement. A dead node
            # is noticed by its exit.
            with contextlib.suppress(OSError):
                count = self._sock.send(self._pending[:room])
                self._under_way += count
                del self._pending[:count]

    def _read(self) -> None:
        try:
            data = self._sock.recv(256 << 10)
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._obey(line)

    def _obey(self, line: bytes) -> None:
        try:
            frame = json.loads(line)
        except ValueError:
            return
        if not isinstance(frame, dict):
            return
        if "ack" in frame:
            self._under_way -= frame["ack"]
            self._push()
        elif "ready" in frame:
            if self.ready and frame["ready"] == self._agent:  # it was asked and said so by itself as well
                return
            self._agent = frame["ready"]
            self._fail_all("the control agent started anew")
            self._pending.clear()
            self._under_way = 0
            self.ready = True
            self._on_ready(frame["ready"])
        elif (job := self._jobs.get(frame.get("id", 0))) is not None:
            if "end" in frame or "fail" in frame:
                del self._jobs[job.number]
            job.event(frame)

    def _fail_all(self, why: str) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.event({"fail": why})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
