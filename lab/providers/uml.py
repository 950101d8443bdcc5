"""One User-Mode Linux machine: its command line, its process, its power button. Lives inside the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

from lab import proc
from lab.errors import BadInput, HapairError, TimedOut
from lab.providers import console, mconsole
from lab.providers.base import NodePlan, NodeState, NodeStatus
from lab.providers.control import ControlLine
from lab.providers.copying import copy_sparse
from lab.providers.machine import Log
from lab.providers.volatile import VolatileDisk, log_of

VECTOR_DEPTH = 128
"""Frames that a card hands over in one system call."""
LOOPS_PER_JIFFY = 20_000_000
"""Given to the kernel, which otherwise measures it for 40 to 90 ms at each boot: 4000 BogoMIPS at 100 Hz."""
DEADLY_KEYS = ("b", "c", "o")
"""SysRq keys: reset, crash, power off (Documentation/admin-guide/sysrq.rst)."""
FRUITLESS_BOOTS = 3
"""A node that restarts this often in a row without ever becoming ready stays off."""
KILL_LIMIT_S = 20.0
FOLD_EVERY_S = 5.0


def argv(plan: NodePlan, control_fd: int) -> list[str]:
    """Return the kernel's command line. It runs in the lab's folder and names all files relative to that.

    Relative names keep out of trouble with the characters (`,` `:` and blanks) that mean something to the kernel, and
    with the 107 bytes of a socket's path. Cards connect to a socket (transport `bess`), not to an inherited descriptor:
    the kernel closes that when the card is taken down, and the card could never be brought up again.
    """
    name = plan.name
    # "d": take it as it is, look for no overlay in it.
    disks = [f"{disk.slot}d={disk.file}" for disk in plan.disks]
    disks += [f"{disk.log_slot}d={log_of(Path(disk.file))}" for disk in plan.disks if disk.log_slot]
    cards = [
        f"vec{number}:transport=bess,dst=net/{name}.{card.network},mac={card.mac},mtu={card.mtu},depth={VECTOR_DEPTH}"
        for number, card in enumerate(plan.interfaces)
    ]
    return [
        *(proc.which("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", str(plan.kernel)),
        *(
            "seccomp=auto",
            f"mem={plan.memory_mb}M",
            "noreboot",
            f"umid={name}",
            "uml_dir=run/",
            f"hostfs=/proc/self/cwd/{name}.share",
        ),
        *(f"ubd0={name}.cow,{name}.base", *disks, "root=/dev/ubda", "rw", *cards),
        *("con=null", "con0=null,fd:1", "ssl=null", f"ssl0=fd:{control_fd}", "loglevel=4", f"lpj={LOOPS_PER_JIFFY}"),
        "systemd.show_status=0",
        *plan.kernel_args,
    ]


class _Run:
    """One run of the kernel, from power-on to its end."""

    def __init__(self, plan: NodePlan, folder: Path, memory: Path, machine: UmlMachine) -> None:
        self.console = folder / f"{plan.name}.console"
        ours, theirs = socket.socketpair()
        with theirs, self.console.open("ab", buffering=0) as out:
            out.write(f"--- power on, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            self.console_start = out.tell()
            self.child = proc.spawn(
                argv(plan, theirs.fileno()),
                cwd=folder,
                env={"TMPDIR": str(memory)},
                stdout=out,
                stderr=out,
                pass_fds=(theirs.fileno(),),
            )
        self.pidfd = os.pidfd_open(self.child.pid)
        self.ended = asyncio.Event()
        self.ready = asyncio.Event()
        self.frozen = False
        self.cut = False
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, machine.on_exit)
        share = folder / f"{plan.name}.share"
        self.line = ControlLine(plan.name, ours, share, on_ready=machine.on_ready, loop=loop)

    def bury(self) -> str:
        """Collect what is left of the process and return how the kernel ended."""
        asyncio.get_running_loop().remove_reader(self.pidfd)
        # The dead leader still holds its group's number: helpers that outlived it are reached without fail.
        proc.kill_group(self.child)
        self.child.wait()
        os.close(self.pidfd)
        self.line.close("the node is off")
        self.ended.set()
        return "cut" if self.cut else console.ending(console.end(self.console, self.console_start))


class UmlMachine:
    """A node of the lab: switched on and off, frozen, asked for its state."""

    def __init__(self, plan: NodePlan, folder: Path, memory: Path, log: Log) -> None:
        self.plan = plan
        self._folder = folder
        self._memory = memory
        self._log = log
        self._run: _Run | None = None
        self._boots = 0
        self._fruitless = 0
        self._note = ""
        self._volatile = {disk.file: VolatileDisk(folder / disk.file) for disk in plan.disks if disk.log_slot}
        self._button = asyncio.Lock()
        self._folding: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Make the folders and files that the kernel expects.

        Raises:
            BadInput: the node's root disk is an overlay of another image.
        """
        base = self._folder / f"{self.plan.name}.base"
        if not base.is_symlink():
            base.symlink_to(self.plan.image)
        elif base.readlink() != self.plan.image:
            raise BadInput(
                f"the root disk of {self.plan.name} belongs to another image, {base.readlink()}",
                "`invoke lab.destroy`, then `invoke lab.up`",
            )
        for folder in (f"{self.plan.name}.share", "run", "net"):
            (self._folder / folder).mkdir(mode=0o700, exist_ok=True)
        for disk in self.plan.disks:
            with (self._folder / disk.file).open("ab") as file:
                if file.tell() == 0:
                    file.truncate(disk.size_bytes)

    @property
    def pid(self) -> int | None:
        """The process id of the running kernel, which is its process group too."""
        return self._run.child.pid if self._run else None

    @property
    def state(self) -> NodeState:
        """On, off or frozen."""
        if self._run is None:
            return "off"
        return "frozen" if self._run.frozen else "on"

    @property
    def line(self) -> ControlLine:
        """The control line of the running kernel.

        Raises:
            HapairError: the node is off or frozen.
        """
        return self._running().line

    def status(self) -> NodeStatus:
        """Return what `lab.status` shows."""
        run = self._run
        mode = console.mode(console.head(run.console, run.console_start)) if run else ""
        ready = run is not None and run.line.ready and not run.frozen
        return NodeStatus(state=self.state, ready=ready, boots=self._boots, mode=mode, note=self._note)

    async def power_on(self) -> None:
        """Start the kernel; a node that is on stays as it is."""
        async with self._button:
            if self._run is None:
                self._fruitless = 0
                self._start("on")

    async def power_off(self) -> None:
        """Kill the node's process group, and return when it is gone and what it had not flushed is lost.

        A node that resets, crashes or switches itself off loses nothing: its disks keep their power, or were flushed.
        """
        async with self._button:
            run = self._run
            if run is None:
                return
            run.cut = True
            proc.kill_group(run.child)
            async with asyncio.timeout(KILL_LIMIT_S):
                await run.ended.wait()
            for file, disk in self._volatile.items():
                cut = await asyncio.to_thread(disk.cut)
                fields = {"bytes": cut.discarded_bytes, "kept_writes": cut.kept_writes}
                self._log("discarded", node=self.plan.name, disk=file, **fields)

    async def freeze(self) -> None:
        """Stop every process of the node."""
        run = self._running()
        proc.kill_group(run.child, signal.SIGSTOP)
        run.frozen = True
        self._log("power", node=self.plan.name, to="frozen")

    async def thaw(self) -> None:
        """Let a frozen node go on; does nothing to any other."""
        if self._run and self._run.frozen:
            proc.kill_group(self._run.child, signal.SIGCONT)
            self._run.frozen = False
            self._log("power", node=self.plan.name, to="thawed")

    async def snapshot(self) -> None:
        """Keep a copy of the root disk, as it is at this moment, for `restore`."""
        await self.freeze()
        try:
            await asyncio.to_thread(copy_sparse, self._cow, self._kept)
        finally:
            await self.thaw()

    async def restore(self) -> None:
        """Cut the power, put the root disk back to the snapshot, and switch on again.

        Raises:
            HapairError: there is no snapshot.
        """
        if not self._kept.exists():
            raise HapairError(f"{self.plan.name} has no snapshot", "invoke lab.destroy, then invoke lab.up")
        await self.power_off()
        await asyncio.to_thread(copy_sparse, self._kept, self._cow)
        await self.power_on()

    @property
    def _cow(self) -> Path:
        return self._folder / f"{self.plan.name}.cow"

    @property
    def _kept(self) -> Path:
        return self._folder / f"{self.plan.name}.cow.snapshot"

    async def wait_ready(self, limit_s: float) -> None:
        """Wait until the control agent of this run, or of one that follows it, has answered.

        Raises:
            HapairError: the node is off, or goes off meanwhile.
            TimedOut: it did not; with the last console lines.
        """
        try:
            async with asyncio.timeout(limit_s):
                while (run := self._running()).line.ready is False:
                    waits = [asyncio.ensure_future(event.wait()) for event in (run.ready, run.ended)]
                    try:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for wait in waits:
                            wait.cancel()
        except TimeoutError:
            raise TimedOut(f"{self.plan.name} was not ready after {limit_s:g} s{self._last_words()}") from None

    async def attach_disk(self, slot: str, path: Path) -> None:
        """Plug in a disk."""
        # Under a name without the characters that mean something to the kernel.
        link = self._folder / f"{self.plan.name}.{slot}"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        await self._mconsole(f"config {slot}d={link.name}")

    async def detach_disk(self, slot: str) -> None:
        """Pull out a disk that nothing has open."""
        await self._mconsole(f"remove {slot}")

    async def sysrq(self, key: str) -> None:
        """Press Alt+SysRq+`key`."""
        try:
            await self._mconsole(f"sysrq {key}")
        except HapairError:
            # The kernel that crashes or resets at this key answers nobody any more.
            if key not in DEADLY_KEYS:
                raise

    async def _mconsole(self, command: str) -> str:
        """Send a command to the kernel's management console and return its answer."""
        self._running()
        return await mconsole.command(self._folder / "run" / self.plan.name / "mconsole", command)

    def on_ready(self, ready: dict[str, Any]) -> None:
        """Take note that the control agent has started."""
        run = self._running()
        self._fruitless = 0
        run.ready.set()
        self._log("boot", node=self.plan.name, **ready)

    def on_exit(self) -> None:
        """Clean up after the kernel; switch on again if it restarted, as firmware would."""
        run = self._running()
        why = run.bury()
        self._run = None
        self._fruitless += not run.ready.is_set()
        self._log("exit", node=self.plan.name, why=why, code=run.child.returncode)
        if why in ("restart", "panic") and self._fruitless < FRUITLESS_BOOTS:
            with contextlib.suppress(HapairError):
                self._start(why)
        elif why in ("restart", "panic"):
            self._note = f"restarted {self._fruitless} times without becoming ready"
        else:
            self._note = {"cut": "power was cut", "power-off": "powered itself off"}.get(why, "its kernel died")

    def _start(self, why: str) -> None:
        # A kernel that was killed leaves its pid file, and the next one refuses the name while any process has that id.
        shutil.rmtree(self._folder / "run" / self.plan.name, ignore_errors=True)
        # The cables stand still meanwhile, for some hundredths of a second.
        for disk in self._volatile.values():
            disk.begin()
        self._run = _Run(self.plan, self._folder, self._memory, self)
        if self._volatile:
            self._folding = asyncio.create_task(self._fold(self._run))
        self._boots += 1
        self._note = ""
        self._log("power", node=self.plan.name, to="on", why=why)

    async def _fold(self, run: _Run) -> None:
        """Keep the write logs small while a run lasts; nothing announces that a file has grown."""
        while not run.ended.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FOLD_EVERY_S):
                    await run.ended.wait()
            for disk in self._volatile.values():
                if disk.full:
                    await asyncio.to_thread(disk.fold)

    def _running(self) -> _Run:
        if self._run is None:
            raise HapairError(
                f"{self.plan.name} is off: {self._note or 'it was never switched on'}{self._last_words()}",
                "switch it on again, or look at its console",
            )
        return self._run

    def _last_words(self) -> str:
        lines = console.tail(self._folder / f"{self.plan.name}.console")
        return f"; the last lines of its console:\n{lines}" if lines else ""
