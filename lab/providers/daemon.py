"""The libvirt daemon of a running lab, and what it tells of the machines. Lives inside the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import Protocol

from lab import proc
from lab.errors import HapairError
from lab.providers import libvirt

LOG = "libvirtd.log"
POOL = "pool"
EVENT = re.compile(rb"event '(lifecycle|reboot)' for domain '([^']+)'(?:: (\S+) ?(.*))?")


class Listener(Protocol):
    """Who is told what happens to a machine."""

    def on_event(self, kind: str, what: str, detail: str) -> None:
        """Take note; `kind` is "lifecycle" or "reboot", the rest as virsh(1) prints it."""


class Daemon:
    """A private daemon, started and ended with the lab."""

    def __init__(self, folder: Path) -> None:
        self.machines: dict[str, Listener] = {}
        """By libvirt's name."""
        self._folder = folder
        self._uri = ""
        self._child: proc.Child | None = None
        self._events: proc.Child | None = None
        self._pipe = -1
        self._rest = b""

    @property
    def pid(self) -> int | None:
        """The daemon's process."""
        return self._child.pid if self._child else None

    async def start(self, runtime: Path) -> None:
        """Start the daemon and follow its events.

        Args:
            runtime: a folder with a short path, for the sockets.

        Raises:
            HostLacks: a program is not installed.
            HapairError: the daemon does not answer; the text has its last lines.
        """
        self._uri = await asyncio.to_thread(self._start, runtime)
        (self._folder / libvirt.URI_FILE).write_text(self._uri)
        self._follow()

    def _start(self, runtime: Path) -> str:
        command = libvirt.private(self._folder / "libvirt", runtime)
        (self._folder / POOL).mkdir(mode=0o711, exist_ok=True)
        with (self._folder / LOG).open("ab") as log:
            self._child = proc.spawn(command.argv, env=command.env, stdout=log, stderr=log)
        try:
            libvirt.wait_answers(command.uri)
        except HapairError as error:
            lines = (self._folder / LOG).read_text(errors="replace").splitlines()[-5:]
            raise HapairError("\n  ".join(["the private libvirtd does not answer:", *lines]), error.hint) from None
        libvirt.make_pool(command.uri, self._folder / POOL)
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
        if not data:  # the daemon is gone, and root's has taken its machines along
            asyncio.get_running_loop().remove_reader(self._pipe)
            for machine in self.machines.values():
                machine.on_event("lifecycle", "Stopped", "Failed")
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if found := EVENT.match(line):
                kind, domain, what, detail = (part.decode() if part else "" for part in found.groups())
                if domain in self.machines:
                    self.machines[domain].on_event(kind, what, detail)

    async def stop(self) -> None:
        """End the daemon and the program that follows its events."""
        if self._pipe >= 0:
            asyncio.get_running_loop().remove_reader(self._pipe)
            os.close(self._pipe)
        for child in (self._events, self._child):
            if child:
                proc.kill_group(child)
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(child.wait, 5.0)
