"""What must hold among the fields of a site, beyond each field's own type. Pure; finds every fault, not the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from lab.hosts.site import Container, Site

# What each kind of fence store must have, and may have, beside `kind` and `timeout_s`.
STORE_KEYS = {
    "http": (("url",), ("credentials", "ca")),
    "gcs": (("bucket",), ("prefix", "endpoint", "credentials", "ca")),
    "s3": (("bucket", "credentials"), ("prefix", "endpoint", "region", "ca")),
}

Where = tuple[str | int, ...]
Fault = tuple[Where, str]

# Mounting over any of these hides what the node needs to run.
SYSTEM_FOLDERS = frozenset(
    ("bin", "boot", "dev", "etc", "home", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var")
)


def faults(site: Site) -> list[Fault]:
    """Return every fault of a site: the path of its key, and a sentence."""
    if len(site.nodes) != 2:
        # All that follows speaks of the one node and the other.
        return [(("nodes",), f"a pair has exactly two nodes, not {len(site.nodes)}")]
    parts = (_names, _hardware, _networks, _containers, _store, _resources, _disks, _drbd_times, _fence_times, _box)
    return [fault for part in parts for fault in part(site)]


def _twice(kind: str, values: Iterable[tuple[Where, object]]) -> Iterator[Fault]:
    """Find values that stand at more than one place."""
    first: dict[object, Where] = {}
    for where, value in values:
        if value in first:
            yield where, f"{kind} {value} is taken by {'.'.join(map(str, first[value]))} already"
        else:
            first[value] = where


def _names(site: Site) -> Iterator[Fault]:
    yield from _twice(
        "the name",
        [(("nodes", name), name) for name in site.nodes]
        + [(("resources", name), name) for name in site.resources]
        + [(("containers", name), name) for name in site.containers],
    )
    for name in site.nodes:
        if name == "third":
            yield ("nodes", name), "third is the name of the lab's third machine"


def _hardware(site: Site) -> Iterator[Fault]:
    yield from _twice("the uuid", [(("nodes", name, "uuid"), node.uuid) for name, node in site.nodes.items()])
    yield from _twice(
        "the MAC address",
        [
            (("nodes", name, kind, "mac"), getattr(node, kind).mac)
            for name, node in site.nodes.items()
            for kind in ("lan", "crossover")
        ]
        + [(("lab", "third", "mac"), site.lab.third.mac)],
    )
    for name, node in site.nodes.items():
        if node.lan.interface == node.crossover.interface:
            yield ("nodes", name, "crossover", "interface"), f"{node.lan.interface} is the name of the LAN's interface"
    first, second = site.nodes
    if site.nodes[first].lan.interface != site.nodes[second].lan.interface:
        # A container's configuration moves with it, and names the interface it hangs on.
        yield (
            ("nodes", second, "lan", "interface"),
            f"must be {site.nodes[first].lan.interface} as on {first}: containers move between the nodes",
        )


def _networks(site: Site) -> Iterator[Fault]:
    first, second = site.nodes.items()
    for kind in ("lan", "crossover"):
        one, two = getattr(first[1], kind).address.network, getattr(second[1], kind).address.network
        if one != two:
            yield ("nodes", second[0], kind, "address"), f"is in {two}, but {first[0]} is in {one}"
    lan, crossover = first[1].lan.address.network, first[1].crossover.address.network
    if lan.overlaps(crossover):
        yield ("nodes", first[0], "crossover", "address"), f"{crossover} overlaps the LAN {lan}"
    if site.lab.third.address.network != lan:
        yield ("lab", "third", "address"), f"is in {site.lab.third.address.network}, but the LAN is {lan}"
    if site.network.gateway is not None and site.network.gateway not in lan:
        yield ("network", "gateway"), f"{site.network.gateway} is not in the LAN {lan}"
    for name, node in site.nodes.items():
        for kind in ("lan", "crossover"):
            address = getattr(node, kind).address
            if address.network.prefixlen < 31 and address.ip in (
                address.network.network_address,
                address.network.broadcast_address,
            ):
                yield ("nodes", name, kind, "address"), f"{address.ip} is no host's address in {address.network}"
    yield from _twice("the address", _addresses(site))


def _addresses(site: Site) -> list[tuple[Where, IPv4Address]]:
    """Every address of the site that must be one machine's alone."""
    found: list[tuple[Where, IPv4Address]] = []
    for name, node in site.nodes.items():
        found.append((("nodes", name, "lan", "address"), node.lan.address.ip))
        found.append((("nodes", name, "crossover", "address"), node.crossover.address.ip))
    found.append((("lab", "third", "address"), site.lab.third.address.ip))
    if site.network.gateway is not None:
        found.append((("network", "gateway"), site.network.gateway))
    for name, container in site.containers.items():
        found.extend((("containers", name, "addresses", at), ip) for at, ip in enumerate(container.addresses))
    return found


def _containers(site: Site) -> Iterator[Fault]:
    for name, container in site.containers.items():
        if container.resource not in site.resources:
            yield ("containers", name, "resource"), f"there is no resource {container.resource}"
        yield from _outside(site, name, container)


