"""Faults of DRBD's disks: another table in the layer of device-mapper that a node of the lab puts over each.

A node that restarts has whole disks again: the layers are made anew at each boot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from lab.deadline import Deadline
from lab.errors import BadInput, HapairError
from lab.providers.base import Node
from lab.scenario.faults import Faults, placed

Part = Literal["data", "meta"]
LIMIT_S = 20.0
READY_S = 60.0

# The arguments of a table after start and length; {below} is the disk, or what leads to it
# (Documentation/admin-guide/device-mapper: linear, flakey with a down interval only, delay; error has no arguments).
WHOLE = "linear {below} 0"
FAILS = {
    (True, True): ("disk_errors", "error"),
    (False, True): ("disk_write_errors", "flakey {below} 0 0 1 1 error_writes"),
    (True, False): ("disk_read_errors", "flakey {below} 0 0 1 1 error_reads"),
}


@contextmanager
def failing(
    faults: Faults, node: str, *, reads: bool = True, writes: bool = True, part: Part = "data", leaves: str = ""
) -> Iterator[None]:
    """Let every read, every write, or both, of a node's disk end with an I/O error.

    Raises:
        BadInput: neither is to fail, or the node's disks have no layer for faults.
    """
    if (reads, writes) not in FAILS:
        raise BadInput("a disk that fails neither reads nor writes is whole", "give reads or writes")
    name, table = FAILS[reads, writes]
    there = faults.lab.nodes[node]
    _check(there, part)
    with placed(
        faults.history, name, node, partial(_put, there, part, table), partial(_heal, there, part), leaves=leaves
    ):
        yield


@contextmanager
def slow(faults: Faults, node: str, delay_s: float, *, part: Part = "data", leaves: str = "") -> Iterator[None]:
    """Let every read and write of a node's disk begin so much later.

    Raises:
        BadInput: the node's disks have no layer for faults.
    """
    there = faults.lab.nodes[node]
    _check(there, part)
    put = partial(_put, there, part, f"delay {{below}} 0 {round(delay_s * 1000)}")
    with placed(faults.history, "disk_slow", node, put, partial(_heal, there, part), leaves=leaves):
        yield


@contextmanager
def hanging(faults: Faults, node: str, *, part: Part = "data", leaves: str = "") -> Iterator[None]:
    """Let whatever is asked of a node's disk wait, until the way out.

    Raises:
        BadInput: the node's disks have no layer for faults.
    """
    there = faults.lab.nodes[node]
    _check(there, part)
    suspend = partial(_dmsetup, there, "suspend", "--noflush", "--nolockfs", f"r0-{part}")
    with placed(faults.history, "disk_hangs", node, suspend, partial(_heal, there, part), leaves=leaves):
        yield


def _check(node: Node, part: Part) -> None:
    if node.run(["test", "-b", _below(part)], limit_s=LIMIT_S, check=False).code != 0:
        raise BadInput(
            f"the disks of {node.name} have no layer for faults",
            "a lab from before there were any: destroy it, bring it up again",
        )


def _below(part: Part) -> str:
    """Return where the layer leads (hostfiles/lab/root/usr/lib/hapair-lab/disks)."""
    return f"/dev/disk/by-hapair/r0-{part}-below"


def _put(node: Node, part: Part, table: str) -> None:
    """Give the upper layer another table; what is under way goes the new way."""
    sectors = node.run(["blockdev", "--getsz", f"/dev/mapper/r0-{part}"], limit_s=LIMIT_S).text.strip()
    there = f"0 {sectors} {table.format(below=_below(part))}"
    _dmsetup(node, "load", f"r0-{part}", "--table", there)
    _dmsetup(node, "suspend", "--noflush", "--nolockfs", f"r0-{part}")
    _dmsetup(node, "resume", f"r0-{part}")


def _heal(node: Node, part: Part) -> None:
    """Lead the layer to the disk again. A node that is off, or restarts just now, finds it whole at its next boot."""
    for last in (False, True):
        if node.state() == "off":
            return
        try:
            node.wait_ready(Deadline.after(READY_S))
            _put(node, part, WHOLE)
            return
        except HapairError:
            if last:
                raise


def _dmsetup(node: Node, *arguments: str) -> None:
    node.run(["env", "DM_DISABLE_UDEV=1", "dmsetup", *arguments], limit_s=LIMIT_S)
