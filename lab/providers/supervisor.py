"""The background process of one lab (`python -m lab.providers.supervisor FOLDER`): owns nodes, cables, control lines.

It listens on FOLDER/control.sock. A request is one connection: a JSON line in, JSON lines out, the last of which has
`value` or `error`. Hanging up ends the request, and with it the command in the node that it had started.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO, Any

from lab.errors import BadInput, HapairError
from lab.providers import memory
from lab.providers.base import Frame, Impairment, LabPlan, LabStatus, NodePlan
from lab.providers.cable import Cable
from lab.providers.control import Job
from lab.providers.daemon import Daemon
from lab.providers.hostlibvirt import domain_name
from lab.providers.machine import Machine
from lab.providers.record import FILE as RECORD_FILE
from lab.providers.record import Record, identity
from lab.providers.uml import UmlMachine
from lab.providers.vm import VirtualMachine

SOCKET = "control.sock"
PLAN = "plan.json"
EVENTS = "events.jsonl"
REQUEST_BYTES = 1 << 30
RESTORE_S = 30.0
ANSWER_SLACK_S = 10.0
"""How much longer than a command's own limit the node may take to say that it has ended; a frozen one never does."""


class Peer:
    """One connected client."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.inbox: asyncio.Queue[Frame] = asyncio.Queue()

    async def tell(self, **frame: object) -> None:
        """Send one frame, as fast as the client takes it."""
        self._writer.write(json.dumps(frame).encode() + b"\n")
        await self._writer.drain()

    async def pass_on(self, job: Job) -> int:
        """Send a job's output until it ends; return its exit code."""
        async for stream, data in job:
            await self.tell(**{stream: base64.b64encode(data).decode()})
        return job.code


