"""What every provider of nodes offers, and the plan that it works from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from lab.deadline import Deadline
from lab.errors import BadInput
from lab.proc import Completed

NodeState = Literal["on", "off", "frozen"]
Direction = Literal["out", "in", "both"]
"""Seen from the node: "out" is node -> cable, "in" is cable -> node."""
Frame = dict[str, Any]
"""One JSON object of a line protocol."""


@dataclass(frozen=True)
class Impairment:
    """What a cable does to the frames of one node in one direction; the default does nothing.

    Times are in seconds, `loss`, `duplicate` and `reorder` are probabilities from 0 to 1. A reordered frame is held
    back so that later ones overtake it; jitter alone keeps the order.
    """

    up: bool = True
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rate_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "reorder"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise BadInput(f"{name}={getattr(self, name)!r} is no probability", "give a number from 0 to 1")
        if self.delay_s < 0 or self.jitter_s < 0:
            raise BadInput("a delay or jitter below 0", "give seconds, 0 or more")
        if self.rate_bytes_per_s is not None and self.rate_bytes_per_s <= 0:
            raise BadInput("a rate of 0 or less", "give bytes a second, or cut the link instead")


CLEAN = Impairment()

Libvirt = Literal["auto", "host", "session", "own"]
LIBVIRTS: tuple[Libvirt, ...] = get_args(Libvirt)
"""Which libvirt daemon runs virtual machines: the names that `--libvirt` takes; lab.providers.hostlibvirt has more."""

Provider = Literal["uml", "vagrant"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
"""What the pair's nodes can be: the names that `--provider` takes. The third node is User-Mode Linux always."""


@dataclass(frozen=True)
class Tunnel:
    """A virtual machine's end of a cable: UDP datagrams of one frame each between two ports of the loopback address."""

    machine_port: int
    relay_port: int


@dataclass(frozen=True)
class Interface:
    """One network card: the network that its cable leads to, its MAC address, its kernel name (`vec0`, `vec1`, …).

    A virtual machine's card has a `tunnel`; the kernel names it as it likes.
    """

    network: str
    mac: str
    device: str
    mtu: int = 1500
    tunnel: Tunnel | None = None


@dataclass(frozen=True)
class Disk:
    """A data disk. `slot` is its kernel name (`ubdb`, …); `file` stands in the lab's folder, made if missing.

    A virtual machine's disk lies in the lab's storage pool, and `serial` is what the node knows it by. With a
    `log_slot`, where the node logs its durable writes, the disk loses what was not flushed when the power is cut.
    """

    slot: str
    file: str
    size_bytes: int
    serial: str = ""
    log_slot: str = ""


@dataclass(frozen=True)
class Virtual:
    """What makes a node a virtual machine: the loopback ports of its control line, of its console, and of its sshd.

    QEMU calls the first two, and listens at the last.
    """

    control_port: int
    console_port: int
    ssh_port: int


@dataclass(frozen=True)
class NodePlan:
    """One node: what it boots and what is plugged in. Its root disk is an overlay of `image` in the lab's folder."""

    name: str
    kernel: Path
    image: Path
    memory_mb: int
    kernel_args: tuple[str, ...] = ()
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    virtual: Virtual | None = None


@dataclass(frozen=True)
class Hypervisor:
    """What the virtual machines of a lab run on.

    Attributes:
        box: the Vagrant box that they are made from, and its `version`.
        kvm: the processor runs them; otherwise QEMU emulates one.
        host: the host's libvirt daemon has them; otherwise one of the lab's own.
        pool: the storage pool that holds their disks.
        direct: they start the kernel beside their box's disk; otherwise the disk's own boot loader does.
        pool_folder: where the host's daemon keeps it; empty for a daemon of the lab's own, whose pool is in the lab's
            folder.
    """

    box: str
    version: str
    kvm: bool
    host: bool = False
    pool: str = "default"
    pool_folder: str = ""
    direct: bool = True


@dataclass(frozen=True)
class LabPlan:
    """All nodes of a lab. Nodes with an interface on the same network are joined by one cable (or hub)."""

    name: str
    nodes: tuple[NodePlan, ...]
    seed: int = 0
    """Of the cables' random numbers."""
    hypervisor: Hypervisor | None = None
    """Of the nodes that are virtual machines, if any is."""

    @property
    def provider(self) -> Provider:
        """What the pair's nodes are."""
        return "vagrant" if self.hypervisor else "uml"

    def dump(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, default=str) + "\n"

    @classmethod
    def load(cls, text: str) -> LabPlan:
        """Read what `dump` wrote.

        Raises:
            BadInput: the text is no plan.
        """
        try:
            data = json.loads(text)
            nodes = tuple(_node(node) for node in data["nodes"])
            hypervisor = Hypervisor(**data["hypervisor"]) if data["hypervisor"] else None
            return cls(**{**data, "nodes": nodes, "hypervisor": hypervisor})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"not a lab plan: {error}", "`invoke lab.destroy`, then `invoke lab.up`") from None


