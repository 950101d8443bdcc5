"""A takeover is the sum of its parts; what lies idle between them turns I6 red."""

from __future__ import annotations

import pytest

from lab.scenario.invariants import recovers
from lab.scenario.observed import Expectation, acks, faults
from lab.scenario.recorder import parse_unit
from lab.scenario.recovery import Parts, parts, recovery_s
from lab.scenario.verdict import Outcome
from tests.unit.scenario.stories import GRACE_S, Story, facts, failover

ALLOWED = Expectation(recovery_s=60, failovers=1)


def takeover(served_at: float = 12.1, first_write: float = 13.0, grace_s: float = GRACE_S) -> Story:
    """n1 loses its power at 2, n2 loses n1 at 3.5, is Primary at 12, and starts its services when it is told to."""
    story = Story().add(0.0, "scenario", "begin", grace_s=grace_s).write(1.0, 0).fault(2.0, leaves="n1")
    story.apart(3.5, "n2").role(12.0, "n2", "Primary").served(served_at, "n2")
    return story.answer(first_write, "n2").write(first_write, 1, "boot-n2").add(first_write + 9, "client", "stop")


def measured(story: Story) -> Parts | None:
    events = story.told()
    took = recovery_s(faults(events)[0], events, acks(events))
    assert took is not None
    return parts(faults(events)[0], events, took)


def test_each_part_is_measured_by_itself() -> None:
    found = measured(takeover())
    assert found is not None
    got = [found.detection_s, found.grace_s, found.mount_s, found.lxd_s, found.container_s]
    assert got == pytest.approx([1.5, GRACE_S, 0.1, 0.7, 0.11])
    assert found.total_s == pytest.approx(11.01)
    assert found.ratio == pytest.approx(11.01 / 10.41)


def test_a_container_may_answer_before_lxd_says_that_it_is_up() -> None:
    """Its unit's start then ends after the first acknowledged write, on a slow node."""
    early = takeover()
    early.events = [e for e in early.events if e.text("change") != "Started"]
    found = measured(early.add(13.5, "n2", "unit", unit="r0lxd.service", change="Started"))
    assert found is not None
    assert [found.lxd_s, found.container_s] == pytest.approx([0.81, 0.0])
    found = measured(takeover().add(12.5, "probe", "id", boot="boot-n2"))
    assert found is not None
    assert [found.lxd_s, found.container_s] == pytest.approx([0.3, 0.0]), "it is up before that write, too"


def test_a_takeover_that_idles_is_red_and_says_what_it_is_made_of() -> None:
    good = recovers(takeover().told(), facts(), ALLOWED)
    assert good.outcome is Outcome.VALID
    assert "1.06 times its parts: detection 1.50, T_grace 8, mount 0.10, LXD 0.70, container 0.11 s" in good.why
    idle = recovers(takeover(served_at=15.1, first_write=16.0).told(), facts(), ALLOWED)
    assert (idle.outcome, "1.25 times allowed" in idle.why) == (Outcome.INVALID, True)


def test_what_nobody_saw_is_unknown() -> None:
    blind = [event for event in takeover().told() if event.kind != "unit"]
    verdict = recovers(blind, facts(), ALLOWED)
    assert (verdict.outcome, "nobody saw Mounting .mount" in verdict.why) == (Outcome.UNKNOWN, True)
    assert recovers(takeover(grace_s=0).told(), facts(), ALLOWED).outcome is Outcome.UNKNOWN


def test_only_the_loss_of_the_serving_node_alone_is_held_against_its_parts() -> None:
    assert measured(takeover().fault(4.0, name="store_down", node="store")) is None
    assert measured(takeover().add(12.05, "scenario", "agent_killed", node="n2")) is None
    cut = Story().write(1.0, 0).fault(2.0, name="link_cut").write(3.0, 1)
    assert measured(cut) is None
    apart = Story().apart(0.5, "n2")
    apart.events = [e for e in apart.events if not (e.source == "n2" and e.text("connection") == "Connected")]
    assert measured(apart.write(1.0, 0).fault(2.0, leaves="n1").write(9.0, 1, "boot-n2")) is None
    assert measured(failover()) is not None


def test_starts_of_the_two_units_are_read_from_the_journal() -> None:
    event = parse_unit(b"1795736571.021587 n1 systemd[1]: Mounting r0.mount - File system of r0...", "n1")
    assert event is not None
    assert (event.t, event.kind, event.text("unit"), event.text("change")) == (
        1795736571.021587,
        "unit",
        "r0.mount",
        "Mounting",
    )
    lxd = parse_unit(b"1795736594.198713 n1 systemd[1]: Started r0lxd.service - LXD of r0.", "n1")
    assert lxd is not None
    assert (lxd.text("unit"), lxd.text("change")) == ("r0lxd.service", "Started")
    assert (
        parse_unit(b"1795736594.198713 n1 systemd[1]: Started lxcfs.service - FUSE filesystem for LXC.", "n1") is None
    )
    assert parse_unit(b"1795736594.198713 n1 root: systemd[1]: Started r0lxd.service - LXD of r0.", "n1") is None
