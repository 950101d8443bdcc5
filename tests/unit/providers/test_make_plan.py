"""What each node of the example site boots, and what is plugged into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import BadInput
from lab.providers.base import Disk, Interface, LabPlan
from lab.providers.plan import Artifacts, make_plan
from tests.unit.hosts import sites
from tests.unit.hosts.sites import example_site

ARTIFACTS = Artifacts(Path("/cache/linux"), "k" * 64, Path("/cache/root.ext4"), "i" * 64)


@pytest.fixture
def plan() -> LabPlan:
    return make_plan(example_site(), "example", ARTIFACTS, seed=7)


def test_the_plan_holds_the_pair_and_a_third(plan: LabPlan) -> None:
    assert (plan.name, plan.seed) == ("example", 7)
    assert [node.name for node in plan.nodes] == ["n1", "n2", "third"]
    assert {(node.kernel, node.image) for node in plan.nodes} == {(ARTIFACTS.kernel, ARTIFACTS.image)}
    assert [node.memory_mb for node in plan.nodes] == [1000, 1000, 256]


def test_each_node_of_the_pair_has_its_cards_and_disks(plan: LabPlan) -> None:
    for number, node in enumerate(plan.nodes[:2], start=1):
        assert node.interfaces == (
            Interface("lan", f"02:00:5e:00:02:1{number}", "vec0"),
            Interface("crossover", f"02:00:5e:00:64:0{number}", "vec1"),
        )
        assert node.disks == (
            Disk("ubdb", f"n{number}.r0-data", 512 << 20, log_slot="ubdd"),
            Disk("ubdc", f"n{number}.r0-meta", 64 << 20, log_slot="ubde"),
        )
        assert node.kernel_args == ()


def test_the_third_boots_its_own_init_and_is_on_the_lan_only(plan: LabPlan) -> None:
    third = plan.nodes[2]
    assert third.kernel_args == ("init=/usr/lib/hapair-lab/third-init", "hapair.address=192.0.2.20/24")
    assert third.interfaces == (Interface("lan", "02:00:5e:00:02:20", "vec0"),)
    assert third.disks == ()


def test_what_a_seed_depends_on() -> None:
    assert ARTIFACTS.digests == {"kernel": "k" * 64, "image": "i" * 64}


def test_more_than_one_resource_is_refused(tmp_path: Path) -> None:
    data = sites.example()
    data["resources"]["r1"] = data["resources"]["r0"] | {"minor": 1, "port": 7789, "mount": "/r1"}
    for number, node in enumerate(data["nodes"].values()):
        disks = {part: f"/dev/disk/by-partuuid/{number}-{part}" for part in ("data", "meta")}
        node["disks"]["r1"] = disks
    site = sites.load(tmp_path, data)
    with pytest.raises(BadInput, match="hold the disks of one resource, the site has 2"):
        make_plan(site, "example", ARTIFACTS)


def test_a_site_without_containers_is_refused(tmp_path: Path) -> None:
    site = sites.load(tmp_path, sites.put(sites.example(), ("containers",), {}))
    with pytest.raises(BadInput, match="the site has no container"):
        make_plan(site, "example", ARTIFACTS)
