"""Copies of a node's replica, as a snapshot below the node is one: made and put back while the node is off."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lab.errors import BadInput, HapairError
from lab.providers.copying import copy_sparse
from lab.providers.plan import SLOTS
from lab.scenario.scene import Scene

LIMIT_S = 60.0
RESYNC = re.compile(r"Began resync as SyncTarget \(will sync (\d+) KB")  # drbd_worker.c


@dataclass(frozen=True)
class Copy:
    """The data and meta-data of one node's replica, as they were when it was made."""

    scene: Scene
    node: str
    files: tuple[tuple[Path, Path], ...]

    def put_back(self) -> None:
        """Let the node find them again at its next start; the copy is gone then.

        Raises:
            HapairError: the node is on.
        """
        _off(self.scene, self.node)
        for disk, copy in self.files:
            copy.replace(disk)
        self.scene.history.note("scenario", "put_back", node=self.node)


def make(scene: Scene, node: str) -> Copy:
    """Copy the replica of a node that is off, beside its disks.

    Raises:
        BadInput: the node's disks are no files of the lab's folder.
        HapairError: the node is on.
    """
    disks = [scene.lab.folder / f"{node}.{scene.place.resource}-{part}" for part in SLOTS]
    if not all(disk.exists() for disk in disks):
        raise BadInput(
            f"{node} keeps its disks elsewhere: a copy can be put back under a User-Mode Linux node only",
            "run this scenario with --provider uml",
        )
    _off(scene, node)
    files = tuple((disk, disk.with_name(f"{disk.name}.copy")) for disk in disks)
    for disk, copy in files:
        copy_sparse(disk, copy)
    scene.history.note("scenario", "copied", node=node)
    return Copy(scene, node, files)


def discard(scene: Scene, node: str) -> None:
    """Do as a person would with a replica that was put back: have it made anew."""
    argv = ["hapair", "restored-replica", scene.place.resource, "--discard", "--confirm", scene.place.resource]
    scene.lab.nodes[node].run(argv, limit_s=LIMIT_S)


def resynced_kib(scene: Scene, node: str) -> int:
    """Return how much DRBD set out to copy to a node in this boot: one that was cut goes on with what is left.

    Raises:
        HapairError: there was none.
    """
    there = scene.lab.nodes[node]
    found = RESYNC.findall(there.run(["journalctl", "-k", "-b", "-o", "cat", "--no-pager"], limit_s=LIMIT_S).text)
    if not found:
        raise HapairError(f"{node} was not synchronised in this boot")
    return max(int(kib) for kib in found)


def _off(scene: Scene, node: str) -> None:
    state = scene.lab.nodes[node].state()
    if state != "off":
        raise HapairError(f"{node} is {state}: its disks can be copied while it is off", "cut its power first")
