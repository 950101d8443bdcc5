"""Where the runtime's files live on a node; tests put all of it under a folder of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Absolute paths below `root` ("/" on a node).

    `run` is a tmpfs: what lies there survives the agent, not the boot. `state` is on the root disk, never on DRBD.
    """

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """The runtime's only input."""
        return self.root / "etc/hapair/hapair.json"

    @property
    def sdk(self) -> Path:
        """The SDKs of cloud stores, one folder for each kind and Python version."""
        return self.root / "usr/lib/hapair/sdk"

    @property
    def hooks(self) -> Path:
        """A person's scripts, called when a resource's state has changed."""
        return self.root / "etc/hapair/hooks.d"

    @property
    def run(self) -> Path:
        """Sockets, local locks and confirmations of this boot."""
        return self.root / "run/hapair"

    @property
    def socket(self) -> Path:
        """Where the agent listens."""
        return self.run / "agent.sock"

    @property
    def state(self) -> Path:
        """Tombstones and the highest epochs seen."""
        return self.root / "var/lib/hapair"

    @property
    def decisions(self) -> Path:
        """The decision log, JSON lines."""
        return self.root / "var/log/hapair/decisions.jsonl"

    @property
    def events(self) -> Path:
        """DRBD's event stream as the agent read it."""
        return self.root / "var/log/hapair/events2.log"

    @property
    def sysrq(self) -> Path:
        """Where a `b` restarts the machine at once, without sync or unmount."""
        return self.root / "proc/sysrq-trigger"

    @property
    def watchdog(self) -> Path:
        """The hardware watchdog, or softdog."""
        return self.root / "dev/watchdog"

    @property
    def proc(self) -> Path:
        """The process file system."""
        return self.root / "proc"

    @property
    def proc_drbd(self) -> Path:
        """DRBD's state as text; reading it takes none of the kernel's administrative locks."""
        return self.root / "proc/drbd"

    def tombstone(self, resource: str) -> Path:
        """The mark that the local disk of `resource` failed and must not claim (F4)."""
        return self.state / f"{resource}.tombstone"

    def epoch(self, resource: str) -> Path:
        """The highest epoch of the lock that this node has seen (F9)."""
        return self.state / f"{resource}.epoch"

    def note(self, resource: str) -> Path:
        """The confirmation of a SOLO lock of this node, of this boot."""
        return self.run / f"{resource}.solo.json"

    def local_lock(self, resource: str) -> Path:
        """The flock that agent, handlers and commands hold while they change the lock object."""
        return self.run / f"{resource}.lock"

    def attaching(self, resource: str) -> Path:
        """The flock that whoever attaches the replica, or changes its meta-data, holds meanwhile (F9)."""
        return self.run / f"{resource}.attaching"

    def unjudged(self, resource: str) -> Path:
        """The mark on a replica that was attached before the store had told whether it was put back (F9)."""
        return self.run / f"{resource}.unjudged"

    def alike(self, resource: str) -> Path:
        """What was found out in this boot of LXD, liblxc and the id maps, and of which files."""
        return self.run / f"{resource}.alike.json"

    def split_brain(self, resource: str) -> Path:
        """The mark that the kernel found a split brain in this boot (F12)."""
        return self.run / f"{resource}.split-brain"
