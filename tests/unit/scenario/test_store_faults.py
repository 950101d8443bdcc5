"""Faults of the store and of the host programs: what is asked of the proxy or done on the node, and that it heals."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from lab.errors import HapairError
from lab.scenario.history import History
from lab.scenario.place import Place
from lab.scenario.program_faults import HANDLER, PLANTED, ProgramFaults
from lab.scenario.store_faults import StoreFaults
from tests.unit.hosts.sites import example_site
from tests.unit.scenario.fakes import FakeLab


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    return FakeLab(tmp_path)


@pytest.fixture
def store(lab: FakeLab) -> StoreFaults:
    return StoreFaults(lab, History(), Place.of(example_site()))


def questions(lab: FakeLab) -> list[dict[str, object]]:
    return [json.loads(shlex.split(line)[-1]) for line in lab.nodes["third"].ran]


def test_a_fault_of_one_node_names_its_address_and_ends(lab: FakeLab, store: StoreFaults) -> None:
    with store.unreachable("n2"):
        pass
    put, heal = questions(lab)
    assert (put["op"], put["act"], put["clients"]) == ("rule", "silence", ["192.0.2.12"])
    assert heal == {"op": "clear", "name": put["name"]}


def test_a_fault_of_the_store_hits_everybody(lab: FakeLab, store: StoreFaults) -> None:
    with store.answers(503):
        store.wait_hit("answers_503", 2)
    assert questions(lab)[0]["clients"] == []
    assert questions(lab)[1] == {"op": "wait", "name": "answers_503", "count": 2, "limit_s": 20.0}


def test_a_scenario_that_fails_ends_it_too(lab: FakeLab, store: StoreFaults) -> None:
    with pytest.raises(HapairError, match="scenario"), store.garbage():
        raise HapairError("scenario")
    assert questions(lab)[-1]["op"] == "clear"


def test_a_proxy_that_refuses_is_an_error(lab: FakeLab, store: StoreFaults) -> None:
    lab.nodes["third"].says["*proxy.py*"] = 1
    with pytest.raises(HapairError, match="the store's proxy"):
        store.heal()


def test_a_planted_handler_and_the_real_one_again(lab: FakeLab) -> None:
    history = History()
    with ProgramFaults(lab, history).handler("n1", "fails", "exit 1"):
        assert lab.nodes["n1"].files[PLANTED].endswith(b"\nexit 1\n")
        assert lab.nodes["n1"].ran[-1] == f"ln -sfn {PLANTED} {HANDLER}"
    assert f"ln -sfn hapair.pyz {HANDLER}" in lab.nodes["n1"].ran
    assert [event.text("name") for event in history.events()] == ["handler_fails"] * 2


def test_a_missing_handler_leads_nowhere(lab: FakeLab) -> None:
    with ProgramFaults(lab, History()).handler("n1", "missing", ""):
        assert lab.nodes["n1"].ran == [f"ln -sfn /usr/lib/hapair/nowhere {HANDLER}"]


def test_an_agent_that_is_gone_needs_no_thaw(lab: FakeLab) -> None:
    with ProgramFaults(lab, History()).agent_hangs("n1"):
        lab.nodes["n1"].power_off()
    assert "--signal=STOP" in lab.nodes["n1"].ran[0]
