"""Faults from the command line: each does what its text says. The lab is a fake."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import BadInput, ExitCode
from lab.providers.base import CLEAN, Impairment
from lab.scenario import manual
from lab.scenario.faults import heal_all
from tests.unit.scenario.fakes import FakeLab

CUT = Impairment(up=False)
SLOW = Impairment(delay_s=0.05, jitter_s=0.02)
LOSSY = Impairment(loss=0.1, duplicate=0.02, reorder=0.02)
POWER = {"power-off": "n2 off", "freeze": "n2 frozen", "panic": "n2 sysrq c"}
LINKS: dict[str, tuple[str, Impairment, Impairment]] = {  # network, outward, inward
    "cut-crossover": ("crossover", CUT, CUT),
    "cut-lan": ("lan", CUT, CUT),
    "deaf-crossover": ("crossover", CLEAN, CUT),
    "mute-crossover": ("crossover", CUT, CLEAN),
    "slow-crossover": ("crossover", SLOW, SLOW),
    "lossy-crossover": ("crossover", LOSSY, LOSSY),
}


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    return FakeLab(tmp_path)


def test_every_fault_is_tested() -> None:
    assert {*POWER, *LINKS} == set(manual.FAULTS)


@pytest.mark.parametrize(("name", "done"), POWER.items())
def test_faults_of_a_node(lab: FakeLab, name: str, done: str) -> None:
    assert manual.inject(lab, name, "n2") is manual.FAULTS[name]
    assert lab.log == [done]


@pytest.mark.parametrize("name", LINKS)
def test_faults_of_a_cable_hit_that_end_only_and_can_be_healed(lab: FakeLab, name: str) -> None:
    network, outward, inward = LINKS[name]
    manual.inject(lab, name, "n2")
    hit = lab.links.pop(("n2", network))
    assert (hit.outward, hit.inward) == (outward, inward)
    assert all(link.outward == CLEAN == link.inward for link in lab.links.values())
    lab.links["n2", network] = hit
    heal_all(lab)
    assert all(link.outward == CLEAN == link.inward for link in lab.links.values())


def test_an_unknown_fault_lists_all(lab: FakeLab) -> None:
    with pytest.raises(BadInput, match="no fault is called 'flood'") as caught:
        manual.inject(lab, "flood", "n1")
    assert caught.value.exit_code is ExitCode.BAD_INPUT
    for name, fault in manual.FAULTS.items():
        assert f"    {name:<16} {fault.text}" in caught.value.message.splitlines()
    assert lab.log == []


def test_an_unknown_node_is_refused(lab: FakeLab) -> None:
    with pytest.raises(BadInput, match="the lab has no node 'n3'") as caught:
        manual.inject(lab, "freeze", "n3")
    assert caught.value.hint == "name one of n1, n2, third"
    assert lab.log == []
