"""What the supervisor asks of a node, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from lab.providers.base import NodePlan, NodeState, NodeStatus
from lab.providers.control import ControlLine

Log = Callable[..., None]


class Machine(Protocol):
    """A node of the lab: switched on and off, frozen, put back, asked for its state."""

    plan: NodePlan

    def prepare(self) -> None:
        """Make the folders and files that it expects (BadInput when they belong to something else)."""

    @property
    def pid(self) -> int | None:
        """The process to kill when a killed supervisor has left it behind."""

    @property
    def state(self) -> NodeState:
        """On, off or frozen."""

    @property
    def line(self) -> ControlLine:
        """The control line (HapairError when the node is off)."""

    def status(self) -> NodeStatus:
        """Return what `lab.status` shows."""

    async def power_on(self) -> None:
        """Switch on; a node that is on stays as it is."""

    async def power_off(self) -> None:
        """Cut the power, and return when the node is off."""

    async def freeze(self) -> None:
        """Stop the node in its tracks."""

    async def thaw(self) -> None:
        """Let a frozen node go on."""

    async def snapshot(self) -> None:
        """Keep the present state for `restore`."""

    async def restore(self) -> None:
        """Put the node back to the snapshot, whatever it does now."""

    async def wait_ready(self, limit_s: float) -> None:
        """Wait until its control agent answers (TimedOut with the last console lines)."""

    async def attach_disk(self, slot: str, path: Path) -> None:
        """Plug in a disk."""

    async def detach_disk(self, slot: str) -> None:
        """Pull out a disk that nothing has open."""

    async def sysrq(self, key: str) -> None:
        """Press Alt+SysRq+`key`."""
