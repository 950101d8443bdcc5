"""What the policy reasons about: the states of DRBD 8.4, of the lock and of the services. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hapair.lock import LockRecord


class Role(Enum):
    """Role of a node in one resource."""

    PRIMARY = "Primary"
    SECONDARY = "Secondary"
    UNKNOWN = "Unknown"


class Connection(Enum):
    """State of the connection, in the words of `drbdsetup events2` (drbd-utils 9.22)."""

    STANDALONE = "StandAlone"
    DISCONNECTING = "Disconnecting"
    UNCONNECTED = "Unconnected"
    TIMEOUT = "Timeout"
    BROKEN_PIPE = "BrokenPipe"
    NETWORK_FAILURE = "NetworkFailure"
    PROTOCOL_ERROR = "ProtocolError"
    TEAR_DOWN = "TearDown"
    CONNECTING = "Connecting"
    CONNECTED = "Connected"
    UNKNOWN = "Unknown"


class Disk(Enum):
    """State of a replica of one volume."""

    DISKLESS = "Diskless"
    ATTACHING = "Attaching"
    FAILED = "Failed"
    NEGOTIATING = "Negotiating"
    INCONSISTENT = "Inconsistent"
    OUTDATED = "Outdated"
    UNKNOWN = "DUnknown"
    CONSISTENT = "Consistent"
    UP_TO_DATE = "UpToDate"


class Replication(Enum):
    """State of the replication of one volume; OTHER stands for the short-lived steps of a handshake."""

    OFF = "Off"
    ESTABLISHED = "Established"
    SYNC_SOURCE = "SyncSource"
    PAUSED_SYNC_S = "PausedSyncS"
    SYNC_TARGET = "SyncTarget"
    PAUSED_SYNC_T = "PausedSyncT"
    VERIFY_S = "VerifyS"
    VERIFY_T = "VerifyT"
    OTHER = "Other"


SETTLED = frozenset(
    (
        Replication.ESTABLISHED,
        Replication.SYNC_SOURCE,
        Replication.PAUSED_SYNC_S,
        Replication.VERIFY_S,
        Replication.VERIFY_T,
    )
)
LACKING = frozenset((Disk.DISKLESS, Disk.FAILED, Disk.INCONSISTENT, Disk.OUTDATED))


@dataclass(frozen=True)
class Volume:
    """Both replicas of one volume, as this node sees them."""

    number: int
    disk: Disk = Disk.DISKLESS
    peer_disk: Disk = Disk.UNKNOWN
    replication: Replication = Replication.OFF


@dataclass(frozen=True)
class Helper:
    """The last fence-peer call of the kernel: running, or ended with `status` (exit code × 256)."""

    running: bool
    status: int = 0

    @property
    def failed(self) -> bool:
        """True when it ended with a code that leaves I/O frozen (FAILOVER.md, facts: 3, 4 and 7 are success)."""
        return not self.running and (self.status >> 8) not in (3, 4, 7)


@dataclass(frozen=True)
class Kernel:
    """One resource as the kernel reports it."""

    name: str
    role: Role = Role.SECONDARY
    suspended: frozenset[str] = frozenset()
    connection: Connection = Connection.STANDALONE
    peer_role: Role = Role.UNKNOWN
    volumes: tuple[Volume, ...] = ()
    fence_helper: Helper | None = None

    @property
    def connected(self) -> bool:
        """True once the handshake told the peer's role; "Connected" alone comes milliseconds earlier."""
        return self.connection is Connection.CONNECTED and self.peer_role is not Role.UNKNOWN

    @property
    def data_good(self) -> bool:
        """True when every local volume is UpToDate."""
        return bool(self.volumes) and all(volume.disk is Disk.UP_TO_DATE for volume in self.volumes)

    @property
    def claimable(self) -> bool:
        """True when every local volume is UpToDate or Consistent: the only replicas that may ask for the lock (F1)."""
        return bool(self.volumes) and all(
            volume.disk in (Disk.UP_TO_DATE, Disk.CONSISTENT)
            and volume.replication not in (Replication.SYNC_TARGET, Replication.PAUSED_SYNC_T)
            for volume in self.volumes
        )

    @property
    def peer_current(self) -> bool:
        """True when the peer is connected and every volume there is UpToDate."""
        return self.connected and bool(self.volumes) and all(v.peer_disk is Disk.UP_TO_DATE for v in self.volumes)

    @property
    def together(self) -> bool:
        """True when both replicas hold everything: Connected, every volume UpToDate on both sides."""
        return self.peer_current and self.data_good

    @property
    def settled(self) -> bool:
        """True when no volume is in the middle of a handshake or a resync towards this node."""
        return self.connected and all(volume.replication in SETTLED for volume in self.volumes)

    @property
    def peer_lacks_data(self) -> bool:
        """True when at least one volume of the peer is known to be behind or gone."""
        return self.settled and any(volume.peer_disk in LACKING for volume in self.volumes)


@dataclass(frozen=True)
class Times:
    """The site's time limits, in seconds (F10 says how they hang together)."""

    selffence_s: float
    grace_s: float
    watch_s: float
    stop_s: float
    start_s: float


@dataclass(frozen=True)
class Settings:
    """What the policy knows of the site: who is who, and the time limits."""

    resource: str
    me: str
    peer: str
    peer_name: str
    preferred: bool
    times: Times


@dataclass(frozen=True)
class Observation:
    """One look at one resource.

    `kernel` is None while the kernel does not know the resource; `complete` is False until a dump was read to its end.
    `note` is the confirmation of a SOLO lock of this node, kept since the boot (see `fencing`).
    `refused` says what F11 forbids this node to serve with; empty when nothing does.
    `unjudged` says why an attached replica must claim nothing (F9); empty for one that may.
    `lxd_active` is None when nobody looked yet. `control_busy`, `services_busy` and `watch_busy` say that
    a worker still runs.
    """

    complete: bool
    kernel: Kernel | None
    note: LockRecord | None = None
    tombstone: bool = False
    split_brain: bool = False
    refused: str = ""
    mounted: bool = False
    unjudged: str = ""
    lxd_active: bool | None = None
    control_busy: bool = False
    services_busy: bool = False
    watch_busy: bool = False
