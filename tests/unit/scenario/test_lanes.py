"""The lanes that terminal, picture and page share."""

from __future__ import annotations

import pytest

from lab.scenario.lanes import Fault, Mark, Span, state_at, timeline
from tests.unit.scenario.stories import Story, failover

OWNER = "c2b8e4f3-0d67-4f15-8b3c-91e6a7d04b22"


def drbd(story: Story, t: float, node: str, thing: str, **fields: object) -> Story:
    return story.add(t, node, "drbd", change="change", object=thing, **fields)


def seen(spans: tuple[Span, ...]) -> list[tuple[float, str]]:
    return [(span.start_s, span.state) for span in spans]


def test_events2_prints_what_changed_only_and_a_freeze_shows_all_the_same() -> None:
    story = Story().write(9.0, 0)
    drbd(story, 2.0, "n1", "resource", suspended="fencing")
    drbd(story, 3.0, "n1", "resource", role="Primary")
    drbd(story, 4.0, "n1", "resource", suspended="no")
    drbd(story, 6.0, "n1", "resource", role="Secondary")
    lanes = timeline(story.told()).nodes["n1"]
    assert seen(lanes.role) == [(0.0, "Primary"), (2.0, "frozen"), (4.0, "Primary"), (6.0, "Secondary")]
    assert seen(lanes.suspended) == [(2.0, "fencing"), (4.0, "no")]


def test_a_paused_node_has_its_role_again_once_it_goes_on() -> None:
    story = Story().fault(1.0, "freeze").add(3.0, "scenario", "heal", name="freeze", node="n1").write(5.0, 0)
    whole = timeline(story.told())
    assert seen(whole.nodes["n1"].role) == [(0.0, "Primary"), (1.0, "paused"), (3.0, "Primary")]
    assert whole.faults == (Fault(1.0, 3.0, "freeze of n1"),)


def test_disk_and_connection_are_unknown_while_nobody_follows() -> None:
    story = failover()
    drbd(story, 0.5, "n1", "connection", connection="Connected", role="Secondary")
    drbd(story, 9.0, "n1", "device", disk="Inconsistent")
    lanes = timeline(story.told()).nodes["n1"]
    assert next((s.start_s, s.end_s, s.state) for s in lanes.disk) == (0.0, 2.02, "UpToDate")
    assert seen(lanes.disk)[1:] == [(9.0, "Inconsistent")]
    assert [(s.end_s, s.state) for s in lanes.connection] == [(2.02, "Connected")]
    assert seen(lanes.role)[:2] == [(0.0, "Primary"), (2.0, "off")]  # the peer's role on a connection is not its own


def test_decisions_carry_rule_and_reason_and_start_with_the_scenario() -> None:
    story = Story().add(1.0, "scenario", "begin", name="x")
    for t in (0.5, 3.0):
        story.add(t, "n2", "decision", rule="F6", action="take the lock alone", outcome="done", why="?", took_s=0.2)
    (one,) = timeline(story.told()).nodes["n2"].decisions
    assert (one.at_s, one.node, one.rule, one.action, one.outcome, one.why, one.took_s) == (
        2.0, "n2", "F6", "take the lock alone", "done", "?", 0.2,
    )  # fmt: skip
    assert timeline(story.told()).nodes["n1"].decisions == ()


def test_the_store_shows_owner_epoch_and_refusals() -> None:
    story = Story().add(0.0, "scenario", "begin", name="x", owners={OWNER: "n2"}).write(9.0, 0)
    solo = {"state": "SOLO", "owner": OWNER, "epoch": 5, "writer": OWNER}
    story.add(1.0, "store", "request", method="PUT", status=200, client="n2", after={"state": "SHARED", "epoch": 4})
    story.add(2.0, "store", "request", method="PUT", status=200, client="127.0.0.1", before=None, after=solo)
    story.add(3.0, "store", "request", method="PUT", status=412, client="n1", before=solo, after=solo)
    story.add(4.0, "store", "request", method="GET", status=200, client="n1", before=solo, after=solo)
    story.add(5.0, "store", "request", method="PUT", status=201, client="n1", before=None, after={})  # a probe's object
    whole = timeline(story.told())
    assert seen(whole.lock) == [(0.0, "SHARED"), (2.0, "SOLO n2")]
    assert seen(whole.epoch) == [(0.0, "1"), (1.0, "4"), (2.0, "5")]
    assert [mark for mark in whole.marks if mark.kind == "lock" and mark.at_s > 1] == [
        Mark(2.0, "SOLO n2, epoch 5, written by n2", False, "store", "lock"),
        Mark(3.0, "PUT of n1 refused: 412", True, "store", "lock"),
    ]


def test_acknowledgements_are_counted_by_the_node_that_gave_them() -> None:
    whole = timeline(failover().write(15.0, 40, "a stranger").told())
    assert {who: sum(counts) for who, counts in whole.acks_of.items()} == {"n1": 10, "n2": 10, "?": 1}
    assert sum(whole.acks) == 21
    assert whole.acks_of["n2"][140] == 2 and whole.acks_of["n1"][140] == 0
    assert whole.unanswered == pytest.approx((4.1, 6.3))


def test_a_fault_lasts_until_its_own_heal() -> None:
    story = failover().fault(3.0, "cut_crossover", "n2").fault(14.0, "reboot", "n2")
    story.add(3.5, "scenario", "heal", name="power_loss", node="n1")
    story.add(4.0, "scenario", "heal", name="cut_crossover", node="n2")
    assert timeline(story.told()).faults == (
        Fault(2.0, 3.5, "power loss of n1"),
        Fault(3.0, 4.0, "cut crossover of n2"),
        Fault(14.0, 14.0, "reboot of n2"),  # it happens by itself, and nobody heals it
    )


def test_what_went_wrong_is_marked_as_bad() -> None:
    story = Story().add(1.0, "n2", "kernel", text="BUG: <here>", bug=True)
    story.add(2.0, "scenario", "not_healed", why="n1 is off").add(3.0, "lab", "unanswered", why="scrub")
    story.add(4.0, "scenario", "end", error="TimedOut: x")
    assert [(m.where, m.text) for m in timeline(story.told()).marks if m.bad] == [
        ("n2", "kernel: BUG: <here>"),
        ("scenario", "did not heal: n1 is off"),
        ("scenario", "scrub"),
        ("scenario", "TimedOut: x"),
    ]


def test_the_state_at_a_moment_is_that_before_it() -> None:
    spans = (Span(0.0, 2.0, "a"), Span(2.0, 5.0, "b"))
    assert [state_at(spans, at) for at in (0.0, 1.0, 2.0, 2.1, 9.0)] == ["-", "a", "a", "b", "b"]