class Supervisor:
    """One lab."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan = LabPlan.load((folder / PLAN).read_text())
        self._memory = Path()
        self._record: Record | None = None
        self._events: IO[str] = (folder / EVENTS).open("a", buffering=1)
        self._machines: dict[str, Machine] = {}
        self._daemon: Daemon | None = None
        self._cables: dict[str, Cable] = {}
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Bring the lab up, serve until told to stop, take everything down."""
        loop = asyncio.get_running_loop()
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, self._stop.set)
        try:
            await self._begin()
            with _listener(self._folder, SOCKET, socket.SOCK_STREAM) as listener:
                server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_BYTES)
                await self._stop.wait()
                server.close()
        finally:
            await self._end()

    async def _begin(self) -> None:
        need_bytes = sum(node.memory_mb for node in self._plan.nodes if not node.virtual) << 20
        self._memory = memory.choose(memory.candidates(self._folder), need_bytes)
        self._record = Record.new(self._memory)
        self._record.save(self._folder)
        for node in self._plan.nodes:
            self._machines[node.name] = self._make(node)
            self._machines[node.name].prepare()
        self._lay_cables()
        if self._daemon:
            await self._daemon.start(self._memory)
            self._note_processes()
        for machine in self._machines.values():
            await (machine.take_up() if isinstance(machine, VirtualMachine) else machine.power_on())

    def _make(self, node: NodePlan) -> Machine:
        if not node.virtual or not self._plan.hypervisor:
            return UmlMachine(node, self._folder, self._memory, self._log)
        self._daemon = self._daemon or Daemon(self._folder, self._plan)
        domain = domain_name(self._plan.name, node.name)
        made = VirtualMachine(node, self._folder, domain, self._plan.hypervisor, daemon=self._daemon, log=self._log)
        self._daemon.machines[domain] = made
        return made

    def _lay_cables(self) -> None:
        ends = [(card, node.name) for node in self._plan.nodes for card in node.interfaces]
        for network in sorted({card.network for card, _ in ends}):
            nodes = [node for card, node in ends if card.network == network]
            cable = Cable(network, nodes, seed=self._plan.seed, loop=asyncio.get_running_loop())
            self._cables[network] = cable
            for card, node in ends:
                if card.network != network:
                    continue
                if card.tunnel:
                    cable.tunnel(node, card.tunnel)
                else:
                    cable.listen(node, _listener(self._folder / "net", f"{node}.{network}", socket.SOCK_SEQPACKET))

    async def _end(self) -> None:
        self._log("down")
        # One that cannot be killed must not keep the others, or what else there is to remove.
        await asyncio.gather(*(machine.power_off() for machine in self._machines.values()), return_exceptions=True)
        if self._daemon:
            await self._daemon.stop()
        for cable in self._cables.values():
            cable.close()
        if self._record:
            self._record.remove_memory()
        for leftover in (self._folder / SOCKET, self._folder / RECORD_FILE, *(self._folder / "net").glob("*")):
            leftover.unlink(missing_ok=True)

    def _log(self, kind: str, **fields: object) -> None:
        self._events.write(json.dumps({"t": round(time.time(), 6), "source": "lab", "kind": kind, **fields}) + "\n")
        if kind in ("power", "exit"):
            self._note_processes()

    def _note_processes(self) -> None:
        """Write down what a later command has to kill when this process is killed."""
        if not self._record:
            return
        pids = {name: machine.pid for name, machine in self._machines.items()}
        pids["libvirtd"] = self._daemon.pid if self._daemon else None
        for name, pid in pids.items():
            self._record.processes.pop(name, None)
            if pid:
                self._record.processes[name] = identity(pid)
        self._record.save(self._folder)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(writer)
        work: asyncio.Future[Any] | None = None
        try:
            request = json.loads(await reader.readline() or b"{}")
            work = asyncio.ensure_future(self._answer(request, peer))
            hangup = asyncio.ensure_future(_receive(reader, peer.inbox))
            await asyncio.wait((work, hangup), return_when=asyncio.FIRST_COMPLETED)
            hangup.cancel()
        except (ValueError, ConnectionError):
            pass
        finally:
            if work and not work.done():
                work.cancel()
                await asyncio.wait((work,))
            writer.close()

    async def _answer(self, request: Frame, peer: Peer) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                if request.get("op") not in OPERATIONS:
                    raise BadInput(f"the lab's supervisor knows no operation {request.get('op')!r}")
                await peer.tell(value=await OPERATIONS[request["op"]](self, request, peer))
            except HapairError as error:
                await peer.tell(error=[type(error).__name__, error.message, error.hint])
            except Exception as error:
                traceback.print_exc()
                await peer.tell(error=["HapairError", f"the lab's supervisor failed: {error!r}", "see supervisor.log"])

    def _machine(self, request: Frame) -> Machine:
        name = request["node"]
        if name not in self._machines:
            raise BadInput(f"there is no node {name}", f"the nodes are {', '.join(self._machines)}")
        return self._machines[name]

    def _cable(self, request: Frame) -> Cable:
        name = request["network"]
        if name not in self._cables:
            raise BadInput(f"there is no network {name}", f"the networks are {', '.join(self._cables)}")
        return self._cables[name]

    async def _status(self, _request: Frame, _peer: Peer) -> Frame:
        nodes = {name: machine.status() for name, machine in self._machines.items()}
        links = tuple(link for cable in self._cables.values() for link in cable.status())
        return dataclasses.asdict(LabStatus(self._plan.name, os.getpid(), nodes, links))

    async def _wait_ready(self, request: Frame, _peer: Peer) -> Frame:
        await self._machine(request).wait_ready(request["limit_s"])
        return {}

    async def _run(self, request: Frame, peer: Peer) -> Frame:
        machine, limit_s = self._machine(request), request["limit_s"]
        stdin = base64.b64decode(request["stdin"])
        try:
            async with asyncio.timeout(limit_s + ANSWER_SLACK_S):
                async with machine.line.command(request["argv"], limit_s=limit_s, stdin=stdin) as job:
                    return {"code": await peer.pass_on(job)}
        except TimeoutError:
            raise HapairError(
                f"{machine.plan.name} ({machine.state}) did not end {request['argv'][0]} in time"
            ) from None

    async def _terminal(self, request: Frame, peer: Peer) -> Frame:
        fields = {name: request[name] for name in ("argv", "rows", "cols", "limit")}

        async def type_in(job: Job) -> None:
            while True:
                job.tell(**await peer.inbox.get())

        async with self._machine(request).line.job("pty", **fields) as job:
            typing = asyncio.ensure_future(type_in(job))
            try:
                return {"code": await peer.pass_on(job)}
            finally:
                typing.cancel()

    async def _put(self, request: Frame, _peer: Peer) -> Frame:
        async with _limit(request):
            data = base64.b64decode(request["data"])
            await self._machine(request).line.put(data, request["path"], request["mode"])
            return {}

    async def _get(self, request: Frame, _peer: Peer) -> Frame:
        async with _limit(request):
            data = await self._machine(request).line.get(request["path"])
            return {"data": base64.b64encode(data).decode()}

    async def _clock(self, request: Frame, _peer: Peer) -> Frame:
        return {"clock": await self._machine(request).line.clock()}

    async def _power(self, request: Frame, _peer: Peer) -> Frame:
        machine = self._machine(request)
        if request["to"] in ("off", "reset"):
            await machine.power_off()
        if request["to"] in ("on", "reset"):
            await machine.power_on()
        return {}

    async def _freeze(self, request: Frame, _peer: Peer) -> Frame:
        await self._machine(request).freeze()
        return {}

    async def _thaw(self, request: Frame, _peer: Peer) -> Frame:
        await self._machine(request).thaw()
        return {}

    async def _snapshot(self, _request: Frame, _peer: Peer) -> Frame:
        """Keep the state of all nodes: the virtual machines stand still together, so that none is ahead of another."""
        virtual, others = self._apart()
        await asyncio.gather(*(machine.freeze() for machine in virtual))
        try:
            await asyncio.gather(*(machine.snapshot() for machine in (*virtual, *others)))
        finally:
            await asyncio.gather(*(machine.thaw() for machine in virtual))
        self._log("snapshot")
        return {}

    async def _restore(self, _request: Frame, _peer: Peer) -> Frame:
        virtual, others = self._apart()
        await asyncio.gather(*(machine.restore() for machine in (*virtual, *others)))
        # The third node first: the pair would miss the store.
        await asyncio.gather(*(machine.wait_ready(RESTORE_S) for machine in others))
        await asyncio.gather(*(machine.thaw() for machine in virtual))
        for machine in virtual:
            machine.renew()
        self._log("restore")
        return {}

    def _apart(self) -> tuple[list[VirtualMachine], list[Machine]]:
        virtual = [machine for machine in self._machines.values() if isinstance(machine, VirtualMachine)]
        return virtual, [machine for machine in self._machines.values() if machine not in virtual]

    async def _link(self, request: Frame, _peer: Peer) -> Frame:
        impairment = Impairment(**request["impairment"])
        self._cable(request).set_link(request["node"], request["direction"], impairment)
        names = ("network", "node", "direction", "impairment")
        self._log("link", **{name: request[name] for name in names})
        return {}

    async def _capture(self, request: Frame, peer: Peer) -> Frame:
        cable = self._cable(request)
        capture = cable.start_capture(Path(request["path"]))
        try:
            await peer.tell(started=True)
            await peer.inbox.get()  # the client asks for the end, or hangs up
            return {}
        finally:
            cable.stop_capture(capture)

    async def _disk(self, request: Frame, _peer: Peer) -> Frame:
        machine, slot, path = self._machine(request), request["slot"], request["path"]
        await (machine.detach_disk(slot) if path is None else machine.attach_disk(slot, Path(path)))
        self._log("disk", node=machine.plan.name, slot=slot, path=path)
        return {}

    async def _sysrq(self, request: Frame, _peer: Peer) -> Frame:
        machine = self._machine(request)
        self._log("sysrq", node=machine.plan.name, key=request["key"])
        await machine.sysrq(request["key"])
        return {}

    async def _shutdown(self, _request: Frame, _peer: Peer) -> Frame:
        self._stop.set()
        return {}