def _outside(site: Site, name: str, container: Container) -> Iterator[Fault]:
    lan = next(iter(site.nodes.values())).lan.address.network
    for at, ip in enumerate(container.addresses):
        if ip not in lan or ip in (lan.network_address, lan.broadcast_address):
            yield ("containers", name, "addresses", at), f"{ip} is no host's address in the LAN {lan}"


def _store(site: Site) -> Iterator[Fault]:
    needed, possible = STORE_KEYS[site.store.kind]
    for key in needed:
        if not getattr(site.store, key):
            yield ("store", key), f"a store of kind {site.store.kind} needs it"
    for key in ("url", "bucket", "prefix", "endpoint", "region", "credentials", "ca"):
        if getattr(site.store, key) and key not in (*needed, *possible):
            yield ("store", key), f"a store of kind {site.store.kind} has no such key"
    if site.store.kind == "gcs" and not (site.store.credentials or site.store.endpoint):
        yield ("store", "credentials"), "Google's own store needs it"
    for key in ("url", "endpoint"):
        yield from _outside_the_pair(site, key)


def _outside_the_pair(site: Site, key: str) -> Iterator[Fault]:
    try:
        host, port = urlsplit(getattr(site.store, key)).hostname, urlsplit(getattr(site.store, key)).port
    except ValueError as error:
        yield ("store", key), str(error)
        return
    if port == 0:
        yield ("store", key), "port 0 is none"
    inside = {
        str(ip): f"{where[0]}.{where[1]}" for where, ip in _addresses(site) if where[0] in ("nodes", "containers")
    }
    inside |= {name: f"nodes.{name}" for name in site.nodes} | {name: f"containers.{name}" for name in site.containers}
    if host in inside:
        yield ("store", key), f"the fence store must be outside both nodes, but {host} is {inside[host]}"


def _resources(site: Site) -> Iterator[Fault]:
    each = site.resources.items()
    yield from _twice("the minor number", [(("resources", name, "minor"), it.minor) for name, it in each])
    yield from _twice("the port", [(("resources", name, "port"), it.port) for name, it in each])
    for name, resource in each:
        top = resource.mount.split("/")[1]
        if top in SYSTEM_FOLDERS:
            yield ("resources", name, "mount"), f"/{top} belongs to the node's own system"
        for other, it in each:
            if name != other and (resource.mount + "/").startswith(it.mount + "/"):
                yield ("resources", name, "mount"), f"lies in the mount point of {other}"
        if resource.preferred not in site.nodes:
            yield ("resources", name, "preferred"), f"there is no node {resource.preferred}"


def _disks(site: Site) -> Iterator[Fault]:
    for name, node in site.nodes.items():
        for resource in sorted(site.resources.keys() - node.disks.keys()):
            yield ("nodes", name, "disks"), f"no disks for the resource {resource}"
        for resource in sorted(node.disks.keys() - site.resources.keys()):
            yield ("nodes", name, "disks", resource), f"there is no resource {resource}"
        yield from _twice(
            "the disk",
            [
                (("nodes", name, "disks", resource, role), path)
                for resource, disks in node.disks.items()
                for role, path in (("data", disks.data), ("meta", disks.meta))
            ],
        )


def _drbd_times(site: Site) -> Iterator[Fault]:
    """drbd.conf-8.4(5): timeout must be lower than connect-int and ping-int."""
    times = site.times
    for key in ("ping_int_s", "connect_int_s"):
        if times.timeout_s >= getattr(times, key):
            yield ("times", "timeout_s"), f"DRBD wants it below {key}, which is {getattr(times, key)}"


def _fence_times(site: Site) -> Iterator[Fault]:
    """F10: a Secondary may ask for the lock only when a cut-off Primary has removed itself for certain."""
    times = site.times
    noticed = max(times.ping_int_s + times.ping_timeout_s, times.timeout_s * times.ko_count)
    least = noticed + times.selffence_s + times.watchdog_s + times.margin_s
    # Tenths of a second have no exact binary form; a sum that is equal on paper must not pass by rounding.
    if times.grace_s - least < 1e-6:
        yield (
            ("times", "grace_s"),
            f"{times.grace_s:g} s is too short (rule F10): must be above max(ping_int_s + ping_timeout_s,"
            f" timeout_s * ko_count) + selffence_s + watchdog_s + margin_s = {least:g} s",
        )
    if times.watchdog_s == 0 and not times.allow_no_watchdog:
        yield (
            ("times", "watchdog_s"),
            "without a watchdog a hung node may go on serving (rule F10); name one, or set allow_no_watchdog: true",
        )
    if times.watchdog_s > 0 and times.allow_no_watchdog:
        yield ("times", "allow_no_watchdog"), "contradicts watchdog_s, which names a watchdog"


def _box(site: Site) -> Iterator[Fault]:
    """Of the lab's own boxes there is one version each, made when it is needed; others are in the user's Vagrant."""
    lab = site.lab
    if lab.box.startswith("hapair/"):
        yield ("lab", "box"), f"a lab makes its own boxes: name the release alone, {lab.box.removeprefix('hapair/')}"
    elif lab.box_version and "/" not in lab.box:
        yield ("lab", "box_version"), f"{lab.box} is the lab's own box, of which there are no versions to choose from"
