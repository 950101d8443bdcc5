"""One virtual machine of a lab: its power button, its control line, its snapshot. Lives inside the supervisor.

Vagrant makes the machine (lab.providers.vagrant); from then on libvirt is asked directly, as a hand on the power
switch would not ask Vagrant either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from lab.errors import HapairError, TimedOut
from lab.providers import console
from lab.providers.base import Frame, Hypervisor, NodePlan, NodeState, NodeStatus
from lab.providers.control import ControlLine
from lab.providers.daemon import Daemon
from lab.providers.inlet import Inlet, Transcript, owner_of_process
from lab.providers.machine import Log

SNAPSHOT = "hapair"
OFF_S = 20.0


class VirtualMachine:
    """A node that is a virtual machine; see lab.providers.machine."""

    def __init__(
        self, plan: NodePlan, folder: Path, domain: str, hypervisor: Hypervisor, *, daemon: Daemon, log: Log
    ) -> None:
        if plan.virtual is None:
            raise HapairError(f"{plan.name} is no virtual machine")
        self.plan = plan
        self.domain = domain
        self._folder = folder
        self._hypervisor = hypervisor
        self._daemon = daemon
        self._log = log
        self._state: NodeState = "off"
        self._boots = 0
        self._note = "it was never switched on"
        self._cut = False
        self._line: ControlLine | None = None
        self._transcript = Transcript(folder / f"{plan.name}.console")
        ports = plan.virtual
        self._inlets = (
            Inlet(ports.control_port, self._users, self._take_line),
            Inlet(ports.console_port, self._users, self._transcript.take),
        )
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    def _users(self) -> Collection[int]:
        return self._daemon.users

    def prepare(self) -> None:
        """Listen for the machine's control line and its console.

        Raises:
            HostLacks: another program has taken a port.
        """
        for inlet in self._inlets:
            inlet.open()

    def close(self) -> None:
        """Stop listening."""
        for inlet in self._inlets:
            inlet.close()
        self._transcript.close()
        self._hang_up("the lab ends")

    def _take_line(self, sock: socket.socket) -> None:
        self._hang_up("another line took its place")
        loop = asyncio.get_running_loop()
        self._line = ControlLine(self.plan.name, sock, None, on_ready=self._on_ready, loop=loop)
        # The agent may have said that it is ready before anyone listened.
        self._line.renew()

    def _hang_up(self, why: str) -> None:
        if self._line:
            self._line.close(why)
            self._line = None

    def _on_ready(self, ready: Frame) -> None:
        self._log("boot", node=self.plan.name, **ready)
        self._tell()

    def _tell(self) -> None:
        """Wake whoever waits for a change of state."""

        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.ensure_future(notify())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def pid(self) -> int | None:
        """QEMU's process id, if the machine runs and this user may end it."""
        if self._state == "off":
            return None
        found = self._find()
        mine = os.geteuid()
        return found if found and (mine == 0 or owner_of_process(found) == mine) else None

    def _find(self) -> int | None:
        mark = f"guest={self.domain},".encode()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        return None

    @property
    def state(self) -> NodeState:
        """On, off or frozen."""
        return self._state

    @property
    def line(self) -> ControlLine:
        """The control line.

        Raises:
            HapairError: the node is off, or has not connected yet.
        """
        if self._state == "off":
            raise self._is_off()
        if self._line is None:
            raise HapairError(f"{self.plan.name} is not ready: its control line is not connected yet")
        return self._line

    def _is_off(self) -> HapairError:
        return HapairError(f"{self.plan.name} is off: {self._note}", "switch it on again, or look at its console")

    def status(self) -> NodeStatus:
        """Return what `lab.status` shows."""
        ready = self._line is not None and self._line.ready and self._state == "on"
        mode = "" if self._state == "off" else "kvm" if self._hypervisor.kvm else "emulated"
        note = self._note if self._state == "off" else ""
        return NodeStatus(state=self._state, ready=ready, boots=self._boots, mode=mode, note=note)

    def on_event(self, kind: str, what: str, detail: str) -> None:
        """Take note of what libvirt says has happened to the machine."""
        match kind, what:
            case "reboot", _:
                self._went("restart")
                self._came("restart")
            case "lifecycle", "Started":
                self._state, self._note = "on", ""
                self._came("on")
            case "lifecycle", "Stopped":
                why = "cut" if self._cut else "power-off" if detail.strip() == "Shutdown" else "died"
                self._state, self._cut = "off", False
                self._note = {"cut": "power was cut", "power-off": "powered itself off"}.get(why, "its process died")
                self._hang_up("the node is off")
                self._went(why)
        self._tell()

    def on_state(self, state: str) -> None:
        """Take note of what the machine is found to be, after a time in which nobody heard what happens to it."""
        found: NodeState = "off" if state in {"shut off", "crashed"} else "frozen" if state == "paused" else "on"
        if found == self._state:
            return
        if found == "off":
            self.on_event("lifecycle", "Stopped", "Failed")
        else:
            was, self._state, self._note = self._state, found, ""
            if was == "off":
                self._came("on")
            self._tell()

    def _came(self, why: str) -> None:
        self._boots += 1
        self._log("power", node=self.plan.name, to="on", why=why)

    def _went(self, why: str) -> None:
        if self._line:
            self._line.lost("the node restarts")
        self._log("exit", node=self.plan.name, why=why, code=None)

    async def take_up(self) -> None:
        """Learn the state of a machine that was there before; switch on one that is defined and off."""
        if self.domain in (await self._virsh("list", "--all", "--name")).split():
            self.on_state((await self._virsh("domstate", self.domain)).strip())
            await self.power_on()

    async def power_on(self) -> None:
        """Start the machine; one that is on stays as it is."""
        if self._state == "off":
            await self._virsh("start", self.domain)
            await self._wait(lambda: self._state != "off", "on")

    async def power_off(self) -> None:
        """Kill QEMU, as a power loss would, and return when it is gone; libvirt does it where this user may not."""
        if self._state == "off":
            return
        self._cut = True
        if pid := await asyncio.to_thread(lambda: self.pid):
            await asyncio.to_thread(_kill, pid)
            if not self._daemon.hears:  # libvirt is away, so nobody else will tell
                self.on_event("lifecycle", "Stopped", "Destroyed")
        else:
            await self._have_killed()
        await self._wait(lambda: self._state == "off", "off")

    async def _have_killed(self) -> None:
        """Let libvirt kill the machine; one that has just ended by itself is off too."""
        try:
            await self._virsh("destroy", self.domain)
        except HapairError as error:
            if "not running" not in error.message:
                raise

    async def _wait(self, reached: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(OFF_S), self._changed:
                await self._changed.wait_for(reached)
        except TimeoutError:
            raise TimedOut(f"{self.plan.name} was not {what} after {OFF_S:g} s{self._last_words()}") from None

    async def freeze(self) -> None:
        """Stop the machine's processor."""
        if self._state == "off":
            raise self._is_off()
        await self._virsh("suspend", self.domain)
        self._state = "frozen"
        self._log("power", node=self.plan.name, to="frozen")

    async def thaw(self) -> None:
        """Let a frozen machine go on; does nothing to any other."""
        if self._state == "frozen":
            await self._virsh("resume", self.domain)
            self._state = "on"
            self._log("power", node=self.plan.name, to="thawed")

    async def snapshot(self) -> None:
        """Keep memory and disks, in the disks themselves. The machine must be frozen."""
        await self._hmp(f"savevm {SNAPSHOT}")

    async def restore(self) -> None:
        """Put memory and disks back; the machine is frozen afterwards, and its agent says again that it is ready.

        In a process of its own each time: within one, an emulated processor's time stamps never go back
        (cpu_get_ticks in QEMU's system/cpu-timers.c), and the machine's clock would leap over all the time since
        the snapshot, watchdogs and time limits of its units included.
        """
        await self.power_off()
        await self._virsh("start", "--paused", self.domain)
        await self._wait(lambda: self._state != "off", "on")
        self._state = "frozen"
        await self._hmp(f"loadvm {SNAPSHOT}")

    def renew(self) -> None:
        """Begin anew on the control line of a machine that was put back."""
        if self._line:
            self._line.renew()

    async def _hmp(self, command: str) -> None:
        """Give QEMU's monitor a command that says nothing when it has succeeded."""
        said = await self._virsh("qemu-monitor-command", self.domain, "--hmp", command)
        if said.strip():
            raise HapairError(f"{self.plan.name}: {command}: {said.strip()}")

    async def wait_ready(self, limit_s: float) -> None:
        """Wait until the control agent has answered, also of a machine that is still being made.

        Raises:
            TimedOut: it did not; with the last console lines.
        """
        try:
            async with asyncio.timeout(limit_s), self._changed:
                await self._changed.wait_for(lambda: self.status().ready)
        except TimeoutError:
            raise TimedOut(f"{self.plan.name} was not ready after {limit_s:g} s{self._last_words()}") from None

    async def attach_disk(self, slot: str, path: Path) -> None:
        """Plug in a disk."""
        await self._virsh("attach-disk", self.domain, str(path), slot, "--live")

    async def detach_disk(self, slot: str) -> None:
        """Pull out a disk that nothing has open."""
        await self._virsh("detach-disk", self.domain, slot, "--live")

    async def sysrq(self, key: str) -> None:
        """Let the kernel act as at Alt+SysRq+`key`: through its agent, as the cloud kernel has no keyboard."""
        async with self.line.job("run", argv=["sh", "-c", f"echo {key} >/proc/sysrq-trigger"], limit=5.0) as job:
            with contextlib.suppress(HapairError):  # the kernel that crashes at this key answers nobody any more
                await job.finish()

    async def _virsh(self, *arguments: str) -> str:
        return await asyncio.to_thread(self._daemon.virsh, *arguments)

    def _last_words(self) -> str:
        lines = console.tail(self._folder / f"{self.plan.name}.console")
        return f"; the last lines of its console:\n{lines}" if lines else ""


def _kill(pid: int) -> None:
    """Kill a process, and return when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            select.select([fd], [], [], OFF_S)  # readable once it has ended (pidfd_open(2))
        finally:
            os.close(fd)
