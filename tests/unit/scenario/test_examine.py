"""What the nodes are asked at the end, and how their answers are read. The nodes are fakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.deadline import Deadline
from lab.errors import TimedOut
from lab.providers.base import Impairment
from lab.scenario import examine, invariants
from lab.scenario.observed import Expectation, NodeFacts
from lab.scenario.place import Place
from lab.scenario.verdict import Outcome
from tests.unit.hosts.sites import example_site
from tests.unit.scenario.fakes import FakeLab, healthy


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    made = FakeLab(tmp_path)
    healthy(made)
    return made


@pytest.fixture
def place() -> Place:
    return Place.of(example_site())


def test_the_place_comes_from_the_site_file(place: Place) -> None:
    assert place.address == "192.0.2.88"
    assert place.observer == "192.0.2.254"
    assert place.lock_url == "http://192.0.2.20:8440/v1/locks/example-r0"
    assert place.macs["02:00:5e:00:02:11"] == "n1"


def test_a_healthy_pair_is_read_as_one(lab: FakeLab, place: Place) -> None:
    lab.nodes["third"].says["*cgi-bin/read*"] = "1 a\n2 b\n"
    found = examine.facts(lab, place, baseline=(), impairments=examine.impairments(lab))
    assert found.lines == ("1 a", "2 b")
    assert (found.nodes["n1"].role, found.nodes["n2"].role) == ("Primary", "Secondary")
    assert (found.nodes["n1"].containers, found.nodes["n2"].containers) == (("c1",), ())
    assert found.scrub_code == 0
    for name in ("I8", "I9"):
        verdict = invariants.INVARIANTS[name]((), found, Expectation())
        assert verdict.outcome is Outcome.VALID, verdict


def test_a_node_that_is_gone_is_unknown(lab: FakeLab, place: Place) -> None:
    lab.nodes["n2"].power_off()
    lab.nodes["third"].says["*cgi-bin/read*"] = 1
    told: list[str] = []
    found = examine.facts(lab, place, baseline=(), impairments=None, tell=told.append)
    assert told == ["n2: n2 is off"]
    assert found.nodes["n2"] == NodeFacts()
    assert found.lines is None
    assert invariants.heals((), found, Expectation()).outcome is Outcome.UNKNOWN


def test_leftovers_are_shaping_rules_and_mounts_of_a_secondary(lab: FakeLab, place: Place) -> None:
    says = lab.nodes["n2"].says
    says["tc qdisc show"] = "qdisc netem 8001: dev lan0 root refcnt 2 limit 1000 delay 10ms\n"
    says["cat /proc/self/mounts"] = "/dev/drbd0 /r0/lxd/storage-pools/r0 btrfs rw 0 0\n/dev/x /r00 ext4 rw 0 0\n"
    left = examine.node_facts(lab.nodes["n2"], place.mount).leftovers
    assert left == ("qdisc netem 8001: dev lan0 root refcnt 2 limit 1000 delay 10ms", "/r0/lxd/storage-pools/r0")


def test_failed_units_are_named(lab: FakeLab, place: Place) -> None:
    lab.nodes["n1"].says["systemctl*--failed*"] = "r0lxd.service loaded failed failed LXD of r0\n\n"
    assert examine.node_facts(lab.nodes["n1"], place.mount).failed_units == ("r0lxd.service",)


def test_a_link_in_bad_shape_is_named(lab: FakeLab) -> None:
    assert examine.impairments(lab) == ()
    lab.set_link("n1", "lan", "in", Impairment(loss=0.5))
    assert examine.impairments(lab) == ("n1/lan",)


def test_nothing_is_scrubbed_when_nobody_has_it_mounted(lab: FakeLab, place: Place) -> None:
    healthy(lab, primary="nobody")
    found = examine.facts(lab, place, baseline=(), impairments=())
    assert found.scrub_code is None
    assert invariants.file_system_sound((), found, Expectation()).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("text", ["", "[]", "<html>"])
def test_a_lock_that_is_no_object_was_not_read(lab: FakeLab, place: Place, text: str) -> None:
    lab.nodes["third"].says["*get http*/v1/locks/example-r0*"] = text
    assert examine.facts(lab, place, baseline=(), impairments=()).lock is None


def test_waiting_for_healing_says_what_is_wrong(lab: FakeLab, place: Place) -> None:
    examine.wait_healed(lab, place, Deadline.after(5))
    lab.nodes["third"].says["*get http*/v1/locks/example-r0*"] = '{"state": "SOLO", "owner": "n2"}'
    with pytest.raises(TimedOut, match="the lock is SOLO of n2, not SHARED"):
        examine.wait_healed(lab, place, Deadline.after(0.01))
    dump = str(lab.nodes["n2"].says["drbdsetup events2 --now*"])
    lab.nodes["n2"].says["drbdsetup events2 --now*"] = dump.replace(" disk:UpToDate", " disk:Inconsistent")
    with pytest.raises(TimedOut, match=r"the pair has not healed in time: n2: disk is Inconsistent$"):
        examine.wait_healed(lab, place, Deadline.after(0.01))
