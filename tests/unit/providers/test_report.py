"""A lab in words, in JSON and as files. The nodes are mocks that answer from tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from lab import log
from lab.providers import report
from lab.providers.base import Impairment
from lab.providers.client import RunningLab
from lab.providers.pair import Pair
from tests.unit.hosts.sites import example_site
from tests.unit.scenario.fakes import FakeLab


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    made = FakeLab(tmp_path / "lab")
    made.folder.mkdir()
    made.nodes["third"].says["python3 -c *"] = "boot-n1"
    for name, role in (("n1", "Primary"), ("n2", "Secondary")):
        made.nodes[name].says["hapair status"] = f"r0 {role}\nlock SHARED\n"
        made.nodes[name].says["hapair status --json"] = json.dumps({"role": role})
    return made


def over(lab: FakeLab) -> Pair:
    return Pair(cast(RunningLab, lab), example_site())


def test_a_pair_that_serves(lab: FakeLab) -> None:
    assert report.text(over(lab)).splitlines() == [
        "lab fake: User-Mode Linux (seccomp), supervisor 1",
        "n1     on, serves c1 at 192.0.2.88",
        "       r0 Primary",
        "       lock SHARED",
        "n2     on",
        "       r0 Secondary",
        "       lock SHARED",
        "third  on",
        "cables whole",
    ]


def test_a_node_that_is_off_and_nobody_who_serves(lab: FakeLab) -> None:
    lab.nodes["n1"].power_off()
    lab.nodes["n2"].freeze()
    assert report.text(over(lab)).splitlines()[1:] == [
        "n1     off (power was cut)",
        "n2     frozen",
        "third  on",
        "cables whole",
        "nobody serves",
    ]


def test_a_third_node_that_is_off(lab: FakeLab) -> None:
    lab.nodes["third"].power_off()
    lines = report.text(over(lab)).splitlines()
    assert "third  off (power was cut)" in lines
    assert lines[-1] == "nobody serves"


def test_a_node_without_the_program_says_what_its_shell_says(lab: FakeLab) -> None:
    del lab.nodes["n2"].says["hapair status"]

    def off() -> str:
        lab.nodes["n2"].power_off()
        return lab.nodes["n2"].get("").decode()

    lab.nodes["n2"].says["hapair status"] = off
    assert "       n2 is off" in report.text(over(lab)).splitlines()


def test_impaired_links_are_told_way_by_way(lab: FakeLab) -> None:
    lab.set_link("n1", "crossover", "out", Impairment(up=False))
    lab.set_link("n2", "lan", "both", Impairment(delay_s=0.05, loss=0.1))
    lines = report.text(over(lab)).splitlines()
    assert "cable  n1/crossover: out cut, in whole" in lines
    assert "cable  n2/lan: out delay_s=0.05 loss=0.1, in delay_s=0.05 loss=0.1" in lines
    assert "cables whole" not in lines
    assert len([line for line in lines if line.startswith("cable")]) == 2


def test_json_has_all_of_it(lab: FakeLab) -> None:
    lab.set_link("n1", "crossover", "in", Impairment(up=False))
    lab.nodes["n2"].power_off()
    data = json.loads(report.as_json(over(lab)))
    assert (data["name"], data["serving"]) == ("fake", "n1")
    assert data["nodes"]["n2"]["state"] == "off"
    assert data["reports"] == {"n1": {"role": "Primary"}, "n2": "n2 is off"}
    assert [link["node"] for link in data["links"] if not link["inward"]["up"]] == ["n1"]


def test_logs_are_collected_but_for_what_a_node_cannot_give(lab: FakeLab, tmp_path: Path) -> None:
    n1 = lab.nodes["n1"]
    n1.says |= {"journalctl *": "the journal\n", "dmesg *": "the kernel\n", "drbdadm status": "r0 Primary\n"}
    n1.says["cat /var/log/hapair/decisions.jsonl"] = 1  # there is no such file
    n1.says["cat *"] = ""
    lab.nodes["third"].says["cat /var/lib/hapair-store/requests.jsonl"] = '{"t": 1}\n'
    lab.nodes["n2"].power_off()
    (lab.folder / "n2.console").write_text("panic")
    collected = report.collect(over(lab), tmp_path / "deep" / "logs", log.silent())
    written = collected.files
    assert collected.missing == {"n2": "it is off"}
    assert {path.name: path.read_text() for path in written} == {
        "n1.journal": "the journal\n",
        "n1.kernel": "the kernel\n",
        "n1.drbd": "r0 Primary\n",
        "n2.console": "panic",
        "third.store.jsonl": '{"t": 1}\n',
    }
    assert sorted(written) == sorted((tmp_path / "deep" / "logs").iterdir())