Operation = Callable[[Supervisor, Frame, Peer], Awaitable[Frame]]
OPERATIONS: dict[str, Operation] = {
    name: getattr(Supervisor, f"_{name}")
    for name in (
        *("status", "wait_ready", "run", "terminal", "put", "get", "clock", "power", "freeze", "thaw"),
        *("snapshot", "restore"),
        *("link", "capture", "disk", "sysrq", "shutdown"),
    )
}


async def _receive(reader: asyncio.StreamReader, inbox: asyncio.Queue[Frame]) -> None:
    """Queue what the client says after its request, until it hangs up."""
    while line := await reader.readline():
        inbox.put_nowait(json.loads(line))


@contextlib.asynccontextmanager
async def _limit(request: Frame) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(request["limit_s"]):
            yield
    except TimeoutError:
        raise HapairError(
            f"{request['node']}: {request['op']} {request['path']} took over {request['limit_s']:g} s"
        ) from None


def _listener(folder: Path, name: str, kind: socket.SocketKind) -> socket.socket:
    """Return a listening socket in `folder`, for this user only, however long the folder's path is."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        (folder / name).unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(f"/proc/self/fd/{fd}/{name}")
        (folder / name).chmod(0o600)
        sock.listen(64)
        return sock
    finally:
        os.close(fd)


def main() -> int:
    """Run the supervisor of the lab in the folder that the command line names; return the exit code."""
    os.umask(0o077)
    try:
        asyncio.run(Supervisor(Path(sys.argv[1])).run())
    except HapairError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
