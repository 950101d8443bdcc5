"""Mount and LXD of one resource: start, and a stop that is bounded, whatever hangs on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from hapair import proc
from hapair.config import Resource
from hapair.paths import Paths

HOOK_LIMIT_S = 10.0
LXD_SHARE = 0.6
"""Part of the stop's time that LXD may use to shut the containers down; the rest is for killing and unmounting."""
UNMOUNT_S = 5.0
PAUSE_S = 0.1
"""Pause before a busy mount is tried again after its users were killed; no event tells when the last one is gone."""


class Services:
    """Start and stop report (done, text) and raise nothing."""

    def __init__(self, resource: Resource, paths: Paths) -> None:
        self._resource, self._paths = resource, paths

    def mounted(self) -> bool:
        """True when the resource's file system is mounted at its place."""
        return any(point == self._resource.mount for point, _ in self._mounts())

    def lxd_active(self) -> bool:
        """True when the resource's LXD is up."""
        return proc.run(["systemctl", "is-active", "--quiet", self._resource.lxd_unit], 10.0).ok

    def start(self, until: float) -> tuple[bool, str]:
        """Mount, start LXD and run the hook `actions/post-up`; what is there already stays as it is."""
        for unit in (self._resource.mount_unit, self._resource.lxd_unit):
            proc.run(["systemctl", "reset-failed", unit], 10.0)
            done = proc.run(["systemctl", "start", unit], max(1.0, until - time.monotonic()))
            if not done.ok:
                return False, f"systemctl start {unit}: {done.last_line}"
        return True, self._hook("post-up")

    def stop(self, until: float) -> tuple[bool, str]:
        """Stop LXD with its containers, kill what is left, unmount everything below the mount point and itself."""
        text = self._hook("pre-down") if self.mounted() else ""
        unit = self._resource.lxd_unit
        limit_s = max(1.0, (until - time.monotonic()) * LXD_SHARE)
        if not proc.run(["systemctl", "stop", unit], limit_s).ok:
            proc.run(["systemctl", "kill", "--signal=SIGKILL", unit], 5.0)
            proc.run(["systemctl", "stop", unit], 2.0)
            # It was meant to end: the decision log tells how, and a unit that stays failed would cry about it for ever.
            proc.run(["systemctl", "reset-failed", unit], 5.0)
            text = "; ".join(filter(None, (text, f"{unit} was killed: it did not stop within {limit_s:.0f} s")))
        while self.unmount():
            if time.monotonic() >= until:
                return False, f"still mounted: {', '.join(sorted({point for point, _ in self._own_mounts()}))}"
            self.kill_users()
            # Nothing announces that the last user of a mount has gone.
            time.sleep(PAUSE_S)
        proc.run(["systemctl", "stop", self._resource.mount_unit], 5.0)
        if self.lxd_active():
            return False, f"{unit} did not stop"
        return True, text

    def unmount(self) -> int:
        """Try to unmount all of it, deepest first; return how many mounts are left."""
        for point, _ in sorted(self._own_mounts(), key=lambda mount: mount[0].count("/"), reverse=True):
            proc.run(["umount", "--", point], UNMOUNT_S)
        return len(self._own_mounts())

    def kill_users(self) -> int:
        """Kill every process that lives on the file system: containers, and shells that stand in it."""
        killed = 0
        for folder in self._paths.proc.glob("[0-9]*"):
            if int(folder.name) != os.getpid() and (self._rooted_here(folder) or self._uses(folder)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed += 1
        return killed

    def _own_mounts(self) -> list[tuple[str, str]]:
        inside = self._resource.mount + "/"
        return [
            (point, source)
            for point, source in self._mounts()
            if point == self._resource.mount or point.startswith(inside) or source == self._resource.device
        ]

    def _mounts(self, process: str = "self") -> list[tuple[str, str]]:
        """Return (mount point, source) of every mount that `process` sees."""
        found = []
        with contextlib.suppress(OSError):
            for line in (self._paths.proc / process / "mountinfo").read_text(errors="replace").splitlines():
                before, _, after = line.partition(" - ")
                if after:
                    found.append((_plain(before.split()[4]), _plain(after.split()[1])))
        return found

    def _rooted_here(self, folder: Path) -> bool:
        """True for a process of a container: its root file system comes from the resource's device."""
        return any(point == "/" and source == self._resource.device for point, source in self._mounts(folder.name))

    def _uses(self, folder: Path) -> bool:
        """True when a process stands in the file system, runs a program of it, or has a file of it open."""
        links = [folder / "cwd", folder / "root", folder / "exe"]
        with contextlib.suppress(OSError):
            links += list((folder / "fd").iterdir())
        for link in links:
            with contextlib.suppress(OSError):
                target = os.readlink(link)  # noqa: PTH115 - a link of /proc may name what no path can
                if target == self._resource.mount or target.startswith(self._resource.mount + "/"):
                    return True
        return False

    def _hook(self, name: str) -> str:
        """Run the recipe's hook; one that fails is told, and stops nothing."""
        hook = Path(self._resource.mount) / "actions" / name
        if not os.access(hook, os.X_OK):
            return ""
        done = proc.run(proc.ordinary([str(hook)]), HOOK_LIMIT_S, {"LXD_DIR": self._resource.lxd_dir})
        return "" if done.ok else f"{hook}: {done.last_line}"


def _plain(text: str) -> str:
    """Undo the octal escapes of mountinfo."""
    for escape, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, char)
    return text
