"""Objections to a change of the lock, asked under the local lock right before the write; from /proc/drbd.

Reading /proc/drbd takes none of the kernel's administrative locks, so it works while `drbdadm primary` waits for the
very handler that asks.
"""

from __future__ import annotations

from dataclasses import dataclass

from hapair.events import parse_proc
from hapair.paths import Paths
from hapair.states import Kernel


@dataclass(frozen=True)
class Guards:
    """The objections of one resource; each method returns a text, or "" when there is none."""

    paths: Paths
    resource: str
    minor: int

    def kernel(self) -> Kernel | None:
        """Return the resource as /proc/drbd shows it, or None when it is not there."""
        try:
            return parse_proc(self.paths.proc_drbd.read_text()).get(self.minor)
        except OSError:
            return None

    def claim(self) -> str:
        """F1, F4, F9: only a replica whose every volume is UpToDate or Consistent may ask, and none with a mark."""
        if self.paths.tombstone(self.resource).exists():
            return "this disk failed once (tombstone)"
        if self.paths.unjudged(self.resource).exists():
            return "nobody knows whether this replica was put back from a snapshot (F9)"
        kernel = self.kernel()
        if kernel is None:
            return "DRBD does not know the resource"
        if not kernel.claimable:
            return f"own data is not good enough: {', '.join(volume.disk.value for volume in kernel.volumes)}"
        return ""

    def release(self) -> str:
        """F7: Connected, every volume UpToDate on both sides."""
        kernel = self.kernel()
        return "" if kernel is not None and kernel.together else "not (Connected and UpToDate on both sides)"

    def hand_over(self) -> str:
        """F3, F4: the peer must be Connected and UpToDate."""
        kernel = self.kernel()
        return "" if kernel is not None and kernel.peer_current else "the peer is not (Connected and UpToDate)"
