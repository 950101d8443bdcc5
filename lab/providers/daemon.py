"""The libvirt daemon of a running lab, and what it tells of the machines. Lives inside the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

from lab import proc
from lab.errors import HapairError
from lab.providers import hostlibvirt, libvirt
from lab.providers.base import LabPlan
from lab.providers.volumes import FOLDER

LOG = "libvirtd.log"
RETRY_S = 1.0
EVENT = re.compile(rb"event '(lifecycle|reboot)' for domain '([^']+)'(?:: (\S+) ?(.*))?")


class Listener(Protocol):
    """Who is told what happens to a machine."""

    def on_event(self, kind: str, what: str, detail: str) -> None:
        """Take note; `kind` is "lifecycle" or "reboot", the rest as virsh(1) prints it."""

    def on_state(self, state: str) -> None:
        """Take note of what the machine is found to be, as `virsh domstate` prints it; unheard events led there."""


class Daemon:
    """The host's daemon, or a private one that is started and ended with the lab."""

    def __init__(self, folder: Path, plan: LabPlan) -> None:
        self.machines: dict[str, Listener] = {}
        """By libvirt's name."""
        self.users: Collection[int] = (0, os.geteuid())
        """Whom the machines may run as."""
        self._folder, self._plan = folder, plan
        self._host = plan.hypervisor is not None and plan.hypervisor.host
        self._uri = ""
        self._child: proc.Child | None = None
        self._events: proc.Child | None = None
        self._pipe = -1
        self._rest = b""
        self._again: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process of a private daemon."""
        return self._child.pid if self._child else None

    @property
    def hears(self) -> bool:
        """Whether events of the machines are heard now."""
        return self._pipe >= 0

    async def start(self, runtime: Path) -> None:
        """Start the daemon, or take the host's, make the lab's pool, and follow the machines' events.

        Args:
            runtime: a folder with a short path, for the sockets.

        Raises:
            HostLacks: a program is not installed.
            HapairError: the daemon does not answer; of a private one the text has the last lines.
        """
        if self._host:
            self._uri = await asyncio.to_thread(self._join)
        else:
            self._uri = await asyncio.to_thread(self._start, runtime)
        (self._folder / libvirt.URI_FILE).write_text(self._uri)
        self._follow()

    def _join(self) -> str:
        user = hostlibvirt.machine_user()
        self.users = (*self.users, user) if user is not None else self.users
        hostlibvirt.make_pool(self._plan)
        return libvirt.HOST_URI

    def _start(self, runtime: Path) -> str:
        command = libvirt.private(self._folder / "libvirt", runtime)
        (self._folder / FOLDER).mkdir(mode=0o711, exist_ok=True)
        with (self._folder / LOG).open("ab") as log:
            self._child = proc.spawn(command.argv, env=command.env, stdout=log, stderr=log)
        try:
            libvirt.wait_answers(command.uri)
        except HapairError as error:
            lines = (self._folder / LOG).read_text(errors="replace").splitlines()[-5:]
            raise HapairError("\n  ".join(["the private libvirtd does not answer:", *lines]), error.hint) from None
        libvirt.make_pool(command.uri, self._folder / FOLDER)
        return command.uri

    def virsh(self, *arguments: str) -> str:
        """Ask the daemon; see `lab.providers.libvirt.virsh`."""
        if not self._uri:
            raise HapairError("the libvirt daemon has not been started")
        return libvirt.virsh(self._uri, *arguments)

    def _follow(self) -> None:
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        with os.fdopen(theirs, "wb") as sink:
            self._events = proc.spawn(libvirt.event_command(self._uri), stdout=sink)
        asyncio.get_running_loop().add_reader(self._pipe, self._read)

    def _read(self) -> None:
        data = os.read(self._pipe, 64 << 10)
        if not data:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe, self._rest = -1, b""
            if self._host:  # its machines run on; it may have been restarted only
                self._again = asyncio.ensure_future(self._take_up())
                return
            for machine in self.machines.values():  # root's has taken its machines along
                machine.on_event("lifecycle", "Stopped", "Failed")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if found := EVENT.match(line):
                kind, domain, what, detail = (part.decode() if part else "" for part in found.groups())
                if domain in self.machines:
                    self.machines[domain].on_event(kind, what, detail)

    async def _take_up(self) -> None:
        """Follow the events again as soon as the daemon answers, and learn what has become of the machines."""
        await _ended(self._events)
        while True:
            try:
                known = await asyncio.to_thread(self.virsh, "list", "--all", "--name")
                break
            except HapairError:
                await asyncio.sleep(RETRY_S)  # nothing announces that a daemon has come up
        self._follow()
        with contextlib.suppress(HapairError):  # gone once more: whoever reads its events hears of it
            for domain, machine in self.machines.items():
                found = (
                    await asyncio.to_thread(self.virsh, "domstate", domain) if domain in known.split() else "shut off"
                )
                machine.on_state(found.strip())

    async def stop(self) -> None:
        """End a private daemon, and the program that follows the events."""
        if self._again:
            self._again.cancel()
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
        for child in (self._events, self._child):
            await _ended(child)


async def _ended(child: proc.Child | None) -> None:
    if child:
        proc.kill_group(child)
        with contextlib.suppress(Exception):
            await asyncio.to_thread(child.wait, 5.0)
