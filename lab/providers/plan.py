"""From a site to the plan of its lab: what each node boots and what is plugged in."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lab.errors import BadInput
from lab.hosts.site import Site
from lab.providers import hostlibvirt
from lab.providers.base import Disk, Hypervisor, Interface, LabPlan, NodePlan, Tunnel, Virtual
from lab.providers.box import Box
from lab.providers.cable import LOOPBACK

LAN_DEVICE = "vec0"
CROSSOVER_DEVICE = "vec1"
"""User-Mode Linux's names of the network cards; a node's .link files rename them by MAC address."""

SLOTS = {"data": "ubdb", "meta": "ubdc"}
LOG_SLOTS = {"data": "ubdd", "meta": "ubde"}
"""Disks and the logs of their durable writes, as the image knows them (hostfiles/lab/root/usr/lib/hapair-lab/disks)."""

VIRTUAL_SLOTS = {"data": "vdb", "meta": "vdc"}
"""The same in a virtual machine; there a disk's serial, not its slot, is what the node knows it by."""

QCOW2 = ".qcow2"
"""What the name of a virtual machine's disk has more than that of a User-Mode Linux node's."""

FILES = "hapair-files"
"""Serial of the disk that holds a machine's rendered files as a tar archive: the box's initrd unpacks it."""


@dataclass(frozen=True)
class Artifacts:
    """What nodes are made of: files, and the SHA-256 of their content."""

    kernel: Path
    kernel_sha256: str
    image: Path
    image_sha256: str
    box: Box | None = None
    """What the pair is made of when its nodes are virtual machines."""
    programs: Path | None = None
    """LXD of our own build (.tar.zst), if the site names one."""

    @property
    def digests(self) -> dict[str, str]:
        """What a seed made with these artifacts depends on."""
        box = {"box": self.box.digest} if self.box else {}
        return {**self.without_box, **box}

    @property
    def without_box(self) -> dict[str, str]:
        """What a seed depends on that User-Mode Linux nodes make."""
        return {"kernel": self.kernel_sha256, "image": self.image_sha256}


def make_plan(site: Site, name: str, artifacts: Artifacts, seed: int = 0) -> LabPlan:
    """Return the plan of a lab called `name`; `seed` is that of the cables' random faults.

    Raises:
        BadInput: the site has more resources than the lab's nodes have disks for, or no container.
    """
    if not site.containers:
        raise BadInput("the site has no container, and a lab is up once its container answers", "add one")
    if len(site.resources) > 1:
        raise BadInput(
            f"the lab's nodes hold the disks of one resource, the site has {len(site.resources)}",
            "rehearse one resource at a time",
        )
    pair = tuple(_pair_node(site, node, artifacts) for node in site.nodes)
    return LabPlan(name=name, nodes=(*pair, _third_node(site, artifacts)), seed=seed)


def _pair_node(site: Site, name: str, artifacts: Artifacts) -> NodePlan:
    node = site.nodes[name]
    sizes = {"data": site.lab.data_mb, "meta": site.lab.meta_mb}
    return NodePlan(
        name=name,
        kernel=artifacts.kernel,
        image=artifacts.image,
        memory_mb=site.lab.memory_mb,
        disks=tuple(
            Disk(slot, f"{name}.{resource}-{part}", sizes[part] << 20, log_slot=LOG_SLOTS[part])
            for resource in site.resources
            for part, slot in SLOTS.items()
        ),
        interfaces=(
            Interface(network="lan", mac=node.lan.mac, device=LAN_DEVICE),
            Interface(network="crossover", mac=node.crossover.mac, device=CROSSOVER_DEVICE),
        ),
    )


def _third_node(site: Site, artifacts: Artifacts) -> NodePlan:
    return NodePlan(
        name="third",
        kernel=artifacts.kernel,
        image=artifacts.image,
        memory_mb=site.lab.third_memory_mb,
        kernel_args=("init=/usr/lib/hapair-lab/third-init", f"hapair.address={site.lab.third.address}"),
        interfaces=(Interface(network="lan", mac=site.lab.third.mac, device=LAN_DEVICE),),
    )


def with_machines(plan: LabPlan, hypervisor: Hypervisor) -> LabPlan:
    """Return a plan whose pair are virtual machines, reached at loopback ports that are free just now.

    Each gets one disk more, for its rendered files.
    """
    pair = [node for node in plan.nodes if node.disks]
    with _free_ports() as ports:
        nodes = {node.name: _virtual(node, ports) for node in pair}
    if hypervisor.host:
        hypervisor = _on_host(hypervisor, plan.name)
    return replace(plan, hypervisor=hypervisor, nodes=tuple(nodes.get(node.name, node) for node in plan.nodes))


def _on_host(hypervisor: Hypervisor, lab: str) -> Hypervisor:
    """Give a lab a pool of its own on the host's daemon, and its box a name of its own.

    Vagrant's plugin looks for a box's disk by name in every pool: it must not build on one that goes with another lab.
    """
    pool = hostlibvirt.pool_name(lab)
    box = f"{pool}/{hypervisor.box.rpartition('/')[2]}"
    return replace(hypervisor, box=box, pool=pool, pool_folder=str(hostlibvirt.IMAGES / pool))


def _virtual(node: NodePlan, ports: Iterator[int]) -> NodePlan:
    slots = {SLOTS[part]: slot for part, slot in VIRTUAL_SLOTS.items()}
    disks = (
        Disk(slots[disk.slot], f"{disk.file}{QCOW2}", disk.size_bytes, serial=disk.file.removeprefix(f"{node.name}."))
        for disk in node.disks
    )
    files = Disk("vdd", f"{node.name}.files{QCOW2}", 0, serial=FILES)
    cards = (replace(card, tunnel=Tunnel(next(ports), next(ports))) for card in node.interfaces)
    virtual = Virtual(control_port=next(ports), console_port=next(ports), ssh_port=next(ports))
    return replace(node, kernel_args=(), disks=(*disks, files), interfaces=tuple(cards), virtual=virtual)


@contextlib.contextmanager
def _free_ports() -> Iterator[Iterator[int]]:
    """Yield free ports, TCP and UDP alike, each only once: all are held until the context ends."""
    with contextlib.ExitStack() as held:

        def ports() -> Iterator[int]:
            while True:
                stream = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
                datagram = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                stream.bind((LOOPBACK, 0))
                port = int(stream.getsockname()[1])
                with contextlib.suppress(OSError):
                    datagram.bind((LOOPBACK, port))
                    yield port

        yield ports()
