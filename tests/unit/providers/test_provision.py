"""The first set-up of a pair, in order.

The nodes are mocks that record what they are told: that the commands do what they should is seen on real nodes, by
every lab that comes up.
"""

from __future__ import annotations

import fnmatch
from itertools import pairwise
from pathlib import Path

import pytest

from lab.errors import HapairError, TimedOut
from lab.proc import CommandFailed
from lab.providers import provision as module
from lab.providers.provision import boot_id, power_down, provision
from tests.unit.hosts.sites import example_site
from tests.unit.scenario.fakes import FakeLab, FakeNode

BOOT_ID = "/proc/sys/kernel/random/boot_id"
TREES = {"n1": b"tree of n1", "n2": b"tree of n2"}


def obedient(node: FakeNode) -> None:
    """Let a node restart, power off and connect when it is told to."""

    def reboot() -> str:
        node.files[BOOT_ID] += b" again"
        return ""

    def poweroff() -> str:
        node.power_off()
        return ""

    node.says |= {"systemctl reboot": reboot, "systemctl poweroff": poweroff, "drbdadm cstate r0": "Connected\n"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    monkeypatch.setattr(module, "BOOT_S", 0.3)
    monkeypatch.setattr(module, "COMMAND_S", 0.3)
    made = FakeLab(tmp_path)
    for node in made.nodes.values():
        obedient(node)
    return made


def places(lab: FakeLab, pattern: str) -> list[int]:
    found = [number for number, line in enumerate(lab.commands) if fnmatch.fnmatch(line, pattern)]
    assert found, f"nothing like {pattern} in\n" + "\n".join(lab.commands)
    return found


def assert_order(lab: FakeLab, *patterns: str) -> None:
    """Each pattern's last match comes before the next one's first."""
    for early, late in pairwise(patterns):
        assert max(places(lab, early)) < min(places(lab, late)), f"{early} after {late}:\n" + "\n".join(lab.commands)


@pytest.fixture
def done(lab: FakeLab) -> FakeLab:
    notes: list[str] = []
    provision(lab, example_site(), TREES, notes.append)
    assert notes[0] == "booting" and notes[-1] == "powering off"
    return lab


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_the_agent_sleeps_from_before_the_restart_to_the_end(done: FakeLab, name: str) -> None:
    assert_order(
        done,
        f"{name}: tar -C / *",
        f"{name}: systemctl disable hapair-agent.service",
        f"{name}: systemctl reboot",
        f"{name}: systemctl is-system-running --wait",
        f"{name}: drbdadm create-md --force r0",
        f"{name}: drbdadm up r0",
        f"{name}: drbdadm cstate r0",
        f"{name}: drbdadm down r0",
        f"{name}: systemctl enable hapair-agent.service",
        f"{name}: systemctl poweroff",
    )
    assert done.nodes[name].given["tar -C / --no-same-owner -xf -"] == TREES[name]


def test_the_preferred_node_is_filled_once_both_are_connected(done: FakeLab) -> None:
    assert_order(
        done,
        "*: drbdadm cstate r0",
        "n1: drbdadm new-current-uuid --clear-bitmap r0/0",
        "n1: drbdadm primary r0",
        "n1: mkfs.btrfs * /dev/drbd0",
        "n1: systemctl start r0.mount",
        "n1: btrfs -q subvolume create /r0/pools",
        "n1: systemctl start r0lxd.service",
        "n1: sh -c 'r0 lxd init --preseed < /etc/hapair/r0.preseed.yaml'",
        "n1: r0 lxc image import *",
        "n1: sh -c 'r0 lxc init writer c1 < *",
        "n1: r0 lxc start c1",
        "third: python3 -c * 192.0.2.88",
        "n1: systemctl stop r0lxd.service",
        "n1: sh -c 'findmnt * /r0 * umount'",
        "n1: drbdadm secondary r0",
        "n1: drbd-fence init r0",
        "*: drbdadm down r0",
    )
    assert not [line for line in done.nodes["n2"].ran if "primary" in line or "mkfs" in line or "lxc" in line]


def test_the_store_is_there_before_its_lock(done: FakeLab) -> None:
    assert_order(done, "third: tar -C / -xf - usr/lib/hapair", "n1: drbd-fence init r0", "third: sync")


def test_everything_is_off_at_the_end_the_store_last(done: FakeLab) -> None:
    assert {node.state() for node in done.nodes.values()} == {"off"}
    assert sorted(done.log[:2]) == ["n1 off", "n2 off"]
    assert done.log[2:] == ["third off"]


def test_a_pair_that_does_not_connect_gets_no_file_system(lab: FakeLab) -> None:
    lab.nodes["n2"].says["drbdadm cstate r0"] = "Connecting\n"
    with pytest.raises(TimedOut, match="r0 is connected"):
        provision(lab, example_site(), TREES, lambda _: None)
    assert not [line for line in lab.commands if "primary" in line or "mkfs" in line]


def test_a_node_that_does_not_restart_is_named(lab: FakeLab) -> None:
    lab.nodes["n2"].says["systemctl reboot"] = ""
    with pytest.raises(TimedOut, match="n2 has restarted"):
        provision(lab, example_site(), TREES, lambda _: None)


def test_a_command_that_fails_ends_it(lab: FakeLab) -> None:
    lab.nodes["n1"].says["mkfs.btrfs*"] = 1
    with pytest.raises(CommandFailed, match=r"mkfs\.btrfs"):
        provision(lab, example_site(), TREES, lambda _: None)
    assert not [line for line in lab.commands if "lxd" in line or "enable" in line]


def test_a_boot_that_ended_badly_or_ill_does_not_matter(lab: FakeLab) -> None:
    lab.nodes["n1"].says |= {"systemctl is-system-running*": 1}
    provision(lab, example_site(), TREES, lambda _: None)


def test_a_node_that_does_not_answer_has_no_boot_id(lab: FakeLab) -> None:
    assert boot_id(lab.nodes["n1"]) == "boot-n1"
    lab.nodes["n1"].power_off()
    assert boot_id(lab.nodes["n1"]) == ""


def test_powering_down_a_node(lab: FakeLab) -> None:
    power_down(lab.nodes["n1"])
    assert lab.nodes["n1"].state() == "off"
    power_down(lab.nodes["n1"])  # one that is off stays as it is
    lab.nodes["n2"].says["systemctl poweroff"] = ""
    with pytest.raises(TimedOut, match="n2 is off"):
        power_down(lab.nodes["n2"])
    lab.nodes["n2"].freeze()
    with pytest.raises(HapairError, match="n2 is frozen"):
        power_down(lab.nodes["n2"])


def test_an_agent_that_needs_a_second_start_is_waited_for(lab: FakeLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOT_S", 5.0)
    answers = iter([3, 3, 0])
    lab.nodes["n2"].says["systemctl is-active*"] = lambda: next(answers)
    module.start_agents(lab, example_site())
    assert next(answers, "all asked") == "all asked"
    assert_order(lab, "n1: systemctl enable --now --no-block *", "n2: systemctl is-active*")


def test_an_agent_that_never_comes_up_is_named(lab: FakeLab) -> None:
    lab.nodes["n1"].says["systemctl is-active*"] = 3
    with pytest.raises(TimedOut, match="the agent of n1 runs"):
        module.start_agents(lab, example_site())
