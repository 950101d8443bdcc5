"""A whole scene, from set-up to verdict, on a pair of fakes: the flow only; the pair is for the scenarios."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import HapairError, TimedOut
from lab.paths import PROJECT
from lab.providers.base import Impairment
from lab.scenario.history import Event, History
from lab.scenario.scene import Broken, Scene
from lab.scenario.verdict import Outcome
from tests.unit.scenario.fakes import Client, FakePair, drbd_now, ready


class Stage:
    """A scene on fakes."""

    def __init__(self, folder: Path) -> None:
        self.pair, self.client = ready(folder / "lab")
        self.folder = folder / "scene"
        self.scene = Scene(self.pair, "power_loss", self.folder, seed=7)
        self.scene.expect(recovery_s=20, failovers=0)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    (tmp_path / "lab").mkdir()
    made = Stage(tmp_path)
    yield made
    made.scene.history.close()


def begin(stage: Stage) -> tuple[Scene, Client, FakePair]:
    stage.scene.begin()
    return stage.scene, stage.client, stage.pair


def test_a_quiet_scene_is_valid_and_leaves_everything_behind(stage: Stage) -> None:
    scene, client, _ = begin(stage)
    client.write(3)
    drawn = scene.finish()
    assert (drawn.verdict, drawn.acked, drawn.lost, drawn.rto_s) == (Outcome.VALID, 4, 0, None), drawn.explanation()
    names = {path.name for path in stage.folder.iterdir()}
    assert names >= {"history.jsonl", "facts.json", "verdict.json", "n1.journal", "n2.journal", "n1.events2"}
    assert len(History.load(stage.folder / "history.jsonl").events()) > 10
    assert json.loads((stage.folder / "facts.json").read_text())["nodes"]["n1"]["role"] == "Primary"
    assert json.loads((stage.folder / "verdict.json").read_text())["I1"]["outcome"] == "valid"


def test_the_program_of_the_third_node_is_the_one_in_hostfiles(stage: Stage) -> None:
    begin(stage)[0].finish()
    program = stage.pair.lab.nodes["third"].files["/run/hapair-lab-client.py"]
    assert program == (PROJECT / "hostfiles" / "lab" / "client.py").read_bytes()


def test_a_lost_write_turns_it_red(stage: Stage) -> None:
    scene, client, _ = begin(stage)
    client.write(1, lost=True)
    drawn = scene.finish()
    assert drawn.verdict is Outcome.INVALID
    assert [name for name, v in drawn.invariants.items() if v.outcome is Outcome.INVALID] == ["I1"]
    assert drawn.lost == 1


def test_an_impairment_that_the_scenario_left_is_seen_before_it_is_healed(stage: Stage) -> None:
    scene, _, pair = begin(stage)
    pair.lab.set_link("n1", "crossover", "in", Impairment(up=False))
    drawn = scene.finish()
    assert drawn.invariants["I8"].outcome is Outcome.INVALID
    assert pair.lab.links["n1", "crossover"].inward == Impairment()


def test_faults_are_healed_before_it_begins(stage: Stage) -> None:
    stage.pair.lab.set_link("n2", "lan", "out", Impairment(loss=0.5))
    begin(stage)[0].finish()
    assert stage.pair.lab.links["n2", "lan"].outward == Impairment()


def test_a_pair_that_does_not_write_fails_the_set_up(stage: Stage) -> None:
    stage.pair.lab.nodes["third"].on_stream.clear()
    with pytest.raises(TimedOut, match="1 more writes are acknowledged"):
        stage.scene.wait_acks(1, limit_s=0.01)


def test_roles_and_switchover(stage: Stage) -> None:
    scene, client, pair = begin(stage)
    assert scene.roles() == ("n1", "n2")
    drbd_now(pair, "n1", "Secondary")
    assert scene.switchover() == ("n1", "n2")
    drbd_now(pair, "n2", "Primary")
    client.write(2)
    fault = next(event for event in scene.history.events() if event.kind == "fault")
    assert (fault.text("name"), fault.text("leaves")) == ("switchover", "n1")
    assert "r0 leaves n1" in pair.lab.log
    pair.active = None
    with pytest.raises(TimedOut, match="a node of the pair serves"):
        scene.roles(limit_s=0.05)
    assert scene.finish().invariants["I6"].outcome is Outcome.INVALID  # one failover, none allowed


def test_waiting_counts_only_writes_sent_from_now_on(stage: Stage) -> None:
    now = time.time()
    for number in range(3):
        stage.scene.history.append(Event(now, "client", "ack", {"seq": number, "started": now - 5}))
    with pytest.raises(TimedOut):
        stage.scene.wait_acks(1, limit_s=0.01)
    for number in range(2):
        stage.scene.history.append(Event(now + 60, "client", "ack", {"seq": number, "started": now + 60}))
    stage.scene.wait_acks(2, limit_s=0.01)
    with pytest.raises(TimedOut):
        stage.scene.wait_acks(3, limit_s=0.01)


def test_waiting_for_a_node_looks_at_the_boot_that_answered(stage: Stage) -> None:
    later = time.time() + 60
    history = stage.scene.history
    for node in ("n1", "n2"):
        history.note(node, "boot", boot=f"boot-{node}")
    history.append(Event(later, "client", "ack", {"seq": 1, "started": later, "boot": "boot-n1"}))
    with pytest.raises(TimedOut):
        stage.scene.wait_ack_of("n2", limit_s=0.01)
    history.append(Event(later, "client", "ack", {"seq": 2, "started": later, "boot": "boot-n2"}))
    stage.scene.wait_ack_of("n2", limit_s=0.01)


def test_waiting_for_a_boot_wants_one_after_the_fault(stage: Stage) -> None:
    scene = stage.scene
    scene.history.note("n1", "boot", boot="boot-n1")
    scene.faults.note("reboot", "n1")
    with pytest.raises(TimedOut):
        scene.wait_boot_of("n1", limit_s=0.01)
    scene.history.note("n1", "boot", boot="boot-n1-again")
    scene.history.note("client", "ack")
    scene.wait_boot_of("n1", limit_s=0.01)  # it may have happened before anybody waited for it


def test_a_violation_ends_a_wait_before_its_time(stage: Stage) -> None:
    history, past = stage.scene.history, time.time() - 60
    for number, node in enumerate(("n1", "n2")):
        history.append(Event(past, node, "boot", {"boot": f"boot-{node}"}))
        history.append(Event(past, node, "follow", {"stream": "events2"}))
        ack = {"seq": number, "nonce": "ab", "boot": f"boot-{node}", "started": past + number}
        history.append(Event(past + number + 0.5, "client", "ack", ack))
    with pytest.raises(Broken, match="I2: n2 answered"):
        stage.scene.wait_acks(1, limit_s=60)


def test_a_node_that_refuses_says_why_and_one_that_takes_over_ends_the_wait(stage: Stage) -> None:
    scene, pair = stage.scene, stage.pair
    pair.lab.nodes["n2"].says["hapair status"] = "r0: Secondary\n  F5: own data is not good enough (Inconsistent)"
    assert "F5" in scene.wait_refusal("n2", booted_since=None, limit_s=1)
    mark = scene.history.mark()
    for node in ("n2", "n1"):  # another node's promotion is none of its business
        scene.history.note(node, "boot", boot="again")
        scene.history.note("n1", "drbd", object="resource", role="Primary")
    assert scene.wait_refusal("n2", booted_since=mark, limit_s=1)
    scene.history.note("n2", "drbd", object="resource", role="Primary")
    with pytest.raises(HapairError, match="n2 has to refuse, but takes over"):
        scene.wait_refusal("n2", booted_since=mark, limit_s=1)


def test_a_node_that_takes_the_lock_does_not_refuse(stage: Stage) -> None:
    scene, pair = stage.scene, stage.pair
    pair.lab.nodes["n2"].says["hapair status"] = "r0: Secondary\n  F6: n1 is missing"
    owner = next(uuid for uuid, node in scene.place.owners.items() if node == "n2")
    mark = scene.history.mark()
    with pytest.raises(TimedOut, match="n2 refuses to serve"):
        scene.wait_refusal("n2", booted_since=None, limit_s=0.01)
    scene.history.note("n2", "boot", boot="again")
    scene.history.note("store", "request", method="PUT", after={"state": "SOLO", "owner": owner})
    with pytest.raises(HapairError, match="n2 has to refuse, but takes over"):
        scene.wait_refusal("n2", booted_since=mark, limit_s=1)


def test_a_violation_ends_the_wait_for_healing(stage: Stage) -> None:
    scene = stage.scene
    scene.history.append(Event(time.time() - 60, "n1", "kernel", {"text": "block drbd0: Split-Brain detected"}))
    with pytest.raises(Broken, match="I2: 1 the kernel says"):
        scene.wait_healed(limit_s=30)


def test_a_disk_that_is_whole_again_may_claim_on_its_own_node_only(stage: Stage) -> None:
    stage.scene.clear_tombstone("n2")
    assert stage.pair.lab.nodes["n2"].ran == ["hapair clear-tombstone r0"]
    assert stage.pair.lab.nodes["n1"].ran == []


def test_the_same_seed_gives_the_same_dice(tmp_path: Path) -> None:
    (tmp_path / "lab").mkdir()
    pair, _ = ready(tmp_path / "lab")
    rolled = []
    for name, seed in [("a", 1), ("a", 1), ("a", 2), ("b", 1)]:
        scene = Scene(pair, name, tmp_path / "s", seed=seed)
        scene.history.close()
        rolled.append(scene.random.random())
    assert rolled[0] == rolled[1]
    assert len(set(rolled)) == 3
