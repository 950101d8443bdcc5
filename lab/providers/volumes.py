"""The storage pool of a lab's machines, seen from outside: files go in and out, whichever daemon it belongs to.

The pool of a daemon of the lab's own is a folder of the lab. That of the host's daemon belongs to the daemon: its files
may be closed to this user, and those that are put in must not be hard links, for libvirt gives them other owners.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Protocol

from lab import proc
from lab.providers import libvirt
from lab.providers.base import Hypervisor
from lab.providers.copying import copy_sparse

FOLDER = "pool"
"""In a lab's folder: the pool of a daemon of its own."""
TRANSFER_S = 300.0


class Volumes(Protocol):
    """The files of a pool."""

    def put(self, source: Path, name: str, *, shared: bool = False) -> None:
        """Put a file in under a name. It may be the same file inside and outside when it is `shared`: never written."""

    def get(self, name: str, target: Path) -> None:
        """Copy a file out; what is there is replaced."""

    def refresh(self) -> None:
        """Let the daemon see what was put in."""


class FolderVolumes:
    """The pool of a lab's own daemon."""

    def __init__(self, folder: Path, uri: str, pool: str) -> None:
        self._folder, self._uri, self._pool = folder, uri, pool

    def put(self, source: Path, name: str, *, shared: bool = False) -> None:
        """See Volumes."""
        target = self._folder / name
        if not shared:
            copy_sparse(source, target)
            return
        try:
            target.hardlink_to(source)
        except OSError:  # another file system
            shutil.copyfile(source, target)

    def get(self, name: str, target: Path) -> None:
        """See Volumes."""
        copy_sparse(self._folder / name, target)

    def refresh(self) -> None:
        """See Volumes."""
        libvirt.virsh(self._uri, "pool-refresh", self._pool)


class DaemonVolumes:
    """The pool of a daemon that may run as another user: everything goes through it."""

    def __init__(self, uri: str, pool: str) -> None:
        self._uri, self._pool = uri, pool

    def put(self, source: Path, name: str, *, shared: bool = False) -> None:  # noqa: ARG002 - nothing is shared here
        """See Volumes."""
        # As a raw file of no size, which the upload makes as long as it is: nothing is made only to be overwritten.
        self._ask("vol-create-as", self._pool, name, "0", "--format", "raw")
        self._ask("vol-upload", name, str(source), "--pool", self._pool, "--sparse")

    def get(self, name: str, target: Path) -> None:
        """See Volumes."""
        self._ask("vol-download", name, str(target), "--pool", self._pool, "--sparse")

    def refresh(self) -> None:
        """See Volumes."""
        self._ask("pool-refresh", self._pool)

    def _ask(self, *arguments: str) -> None:
        libvirt.virsh(self._uri, *arguments, limit_s=TRANSFER_S)


def of(folder: Path, hypervisor: Hypervisor) -> Volumes:
    """Return the pool of the running lab in `folder`."""
    uri = (folder / libvirt.URI_FILE).read_text()
    if hypervisor.host:
        return DaemonVolumes(uri, hypervisor.pool)
    return FolderVolumes(folder / FOLDER, uri, hypervisor.pool)


def as_qcow2(source: Path, target: Path, limit_s: float) -> None:
    """Make QEMU's format of a file's bytes, as every disk of a machine with snapshots must be."""
    program = proc.which("qemu-img", "qemu-utils")
    proc.run([program, "convert", "-f", "raw", "-O", "qcow2", source, target], limit_s=limit_s)
