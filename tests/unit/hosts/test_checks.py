"""Each rule among the fields of a site, broken alone: the file, the line and the key are named."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import BadInput, ExitCode
from lab.hosts.site import Site
from tests.unit.hosts.sites import Data, Where, example, load, put

N1, N2, R0, C1, THIRD = ("nodes", "n1"), ("nodes", "n2"), ("resources", "r0"), ("containers", "c1"), ("lab", "third")
MINE, OTHER = "6f1c7d0e-52a4-4c9b-9a0e-3d5b8f2e1a11", "02:00:5e:00:02:11"

# (key that is set, its value, the key path that must be named, what must be said)
BROKEN: list[tuple[Where, object, str, str]] = [
    ((*N2, "uuid"), MINE, "nodes.n2.uuid", "taken by nodes.n1.uuid"),
    ((*N2, "lan", "mac"), OTHER, "nodes.n2.lan.mac", "taken by nodes.n1.lan.mac"),
    ((*N1, "crossover", "mac"), OTHER, "nodes.n1.crossover.mac", "taken by nodes.n1.lan.mac"),
    ((*THIRD, "mac"), OTHER, "lab.third.mac", "taken by nodes.n1.lan.mac"),
    ((*N1, "crossover", "interface"), "lan0", "nodes.n1.crossover.interface", "the LAN's interface"),
    ((*N2, "lan", "interface"), "lan1", "nodes.n2.lan.interface", "must be lan0 as on n1"),
    ((*N2, "lan", "address"), "192.0.2.12/25", "nodes.n2.lan.address", "but n1 is in 192.0.2.0/24"),
    ((*N2, "crossover", "address"), "198.51.100.6/30", "nodes.n2.crossover.address", "but n1 is in 198.51.100.0/30"),
    ((*N2, "lan", "address"), "192.0.2.11/24", "nodes.n2.lan.address", "taken by nodes.n1.lan.address"),
    ((*N1, "lan", "address"), "192.0.2.0/24", "nodes.n1.lan.address", "no host's address"),
    ((*N1, "lan", "address"), "192.0.2.255/24", "nodes.n1.lan.address", "no host's address"),
    ((*THIRD, "address"), "192.0.2.20/25", "lab.third.address", "but the LAN is 192.0.2.0/24"),
    ((*THIRD, "address"), "192.0.2.12/24", "lab.third.address", "taken by nodes.n2.lan.address"),
    (("network", "gateway"), "203.0.113.1", "network.gateway", "is not in the LAN"),
    (("network", "gateway"), "192.0.2.12", "network.gateway", "taken by nodes.n2.lan.address"),
    ((*C1, "resource"), "r7", "containers.c1.resource", "there is no resource r7"),
    ((*C1, "addresses"), ["192.0.2.88", "203.0.113.1"], "containers.c1.addresses.1", "no host's address in the LAN"),
    ((*C1, "addresses"), ["192.0.2.255"], "containers.c1.addresses.0", "no host's address in the LAN"),
    ((*C1, "addresses"), ["192.0.2.12"], "containers.c1.addresses.0", "taken by nodes.n2.lan.address"),
    ((*C1, "addresses"), ["192.0.2.88", "192.0.2.88"], "containers.c1.addresses.1", "taken by containers.c1"),
    (("store", "url"), "http://192.0.2.12:8440", "store.url", "outside both nodes, but 192.0.2.12 is nodes.n2"),
    (("store", "url"), "http://n1:8440", "store.url", "outside both nodes"),
    (("store", "url"), "http://192.0.2.88", "store.url", "outside both nodes"),
    (("store", "url"), "http://c1", "store.url", "outside both nodes"),
    (("store", "url"), "http://192.0.2.20:99999", "store.url", "ort"),
    (("store", "url"), "http://192.0.2.20:0", "store.url", "port 0"),
    (("lab", "box"), "hapair/debian-12", "lab.box", "name the release alone, debian-12"),
    (("lab", "box"), "debian/..", "lab.box", "match"),
    (("lab", "box_version"), "1.1.7", "lab.box_version", "debian-12 is the lab's own box"),
    (("store", "kind"), "ftp", "store.kind", "'http', 'gcs' or 's3'"),
    (("store", "kind"), "s3", "store.bucket", "a store of kind s3 needs it"),
    (("store", "kind"), "s3", "store.url", "a store of kind s3 has no such key"),
    (("store", "bucket"), "locks", "store.bucket", "a store of kind http has no such key"),
    (("store",), {"kind": "gcs", "bucket": "locks"}, "store.credentials", "Google's own store needs it"),
    (("store",), {"kind": "s3", "bucket": "locks"}, "store.credentials", "a store of kind s3 needs it"),
    (("store", "credentials"), "store.json", "store.credentials", "match"),
    (("store", "token"), "x", "store.token", "unknown key"),
    (
        ("store",),
        {"kind": "s3", "bucket": "locks", "credentials": "/etc/hapair/store.json", "endpoint": "http://n1:9000"},
        "store.endpoint",
        "outside both nodes",
    ),
    ((*R0, "mount"), "/usr/r0", "resources.r0.mount", "belongs to the node's own system"),
    ((*R0, "preferred"), "n3", "resources.r0.preferred", "there is no node n3"),
    ((*N1, "disks"), {}, "nodes.n1.disks", "no disks for the resource r0"),
    (
        (*N1, "disks", "r1"),
        {"data": "/dev/disk/by-id/a", "meta": "/dev/disk/by-id/b"},
        "nodes.n1.disks.r1",
        "there is no resource r1",
    ),
    (
        (*N1, "disks", "r0", "meta"),
        "/dev/disk/by-hapair/r0-data",
        "nodes.n1.disks.r0.meta",
        "taken by nodes.n1.disks.r0.data",
    ),
    (("times", "timeout_s"), 1.0, "times.timeout_s", "below ping_int_s"),
    (("times", "watchdog_s"), 5, "times.grace_s", "too short (rule F10)"),
    (("times", "grace_s"), 7.1, "times.grace_s", "too short"),
    (("times", "allow_no_watchdog"), False, "times.watchdog_s", "(rule F10)"),
]


def refused(tmp_path: Path, data: Data, key: str, text: str) -> None:
    """Assert that the site is refused, with file, line, key and reason in one line."""
    with pytest.raises(BadInput) as caught:
        load(tmp_path, data)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    lines = caught.value.message.splitlines()
    about = [line for line in lines if f": {key}: " in line and text in line]
    assert about, lines
    assert about[0].startswith(f"{tmp_path}/site.yaml:")
    assert int(about[0].removeprefix(f"{tmp_path}/site.yaml:").split(":")[0]) > 1


@pytest.mark.parametrize(
    ("where", "value", "key", "text"), BROKEN, ids=lambda it: ".".join(map(str, it)) if isinstance(it, tuple) else None
)
def test_each_rule(tmp_path: Path, where: Where, value: object, key: str, text: str) -> None:
    refused(tmp_path, put(example(), where, value), key, text)


def two_resources() -> Data:
    data = example()
    data["resources"]["r1"] = {**data["resources"]["r0"], "minor": 1, "port": 7789, "mount": "/r1"}
    for name in ("n1", "n2"):
        data["nodes"][name]["disks"]["r1"] = {"data": "/dev/disk/by-id/d1", "meta": "/dev/disk/by-id/m1"}
    return data


@pytest.mark.parametrize(
    ("where", "value", "key", "text"),
    [
        (("minor",), 0, "resources.r1.minor", "taken by resources.r0.minor"),
        (("port",), 7788, "resources.r1.port", "taken by resources.r0.port"),
        (("mount",), "/r0", "resources.r1.mount", "lies in the mount point of r0"),
        (("mount",), "/r0/lxd", "resources.r1.mount", "lies in the mount point of r0"),
    ],
)
def test_rules_between_resources(tmp_path: Path, where: Where, value: object, key: str, text: str) -> None:
    assert set(load(tmp_path, two_resources()).resources) == {"r0", "r1"}
    refused(tmp_path, put(two_resources(), ("resources", "r1", *where), value), key, text)


def test_a_disk_serves_one_resource(tmp_path: Path) -> None:
    data = put(two_resources(), (*N1, "disks", "r1", "data"), "/dev/disk/by-hapair/r0-data")
    refused(tmp_path, data, "nodes.n1.disks.r1.data", "taken by nodes.n1.disks.r0.data")


def test_crossover_and_lan_are_apart(tmp_path: Path) -> None:
    data = put(example(), (*N1, "crossover", "address"), "192.0.2.129/30")
    data = put(data, (*N2, "crossover", "address"), "192.0.2.130/30")
    refused(tmp_path, data, "nodes.n1.crossover.address", "overlaps the LAN")


@pytest.mark.parametrize("name", ["n1", "r0"])
def test_instance_names_are_unique(tmp_path: Path, name: str) -> None:
    data = example()
    data["containers"][name] = {**data["containers"]["c1"], "addresses": ["192.0.2.89"]}
    refused(tmp_path, data, f"containers.{name}", f"the name {name} is taken")


def test_third_is_no_node(tmp_path: Path) -> None:
    data = example()
    data["nodes"] = {"n1": data["nodes"]["n1"], "third": data["nodes"]["n2"]}
    refused(tmp_path, data, "nodes.third", "the lab's third machine")


@pytest.mark.parametrize("count", [1, 3])
def test_a_pair_is_two(tmp_path: Path, count: int) -> None:
    data = example()
    nodes = [*data["nodes"].values(), data["nodes"]["n1"]]
    data["nodes"] = {f"n{at}": node for at, node in enumerate(nodes[:count])}
    refused(tmp_path, data, "nodes", f"exactly two nodes, not {count}")


def test_a_watchdog_and_the_leave_to_have_none(tmp_path: Path) -> None:
    data = put(put(example(), ("times", "watchdog_s"), 5), ("times", "grace_s"), 13)
    refused(tmp_path, data, "times.allow_no_watchdog", "contradicts")
    assert load(tmp_path, put(data, ("times", "allow_no_watchdog"), False)).times.watchdog_s == 5


def test_every_fault_is_shown(tmp_path: Path) -> None:
    data = put(put(example(), ("times", "grace_s"), 1), (*N2, "uuid"), MINE)
    refused(tmp_path, data, "times.grace_s", "too short")
    refused(tmp_path, data, "nodes.n2.uuid", "taken")


TENTHS = st.integers(1, 600)


@given(
    grace=TENTHS,
    timeout=st.integers(1, 8),
    ko_count=st.integers(1, 20),
    ping_int=st.integers(2, 20),
    selffence=TENTHS,
    margin=TENTHS,
)
def test_f10_by_exact_arithmetic(
    *, grace: int, timeout: int, ko_count: int, ping_int: int, selffence: int, margin: int
) -> None:
    """The sum holds for tenths of seconds just as on paper, whatever their binary form rounds to."""
    tenth = Decimal("0.1")
    needed = max(ping_int + Decimal("0.5"), timeout * tenth * ko_count) + (selffence + margin) * tenth
    for tenths in (grace, int(needed * 10), int(needed * 10) + 1):
        data = example()
        data["times"] |= {
            "grace_s": tenths / 10,
            "timeout_s": timeout / 10,
            "ko_count": ko_count,
            "ping_int_s": ping_int,
            "selffence_s": selffence / 10,
            "margin_s": margin / 10,
        }
        try:
            Site.model_validate(data)
            accepted = True
        except ValueError as error:
            assert "grace_s" in str(error)
            accepted = False
        assert accepted == (tenths * tenth > needed)
