"""The site file as a file: what is not in the schema is refused, with the file, the line and the key."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.errors import BadInput
from lab.hosts.site import Site, load_site
from tests.unit.hosts.sites import Data, Where, example, load, put, valid

# Keys that a site may go without.
OPTIONAL = {
    ("network",), ("network", "dns"), ("containers",), ("times", "allow_no_watchdog"), ("times", "watch_s"),
    ("times", "stop_s"), ("times", "start_s"),
    ("lab", "provider"), ("lab", "libvirt"), ("lab", "box"),
    ("resources", "r0", "al_extents"), ("resources", "r0", "resync_mib_per_s"),
}  # fmt: skip
random_sites = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=20)


def mappings(data: Any, here: Where = ()) -> Iterator[Where]:
    """Yield the key path of each mapping."""
    if isinstance(data, dict):
        yield here
        for key, value in data.items():
            yield from mappings(value, (*here, key))


def keys(data: Any, here: Where = ()) -> Iterator[Where]:
    """Yield the key path of each key and each item."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield (*here, key)
        yield from keys(value, (*here, key))


def at(data: Any, where: Where) -> Any:
    for step in where:
        data = data[step]
    return data


def must_refuse(tmp_path: Path, data: Data, where: Where) -> None:
    """Assert that the site is refused by a line that names the file, a line number and the key."""
    with pytest.raises(BadInput) as caught:
        load(tmp_path, data)
    named = ".".join(map(str, where))
    for line in caught.value.message.splitlines():
        file, number, rest = line.split(":", 2)
        assert Path(file) == tmp_path / "site.yaml"
        assert int(number) >= 1
        if rest.strip().startswith(named) or named in rest:
            return
    raise AssertionError(f"{named} is not named:\n{caught.value.message}")


def test_the_example_is_valid() -> None:
    site = load_site()
    assert (site.pair, list(site.nodes), list(site.resources)) == ("example", ["n1", "n2"], ["r0"])
    assert site.peer_of("n1") == "n2"
    assert site.peer_of("n2") == "n1"


@given(valid())
@random_sites
def test_random_sites_are_accepted(tmp_path: Path, data: Data) -> None:
    site = load(tmp_path, data)
    assert list(site.nodes) == list(data["nodes"])
    assert all(it.lxd_dir.startswith("/") for it in site.resources.values())


def without(data: Data, where: Where) -> Data:
    """Return a copy that lacks one key."""
    less = copy.deepcopy(data)
    del at(less, where[:-1])[where[-1]]
    return less


def required(data: Data) -> list[Where]:
    """Return the key paths that a site must not lack."""
    free = OPTIONAL | {("containers", name) for name in data["containers"]}
    return [path for path in keys(data) if path not in free and not isinstance(path[-1], int)]


def noticed(where: Where) -> Where:
    """Return the key path that must be named when `where` is missing."""
    if where[0] == "nodes" and len(where) in (2, 4) and where[2:3] in ((), ("disks",)):
        return where[:-1]  # two nodes, disks for every resource
    return where


def wrong(value: object) -> list[object]:
    """Return values that nothing in the place of `value` may have."""
    return [["x"], None, -1 if isinstance(value, dict) else {"x": "two words"}]


@pytest.mark.thorough
def test_every_single_corruption_of_the_example(tmp_path: Path) -> None:
    for where in mappings(example()):
        must_refuse(tmp_path, put(example(), (*where, "bogus"), 1), (*where, "bogus"))
    for where in required(example()):
        if where != ("resources", "r0"):  # then there is none at all
            must_refuse(tmp_path, without(example(), where), noticed(where))
    for where in keys(example()):
        for value in wrong(at(example(), where)):
            must_refuse(tmp_path, put(example(), where, value), where)


@given(valid(), st.data())
@random_sites
def test_any_corruption_of_any_site(tmp_path: Path, data: Data, draw: st.DataObject) -> None:
    where = draw.draw(st.sampled_from(list(mappings(data))))
    must_refuse(tmp_path, put(copy.deepcopy(data), (*where, "bogus"), 1), (*where, "bogus"))
    where = draw.draw(st.sampled_from(list(keys(data))))
    value = draw.draw(st.sampled_from(wrong(at(data, where))))
    must_refuse(tmp_path, put(copy.deepcopy(data), where, value), where)
    where = draw.draw(st.sampled_from([it for it in required(data) if len(it) != 2 or it[0] != "resources"]))
    must_refuse(tmp_path, without(data, where), noticed(where))


def test_a_site_without_resources(tmp_path: Path) -> None:
    must_refuse(tmp_path, put(example(), ("resources",), {}), ("resources",))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("pair",), "Upper"),
        (("pair",), "../up"),
        (("nodes", "n1", "uuid"), "n1"),
        (("nodes", "n1", "lan", "mac"), "03:00:5e:00:02:11"),  # a group address
        (("nodes", "n1", "lan", "mac"), "02:00:5e:00:02"),
        (("nodes", "n1", "lan", "interface"), "much-too-long-for-linux"),
        (("nodes", "n1", "lan", "address"), "192.0.2.11/33"),
        (("nodes", "n1", "disks", "r0", "data"), "/dev/sdb1"),  # another disk once one is missing at boot
        (("resources", "r0", "mount"), "r0"),
        (("resources", "r0", "mount"), "/r0/../etc"),
        (("resources", "r0", "mount"), "/with-dash"),
        (("resources", "r0", "secret"), 'short"; }'),
        (("resources", "r0", "secret"), "long enough, yet with a\nline end"),
        (("store", "url"), "file:///tmp"),
        (("times", "ping_timeout_s"), 0.55),  # DRBD counts in tenths
        (("times", "ko_count"), 0),  # never gives up
        (("lab", "provider"), "qemu"),
        (("lab", "libvirt"), "remote"),
        (("lab", "data_mb"), 64),  # too small for btrfs
        (("programs",), {"lxd": "lxd"}),
        (("containers", "c1", "resource"), "python3"),
    ],
)
def test_values_out_of_range(tmp_path: Path, where: Where, value: object) -> None:
    must_refuse(tmp_path, put(example(), where, value), where)


@pytest.mark.parametrize("tenths", range(1, 10))
def test_every_tenth_of_a_second_counts_as_one(tmp_path: Path, tenths: int) -> None:
    assert load(tmp_path, put(example(), ("times", "timeout_s"), tenths / 10)).times.timeout_s == tenths / 10


def test_the_secret_is_not_shown() -> None:
    site = load_site()
    assert site.resources["r0"].secret not in repr(site)


def test_a_site_survives_json() -> None:
    site = load_site()
    assert Site.model_validate(site.model_dump(mode="json")) == site


def test_the_digest_is_of_the_values(tmp_path: Path) -> None:
    assert load(tmp_path, example()).digest == load_site().digest  # comments and layout do not count
    assert load(tmp_path, put(example(), ("times", "grace_s"), 8)).digest != load_site().digest


def test_an_artifact_and_a_path_of_lxd_exclude_each_other(tmp_path: Path) -> None:
    """And a site with an artifact survives the way through JSON, as every lab's does."""
    data = put(example(), ("programs",), {"artifact": {"spec": "lxd-5.0.2"}})
    site = load(tmp_path, data)
    assert site.programs.daemon == "/opt/hapair/lxd-5.0.2/bin/lxd"
    assert Site.model_validate(site.model_dump(mode="json")) == site
    data["programs"]["lxd"] = "/usr/local/bin/lxd"
    with pytest.raises(BadInput, match=r"site.yaml:\d+: programs: give either lxd or artifact"):
        load(tmp_path, data)
