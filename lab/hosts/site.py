"""The site file: one YAML file that describes a pair, read into frozen models."""

from __future__ import annotations

import hashlib
import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from lab.hosts import checks
from lab.paths import PROJECT
from lab.yamlio import load_model

EXAMPLE = PROJECT / "hostfiles" / "site.example.yaml"

# Names become parts of unit names, file names, host names and LXD instance names, so they keep to what all of those
# take unescaped. A dash would have to be escaped in unit names, so only hosts and containers may have one.
HostName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}[a-z0-9]$|^[a-z]$")]
# A resource's name is a command on the nodes too, and must not take the place of one that is there.
ResourceName = Annotated[str, Field(pattern=r"^r[0-9]{1,3}$")]
# IFNAMSIZ of linux/if.h is 16, the closing zero byte included.
InterfaceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,14}$")]
# The lowest bit of the first byte marks a group address (IEEE 802), which no interface may have.
Mac = Annotated[str, Field(pattern=r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$")]
# Only names that follow the disk: /dev/sdb is another disk once one is missing at boot.
DiskPath = Annotated[str, Field(pattern=r"^/dev/disk/by-[a-z]+/[A-Za-z0-9._:-]+$")]
Mount = Annotated[str, Field(pattern=r"^(/[a-z0-9_]+)+$")]
ProgramPath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_.+-]+)+$")]
StoreUrl = Annotated[str, Field(pattern=r"^$|^https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?$")]
# Amazon's rules; Google's are the same but for underscores and longer names with dots.
BucketName = Annotated[str, Field(pattern=r"^$|^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$")]
KeyPrefix = Annotated[str, Field(pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$")]
NodeFile = Annotated[str, Field(pattern=r"^$|^(/[A-Za-z0-9_.+-]+)+$")]
# A box of somebody else's is called OWNER/NAME, as in Vagrant's public catalogue.
BOX = r"^[a-z0-9][a-z0-9.-]*$|^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$"
Secret = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+=-]{16,64}$", repr=False)]


class Part(BaseModel):
    """What every part of a site is: frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Interface(Part):
    """One network interface of a node, known by its MAC address and renamed to `interface`."""

    mac: Mac
    interface: InterfaceName
    address: IPv4Interface


class Disks(Part):
    """The two backing devices of one resource on one node."""

    data: DiskPath
    meta: DiskPath


class Node(Part):
    """One of the two machines of the pair; `disks` is keyed by resource."""

    uuid: UUID
    lan: Interface
    crossover: Interface
    disks: dict[ResourceName, Disks]


class Network(Part):
    """What the nodes know of the world behind the LAN."""

    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()


class Store(Part):
    """The fence store, outside both nodes. Which keys each kind has stands in `checks.STORE_KEYS`.

    Credentials and certificates are files on the nodes, put there by hand: nothing of them passes through here.
    """

    kind: Literal["http", "gcs", "s3"] = "http"
    url: StoreUrl = ""
    bucket: BucketName = ""
    prefix: KeyPrefix = ""
    endpoint: StoreUrl = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,40}$")] = ""
    credentials: NodeFile = ""
    ca: NodeFile = ""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 1.0


class AfterSplitBrain(Part):
    """What DRBD may do by itself when two diverged replicas meet again (drbd.conf-8.4(5), after-sb-*).

    All `disconnect`: a human decides (F12). The other values each discard a replica without a question; those that
    discard whatever comes (`violently-as0p`), or need a handler (`call-pri-lost-after-sb`), are not offered.
    """

    zero_primaries: Literal[
        "disconnect",
        "discard-younger-primary",
        "discard-older-primary",
        "discard-zero-changes",
        "discard-least-changes",
    ] = "disconnect"
    one_primary: Literal["disconnect", "consensus", "discard-secondary"] = "disconnect"
    two_primaries: Literal["disconnect"] = "disconnect"


class Resource(Part):
    """One DRBD resource with its file system and its own LXD."""

    minor: Annotated[int, Field(ge=0, le=255)]
    port: Annotated[int, Field(ge=1024, le=65535)]
    mount: Mount
    preferred: HostName
    secret: Secret
    # drbdsetup-84 takes 7 to 65534 activity-log extents (of 4 MiB) and uses 1237 unless told.
    al_extents: Annotated[int, Field(ge=7, le=65534)] = 1237
    resync_mib_per_s: Annotated[int, Field(ge=1, le=4096)] = 100
    after_sb: AfterSplitBrain = AfterSplitBrain()

    @property
    def device(self) -> str:
        """The block device that is mounted."""
        return f"/dev/drbd{self.minor}"

    @property
    def mount_unit(self) -> str:
        """The name systemd wants for the unit of this mount point (systemd.unit(5); `Mount` has no dashes)."""
        return self.mount[1:].replace("/", "-") + ".mount"

    @property
    def lxd_dir(self) -> str:
        """LXD's folder: absolute, else LXD's links dangle and instances fail with "backup.yaml: no such file"."""
        return self.mount + "/lxd"

    @property
    def pool(self) -> str:
        """The btrfs subvolume of the storage pool."""
        return self.mount + "/pools"


class Container(Part):
    """One container with its static addresses on the LAN."""

    resource: ResourceName
    addresses: Annotated[tuple[IPv4Address, ...], Field(min_length=1)]
    image: HostName


class Times(Part):
    """Every time that the failover rests on, in seconds.

    The ranges are those of drbdsetup-84 and the manual drbd.conf-8.4(5); see `checks` for what must hold among them.
    """

    ping_int_s: Annotated[int, Field(ge=1, le=120)]
    ping_timeout_s: Annotated[float, Field(ge=0.1, le=30, multiple_of=0.1)]
    timeout_s: Annotated[float, Field(ge=0.1, le=60, multiple_of=0.1)]
    ko_count: Annotated[int, Field(ge=1, le=200)]
    connect_int_s: Annotated[int, Field(ge=1, le=120)]
    selffence_s: Annotated[float, Field(gt=0, le=600)]
    grace_s: Annotated[float, Field(gt=0, le=3600)]
    watchdog_s: Annotated[float, Field(ge=0, le=600)]
    margin_s: Annotated[float, Field(gt=0, le=600)]
    allow_no_watchdog: bool = False
    watch_s: Annotated[float, Field(gt=0, le=600)] = 2.0
    stop_s: Annotated[int, Field(ge=5, le=3600)] = 20
    start_s: Annotated[int, Field(ge=5, le=3600)] = 60


class Artifact(Part):
    """LXD of our own build (`invoke build.lxd`), unpacked below `prefix` on each node."""

    spec: Annotated[str, Field(pattern=r"^lxd-[0-9][0-9a-z.]*$")]
    liblxc: Literal["own", "system"] = "own"
    prefix: ProgramPath = "/opt/hapair"


DEBIANS_LXD = "/usr/bin/lxd"


class Programs(Part):
    """Where the container tools are on the nodes: Debian's packages, an artifact, or what else stands there."""

    lxd: ProgramPath = DEBIANS_LXD
    artifact: Artifact | None = None

    @model_validator(mode="after")
    def _one_lxd(self) -> Self:
        if self.artifact and self.lxd != DEBIANS_LXD:
            raise PydanticCustomError("site", "give either lxd or artifact: the artifact says where its lxd is")
        return self

    @property
    def tree(self) -> str:
        """The artifact's folder on a node; empty without one."""
        return f"{self.artifact.prefix}/{self.artifact.spec}" if self.artifact else ""

    @property
    def daemon(self) -> str:
        """LXD's daemon."""
        return f"{self.tree}/bin/lxd" if self.artifact else self.lxd

    @property
    def lxc_share(self) -> str:
        """Where liblxc's configuration and hooks are, when liblxc is not the distribution's; else empty."""
        return f"{self.tree}/share/lxc" if self.artifact and self.artifact.liblxc == "own" else ""


class Third(Part):
    """The lab's third machine: client and fence store."""

    address: IPv4Interface
    mac: Mac


class Rehearsal(Part):
    """What the lab needs to rehearse this pair."""

    provider: Literal["auto", "uml", "vagrant"] = "auto"
    """What the nodes are; "auto": whatever works best on the machine that runs the lab."""
    libvirt: Literal["auto", "host", "session", "own"] = "auto"
    """Which libvirt daemon runs virtual machines; "auto": the host's where it may be used, else the lab's own."""
    box: Annotated[str, Field(pattern=BOX)] = "debian-12"
    """What virtual machines are made from: a release of the lab's own boxes, or a box in the user's Vagrant."""
    box_version: Annotated[str, Field(pattern=r"^$|^[0-9][0-9A-Za-z.+-]*$")] = ""
    """Of a box in the user's Vagrant; empty: the newest that is there."""
    memory_mb: Annotated[int, Field(ge=256, le=65536)]
    third_memory_mb: Annotated[int, Field(ge=64, le=65536)]
    # btrfs makes no file system below 109 MiB (mkfs.btrfs(8)).
    data_mb: Annotated[int, Field(ge=128, le=1048576)]
    meta_mb: Annotated[int, Field(ge=8, le=65536)]
    third: Third


class Site(Part):
    """A whole pair. Made only when every cross-field check holds."""

    pair: HostName
    nodes: dict[HostName, Node]
    network: Network = Network()
    store: Store
    resources: Annotated[dict[ResourceName, Resource], Field(min_length=1)]
    containers: dict[HostName, Container] = {}
    times: Times
    programs: Programs = Programs()
    lab: Rehearsal

    @model_validator(mode="after")
    def _cross_fields(self) -> Self:
        faults = checks.faults(self)
        if faults:
            raise ValidationError.from_exception_data(
                "Site",
                [
                    InitErrorDetails(type=PydanticCustomError("site", "{text}", {"text": text}), loc=where, input=None)
                    for where, text in faults
                ],
            )
        return self

    def peer_of(self, node: str) -> str:
        """Return the name of the other node."""
        (other,) = (name for name in self.nodes if name != node)
        return other

    @property
    def digest(self) -> str:
        """SHA-256 over every value (not the layout, nor the comments) of the site, in hex."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_site(path: Path = EXAMPLE) -> Site:
    """Read a site file.

    Raises:
        BadInput: it cannot be read, or something in it is wrong; every fault names file, line and key.
    """
    return load_model(path, Site)
