"""Where things are in the lab of a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.hosts.site import Site
from lab.scenario.observed import NODES


@dataclass(frozen=True)
class Place:
    """Where the first container of a site is, and whom else the third node has to know."""

    container: str
    address: str
    observer: str
    resource: str
    mount: str
    lxd_dir: str
    lan: str
    lock_url: str
    macs: Mapping[str, str]
    owners: Mapping[str, str]
    clients: Mapping[str, str]

    @property
    def lock_name(self) -> str:
        """The lock's name in the store."""
        return self.lock_url.rpartition("/")[2]

    @classmethod
    def of(cls, site: Site) -> Place:
        """Return what a site file says."""
        container, spec = next(iter(site.containers.items()))
        resource = site.resources[spec.resource]
        return cls(
            container=container,
            address=str(spec.addresses[0]),
            observer=_unused(site),
            resource=spec.resource,
            mount=resource.mount,
            lxd_dir=resource.lxd_dir,
            lan=site.nodes[NODES[0]].lan.interface,
            lock_url=f"{site.store.url}/v1/locks/{site.pair}-{spec.resource}",
            macs={node.lan.mac: name for name, node in site.nodes.items()},
            owners={str(node.uuid): name for name, node in site.nodes.items()},
            clients={str(node.lan.address.ip): name for name, node in site.nodes.items()},
        )


def _unused(site: Site) -> str:
    """Return the highest address of the LAN that the site gives to nobody."""
    taken = {node.lan.address.ip for node in site.nodes.values()} | {site.lab.third.address.ip}
    taken |= {address for spec in site.containers.values() for address in spec.addresses}
    lan = site.lab.third.address.network
    return str(next(host for number in range(2, lan.num_addresses) if (host := lan[-number]) not in taken))
