"""Sites for the tests: the example as plain data, and random ones that are valid."""

from __future__ import annotations

import copy
import math
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from hypothesis import strategies as st

from lab.hosts.site import EXAMPLE, Site, load_site

Data = dict[str, Any]
Where = tuple[str | int, ...]

_EXAMPLE = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
# The one on libyaml where PyYAML has it: several hundred sites are written, and only reading them is looked at.
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
NETWORKS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/25", "198.18.0.0/16")


def example() -> Data:
    """Return the example site as data that may be changed."""
    return copy.deepcopy(_EXAMPLE)


@cache
def example_site() -> Site:
    """Return the example site, read once: tests do not change it, and reading takes a while."""
    return load_site()


def load(folder: Path, data: Data) -> Site:
    """Write data as a site file and read that."""
    path = folder / "site.yaml"
    path.write_text(yaml.dump(data, Dumper=_Dumper, sort_keys=False), encoding="utf-8")
    return load_site(path)


def put(data: Data, where: Where, value: object) -> Data:
    """Set the value at a key path; return the data."""
    inner: Any = data
    for step in where[:-1]:
        inner = inner[step]
    inner[where[-1]] = value
    return data


@st.composite
def valid(draw: st.DrawFn) -> Data:
    """Draw the data of a valid site: one to three resources, up to four containers."""
    nodes = draw(st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), min_size=2, max_size=2, unique=True))
    nodes = [f"h{name}" for name in nodes]
    names = draw(st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True))
    resources = [f"r{number}" for number in names]
    lan, crossover = (IPv4Network(it) for it in draw(st.permutations(NETWORKS))[:2])
    hosts = iter(draw(st.permutations(range(1, 13))))
    lan_name = draw(st.sampled_from(["lan0", "eth0", "enp0s3"]))

    def address(network: IPv4Network) -> str:
        return f"{network[next(hosts)]}/{network.prefixlen}"

    def node(number: int) -> Data:
        return {
            "uuid": str(UUID(int=draw(st.integers(0, 2**64)) * 2 + number)),
            "lan": {"mac": f"02:00:00:00:00:0{number}", "interface": lan_name, "address": address(lan)},
            "crossover": {"mac": f"02:00:00:00:01:0{number}", "interface": "xover0", "address": address(crossover)},
            "disks": {
                name: {"data": f"/dev/disk/by-partuuid/{name}-d", "meta": f"/dev/disk/by-partuuid/{name}-m"}
                for name in resources
            },
        }

    return {
        "pair": draw(st.sampled_from(["example", "a", "two-words"])),
        "nodes": {name: node(at) for at, name in enumerate(nodes)},
        "network": draw(st.sampled_from([{}, {"dns": ["203.0.113.200"]}])),
        "store": {"url": draw(st.sampled_from(["http://store.example:8440", "https://203.0.113.201/fence"]))},
        "resources": {
            name: {
                "minor": number,
                "port": 7700 + number,
                "mount": draw(st.sampled_from(["", "/srv", "/data/ha_1"])) + f"/{name}",
                "preferred": draw(st.sampled_from(nodes)),
                "secret": "0123456789abcdef",
            }
            for name, number in zip(resources, names, strict=True)
        },
        "containers": {
            f"c{at}": {
                "resource": draw(st.sampled_from(resources)),
                "addresses": [address(lan)[:-3]],
                "image": "writer",
            }
            for at in range(draw(st.integers(0, 4)))
        },
        "times": draw(times()),
        "lab": {
            "provider": "uml",
            "memory_mb": 1000,
            "third_memory_mb": 256,
            "data_mb": 512,
            "meta_mb": 64,
            "third": {"address": address(lan), "mac": "02:00:00:00:00:20"},
        },
    }


@st.composite
def times(draw: st.DrawFn) -> Data:
    """Draw times that are valid."""
    ping_int, connect_int = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    timeout = draw(st.integers(1, min(ping_int, connect_int) * 10 - 1))
    ping_timeout, ko_count = draw(st.integers(1, 300)), draw(st.integers(1, 20))
    selffence, watchdog = draw(st.integers(1, 300)), draw(st.sampled_from([0, 50, 600]))
    least = max(ping_int * 10 + ping_timeout, timeout * ko_count) + selffence + watchdog + 5
    return {
        "ping_int_s": ping_int,
        "ping_timeout_s": ping_timeout / 10,
        "timeout_s": timeout / 10,
        "ko_count": ko_count,
        "connect_int_s": connect_int,
        "selffence_s": selffence / 10,
        "watchdog_s": watchdog / 10,
        "margin_s": 0.5,
        "grace_s": math.floor(least + draw(st.integers(1, 50))) / 10,
        "allow_no_watchdog": watchdog == 0,
    }
