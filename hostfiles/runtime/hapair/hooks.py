"""Runs a person's scripts when a resource's state has changed: the reaction interface of the recipe's drbd-watcher.

Every executable in /etc/hapair/hooks.d is called, in the order of the names, with: resource, connection, own role,
peer's role, own disk, peer's disk, mount point; in the words of /proc/drbd. The environment has OLD_CONNECTED_STATE,
OLD_SELF_ROLE, OLD_REMOTE_ROLE, OLD_SELF_DISK, OLD_REMOTE_DISK, ALL_MOUNTS and STABLE_SECONDS. The first time the old
values are empty; a resource that vanished has empty new ones. Changes that come while scripts run are merged.

A thread of its own runs them, each with a time limit, so that no decision ever waits for one.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
import time
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from hapair import proc
from hapair.config import Resource
from hapair.decisions import DecisionLog
from hapair.paths import Paths
from hapair.states import Connection, Kernel, Replication

LIMIT_S = 60.0
"""How long one script may run; then its process group is killed."""
WORDS = {Connection.CONNECTING: "WFConnection", Connection.UNKNOWN: "Unknown"}
"""Where /proc/drbd has another word than events2."""


class View(NamedTuple):
    """What drbd-watcher looks at, as words; all empty for a resource that is not there."""

    connection: str = ""
    self_role: str = ""
    remote_role: str = ""
    self_disk: str = ""
    remote_disk: str = ""


NOTHING = View()


def view(kernel: Kernel | None) -> View:
    """Return a resource in the words of /proc/drbd; of several volumes, the first."""
    if kernel is None or not kernel.volumes:
        return NOTHING
    volume = kernel.volumes[0]
    connection = WORDS.get(kernel.connection, kernel.connection.value)
    if kernel.connection is Connection.CONNECTED and volume.replication not in (
        Replication.OFF,
        Replication.ESTABLISHED,
        Replication.OTHER,
    ):
        connection = volume.replication.value
    return View(connection, kernel.role.value, kernel.peer_role.value, volume.disk.value, volume.peer_disk.value)


Change = Tuple[View, View, int]
"""Old, new, and for how many seconds the old one had stood."""


class Hooks(threading.Thread):
    """The scripts of one resource; at most one runs at a time."""

    def __init__(self, resource: Resource, paths: Paths, log: DecisionLog) -> None:
        super().__init__(name=f"{resource.name}-hooks", daemon=True)
        self._resource, self._paths, self._log = resource, paths, log
        self._seen: Optional[View] = None
        self._since = time.monotonic()
        self._changes: "queue.SimpleQueue[Change]" = queue.SimpleQueue()

    def look(self, kernel: Kernel | None) -> None:
        """Take note of a state; called at each look of the deciding thread, and returns at once."""
        now = view(kernel)
        if now == (self._seen or NOTHING):
            return
        at = time.monotonic()
        self._changes.put((self._seen or NOTHING, now, int(at - self._since)))
        self._seen, self._since = now, at

    def run(self) -> None:
        """Run the scripts for each change, those that came meanwhile merged; until the process ends."""
        while True:
            old, new, stable_s = self._changes.get()
            while not self._changes.empty():
                _, new, _ = self._changes.get()
            if old != new:
                for script in self._scripts():
                    self._call(script, old, new, stable_s)

    def _scripts(self) -> List[Path]:
        """Return what may be run: executables of root's that nobody else can write."""
        found = []
        for path in sorted(self._paths.hooks.glob("[!.]*")):
            try:
                mode = path.stat()
            except OSError:
                continue
            if not stat.S_ISREG(mode.st_mode) or not mode.st_mode & stat.S_IXUSR or path.name.endswith("~"):
                continue
            if mode.st_uid != os.geteuid() or mode.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                self._tell(path, "not run", "others could write it: chown root, chmod go-w", 0.0)
                continue
            found.append(path)
        return found

    def _call(self, script: Path, old: View, new: View, stable_s: int) -> None:
        began = time.monotonic()
        done = proc.run(
            proc.ordinary([str(script), self._resource.name, *new, self._resource.mount]),
            LIMIT_S,
            {
                "OLD_CONNECTED_STATE": old.connection,
                "OLD_SELF_ROLE": old.self_role,
                "OLD_REMOTE_ROLE": old.remote_role,
                "OLD_SELF_DISK": old.self_disk,
                "OLD_REMOTE_DISK": old.remote_disk,
                "ALL_MOUNTS": " ".join(self._mounts()),
                "STABLE_SECONDS": str(stable_s),
            },
        )
        outcome = "done" if done.ok else f"exit {done.code}"
        self._tell(script, outcome, done.last_line, time.monotonic() - began)

    def _mounts(self) -> List[str]:
        """Return where the resource is, or is to be, mounted."""
        found = {self._resource.mount}
        try:
            lines = (self._paths.proc / "self/mounts").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        found |= {words[1] for words in (line.split() for line in lines) if words[0] == self._resource.device}
        return sorted(found)

    def _tell(self, script: Path, outcome: str, why: str, took_s: float) -> None:
        self._log.add(
            self._resource.name, rule="hook", action=f"run {script.name}", outcome=outcome, why=why, took_s=took_s
        )
