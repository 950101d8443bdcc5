"""Faults are put in place, noted, and healed whatever happens meanwhile. The lab is a fake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import HapairError
from lab.providers.base import CLEAN, Impairment
from lab.scenario.faults import Faults, heal_all
from lab.scenario.history import History
from tests.unit.scenario.fakes import FakeLab


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    return FakeLab(tmp_path)


@pytest.fixture
def history() -> History:
    return History()


@pytest.fixture
def faults(lab: FakeLab, history: History) -> Faults:
    return Faults(lab, history)


def test_power_comes_back_and_both_ends_are_noted(lab: FakeLab, history: History, faults: Faults) -> None:
    with faults.power_loss("n1", leaves="n1"):
        assert lab.nodes["n1"].state() == "off"
    assert lab.log == ["n1 off", "n1 on"]
    fault, heal = history.events()
    assert (fault.source, fault.kind, fault.text("name"), fault.text("node"), fault.text("leaves")) == (
        "scenario",
        "fault",
        "power_loss",
        "n1",
        "n1",
    )
    assert fault.t <= fault.number("placed") <= heal.t
    assert heal.kind == "heal"


def test_a_node_that_was_switched_on_meanwhile_is_left_alone(lab: FakeLab, faults: Faults) -> None:
    with faults.power_loss("n1"):
        lab.nodes["n1"].power_on()
    assert lab.log == ["n1 off", "n1 on"]


def test_a_scenario_that_fails_heals_too(lab: FakeLab, faults: Faults) -> None:
    with pytest.raises(HapairError, match="scenario"), faults.freeze("n2"), faults.cut("crossover"):
        raise HapairError("scenario")
    assert lab.log[-3:] == ["n2/crossover both up", "n1/crossover both up", "n2 thawed"]
    assert all(link.outward == CLEAN == link.inward for link in lab.links.values())


def test_a_fault_that_cannot_be_placed_is_healed_and_not_noted(lab: FakeLab, history: History, faults: Faults) -> None:
    def broken() -> None:
        raise HapairError("no such plug")

    lab.nodes["n1"].power_off = broken  # type: ignore[method-assign] # a fake's fault
    with pytest.raises(HapairError, match="no such plug"), faults.power_loss("n1"):
        pass
    assert not [event for event in history.events() if event.kind == "fault"]


def test_one_way_leaves_the_other_direction(lab: FakeLab, history: History, faults: Faults) -> None:
    with faults.one_way("n1", "crossover"):
        link = lab.links["n1", "crossover"]
        assert (link.outward.up, link.inward.up) == (False, True)
    assert lab.links["n1", "crossover"].outward == CLEAN
    assert history.events()[0].text("name") == "one_way_out_crossover"


def test_an_impairment_is_put_on_and_taken_off(lab: FakeLab, faults: Faults) -> None:
    slow = Impairment(delay_s=0.2, loss=0.1)
    with faults.impaired_link("n1", "crossover", slow):
        assert lab.links["n1", "crossover"].inward == slow
    assert lab.links["n1", "crossover"].inward == CLEAN


def test_a_reboot_is_asked_for_and_noted(lab: FakeLab, history: History, faults: Faults) -> None:
    faults.reboot("n1", leaves="n1")
    assert lab.nodes["n1"].ran == ["systemctl --no-block reboot"]
    assert history.events()[0].text("name") == "reboot"


def test_healing_touches_only_what_is_ill(lab: FakeLab) -> None:
    lab.set_link("n1", "lan", "in", Impairment(up=False))
    lab.nodes["n1"].freeze()
    lab.nodes["n2"].power_off()
    lab.log.clear()
    heal_all(lab)
    assert lab.log == ["n1/lan both up", "n1 thawed", "n2 on"]
