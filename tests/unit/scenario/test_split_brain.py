"""What forces and repairs a split brain, on fakes: which commands, in which order. The rest is for real nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lab.errors import TimedOut
from lab.scenario import split_brain
from lab.scenario.history import Event
from lab.scenario.scene import Scene
from tests.unit.scenario.fakes import FakePair, ready


@pytest.fixture
def pair(tmp_path: Path) -> FakePair:
    (tmp_path / "lab").mkdir()
    return ready(tmp_path / "lab")[0]


@pytest.fixture
def scene(pair: FakePair, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(pair, "split", tmp_path / "scene", seed=7)
    yield made
    made.history.close()


def test_policies_go_to_both_nodes_and_drbd_takes_them_up(pair: FakePair, scene: Scene) -> None:
    split_brain.set_policies(scene, {"zero_primaries": "discard-zero-changes"})
    for name in ("n1", "n2"):
        node = pair.lab.nodes[name]
        assert b"after-sb-0pri discard-zero-changes;" in node.files["/etc/drbd.d/r0.res"]
        assert b"after-sb-1pri disconnect;" in node.files["/etc/drbd.d/r0.res"]
        assert node.ran == ["drbdadm adjust r0"]


def test_the_sites_own_policies_are_back_for_the_next_scenario(pair: FakePair, scene: Scene) -> None:
    split_brain.set_policies(scene, {})
    own = {name: pair.lab.nodes[name].files["/etc/drbd.d/r0.res"] for name in ("n1", "n2")}
    with split_brain.policies(scene, {"zero_primaries": "discard-zero-changes"}):
        for name, before in own.items():
            assert pair.lab.nodes[name].files["/etc/drbd.d/r0.res"] != before
    for name, before in own.items():
        assert pair.lab.nodes[name].files["/etc/drbd.d/r0.res"] == before
        assert pair.lab.nodes[name].ran[-1] == "drbdadm adjust r0"


def test_an_agent_is_stopped_without_leaving_and_started_again_whatever_happens(pair: FakePair, scene: Scene) -> None:
    node = pair.lab.nodes["n2"]
    with pytest.raises(TimedOut), split_brain.agents_stopped(scene, "n2"):
        assert node.files[split_brain.DROP_IN] == b"[Service]\nExecStop=\n"
        assert node.ran == ["systemctl daemon-reload", "systemctl stop hapair-agent.service"]
        raise TimedOut("the scenario")
    assert node.ran[2:] == [
        f"rm -f {split_brain.DROP_IN}",
        "systemctl daemon-reload",
        "systemctl start hapair-agent.service",
    ]


def test_the_victim_goes_first_and_its_copy_is_named(pair: FakePair, scene: Scene) -> None:
    states = iter(("StandAlone", "Connected"))
    pair.lab.nodes["n1"].says["drbdadm cstate *"] = partial(next, states)
    pair.lab.nodes["n2"].says["drbdadm cstate *"] = "Connected\n"
    pair.lab.nodes["n2"].says["hapair recover*"] = "n2: Secondary\nsaved: /x/r0-n2.img (5 bytes)\n  look\n"
    assert split_brain.recover(scene, "n2") == "/x/r0-n2.img"
    assert [line for line in pair.lab.commands if "cstate" not in line] == [
        "n2: umount /run/other-replica",
        "n2: drbdadm secondary r0",
        "n2: hapair recover-split-brain r0 --victim n2 --confirm n2 --save /var/lib/hapair/discarded",
        "n1: hapair recover-split-brain r0 --victim n2 --confirm n2",
    ]


def test_one_node_may_wait_where_the_other_stands_alone(pair: FakePair, scene: Scene) -> None:
    pair.lab.nodes["n1"].says["drbdadm cstate *"] = partial(next, iter(("Connected", "NetworkFailure", "WFConnection")))
    pair.lab.nodes["n2"].says["drbdadm cstate *"] = "StandAlone\n"
    assert split_brain.wait_apart(scene) == ["n2"]


def test_the_lock_is_stolen_at_the_epoch_that_is_shown(pair: FakePair, scene: Scene) -> None:
    node = pair.lab.nodes["n2"]
    node.says["drbd-fence status r0 --json"] = '{"state": "SOLO", "owner": "n1", "epoch": 7}'
    split_brain.steal(scene, "n2", owner="n1")
    assert node.ran[-1].startswith("drbd-fence steal r0 --epoch 7 --owner n1 ") and "--confirm r0" in node.ran[-1]
    assert [event.text("name") for event in scene.history.events() if event.kind == "fault"] == ["override"]


@pytest.mark.parametrize(
    ("changed", "refused"),
    [({}, True), ({"rule": "F12"}, False), ({"connection": "Connected"}, False), ({"role": "Primary"}, False)],
)
def test_a_refusal_names_its_rule(
    pair: FakePair, scene: Scene, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], *, refused: bool
) -> None:
    lock = {"state": "SOLO", "owner": "n1"}
    one = {"role": "Secondary", "connection": "WFConnection", "lock": lock, "rule": "F6", **changed}
    pair.lab.nodes["n2"].says["hapair status *"] = json.dumps({"resources": {"r0": one}})
    monkeypatch.setattr(split_brain, "SEEN_S", 0.1)
    if refused:
        split_brain.wait_refused(scene, "n2", owner="n1")
        return
    with pytest.raises(TimedOut, match="n2 refuses to serve, the lock being n1's"):
        split_brain.wait_refused(scene, "n2", owner="n1")


def test_a_comparison_has_ended_only_after_it_has_begun(pair: FakePair, scene: Scene) -> None:
    def said(replication: str) -> Event:
        return scene.history.note("n1", "drbd", object="peer-device", replication=replication)

    said("Established")
    node = pair.lab.nodes["n1"]
    node.says["drbdadm verify r0"] = lambda: "".join(said(it).text("none") for it in ("VerifyS", "Established"))
    split_brain.compare(scene, "n1")
    assert node.ran == ["drbdadm verify r0"]
    node.says["drbdadm verify r0"] = lambda: said("Established").text("none")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimedOut, match="the comparison has ended"):
        patch.setattr(split_brain, "COMPARE_S", 0.1)
        split_brain.compare(scene, "n1")


def test_the_alert_of_a_node_is_waited_for(scene: Scene) -> None:
    scene.history.note("n2", "decision", rule="F12", outcome="split brain")
    assert split_brain.wait_alert(scene, "n2").text("rule") == "F12"
