"""From a site to the plan of its lab: what each node boots and what is plugged in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lab.errors import BadInput
from lab.hosts.site import Site
from lab.providers.base import Disk, Interface, LabPlan, NodePlan

LAN_DEVICE = "vec0"
CROSSOVER_DEVICE = "vec1"
"""User-Mode Linux's names of the network cards; a node's .link files rename them by MAC address."""

SLOTS = {"data": "ubdb", "meta": "ubdc"}
"""Disk slots as the image's udev rule knows them (hostfiles/lab/root/etc/udev/rules.d)."""


@dataclass(frozen=True)
class Artifacts:
    """What nodes are made of: files, and the SHA-256 of their content."""

    kernel: Path
    kernel_sha256: str
    image: Path
    image_sha256: str

    @property
    def digests(self) -> dict[str, str]:
        """What a seed made with these artifacts depends on."""
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
            Disk(slot=slot, file=f"{name}.{resource}-{part}", size_bytes=sizes[part] << 20)
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