def _node(data: dict[str, Any]) -> NodePlan:
    return NodePlan(
        **{
            **data,
            "kernel": Path(data["kernel"]),
            "image": Path(data["image"]),
            "kernel_args": tuple(data["kernel_args"]),
            "disks": tuple(Disk(**disk) for disk in data["disks"]),
            "interfaces": tuple(_interface(card) for card in data["interfaces"]),
            "virtual": Virtual(**data["virtual"]) if data["virtual"] else None,
        }
    )


def _interface(data: dict[str, Any]) -> Interface:
    return Interface(**{**data, "tunnel": Tunnel(**data["tunnel"]) if data["tunnel"] else None})


@dataclass(frozen=True)
class LinkStatus:
    """One node's end of a network: the faults in force, and frames counted since the start."""

    node: str
    network: str
    plugged: bool
    outward: Impairment
    inward: Impairment
    sent: int
    received: int
    lost: int
    """Frames dropped because a fault asked for it."""
    overflowed: int
    """Frames dropped because the receiving node did not take them."""


@dataclass(frozen=True)
class NodeStatus:
    """One node as its provider sees it."""

    state: NodeState
    ready: bool
    """The control channel answers."""
    boots: int
    mode: str
    """How the node's processes are run: "kvm", "seccomp" (fast), "emulated", "ptrace" (slow) or "" (not known yet)."""
    note: str
    """Why a node is off, or what is wrong with it."""


@dataclass(frozen=True)
class LabStatus:
    """A whole lab; `pid` is its supervisor's."""

    name: str
    pid: int
    nodes: Mapping[str, NodeStatus]
    links: tuple[LinkStatus, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LabStatus:
        """Read what `dataclasses.asdict` made of a status."""
        return cls(
            name=data["name"],
            pid=data["pid"],
            nodes={name: NodeStatus(**node) for name, node in data["nodes"].items()},
            links=tuple(
                LinkStatus(**{**link, "outward": Impairment(**link["outward"]), "inward": Impairment(**link["inward"])})
                for link in data["links"]
            ),
        )


class Node(Protocol):
    """One running (or switched off) machine."""

    @property
    def name(self) -> str:
        """The node's name in the plan."""

    def state(self) -> NodeState:
        """Return whether it is on, off or frozen."""

    def run(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"", check: bool = True) -> Completed:
        """Run a command in the node to its end (CommandFailed as `lab.proc.run`; its group is killed at the limit)."""

    def stream(self, argv: Sequence[str], *, limit_s: float) -> Iterator[bytes]:
        """Yield the lines of a command's standard output as they come; closing the iterator ends the command."""

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a whole file in the node, atomically; missing folders are made."""

    def get(self, path: str) -> bytes:
        """Return a whole file of the node."""

    def clock(self) -> float:
        """Return the node's wall clock, in seconds since 1970."""

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait until the control channel answers (TimedOut with the last console lines)."""

    def power_off(self) -> None:
        """Cut the power: the node's processes are killed at once, and disks with a write log lose what was not flushed.

        A node that is off stays off.
        """

    def power_on(self) -> None:
        """Switch on; does nothing to a node that is on."""

    def freeze(self) -> None:
        """Stop the whole node in its tracks, as a hypervisor's pause would."""

    def thaw(self) -> None:
        """Let a frozen node go on."""

    def attach_disk(self, slot: str, path: Path) -> None:
        """Plug in a disk."""

    def detach_disk(self, slot: str) -> None:
        """Pull out a disk that nothing has open."""

    def sysrq(self, key: str) -> None:
        """Press Alt+SysRq+`key`."""


class Lab(Protocol):
    """A set of nodes and the cables between them."""

    @property
    def name(self) -> str:
        """The lab's name."""

    @property
    def folder(self) -> Path:
        """Where its disks, consoles and events are."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by name."""

    def set_link(self, node: str, network: str, direction: Direction, impairment: Impairment) -> None:
        """Let the cable do this from now on; `CLEAN` heals it."""

    def status(self) -> LabStatus:
        """Return the state of everything."""

    def capture(self, network: str, path: Path) -> AbstractContextManager[Path]:
        """Write the frames of a network to a pcap file for as long as the context lasts."""

    def destroy(self) -> None:
        """End everything and remove everything."""
