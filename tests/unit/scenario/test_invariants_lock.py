"""The invariants of the fence lock with hand-written histories: valid, unknown, invalid."""

from __future__ import annotations

import pytest

from lab.scenario import invariants
from lab.scenario.observed import Expectation
from lab.scenario.verdict import Outcome, Verdict
from tests.unit.scenario.stories import WHOLE, Story, facts

ALONE = ("I4", "I7")


def judge(name: str, story: Story, **expected: float) -> Verdict:
    return invariants.INVARIANTS[name](story.told(), facts(WHOLE), Expectation(**expected))  # type: ignore[arg-type] # window_s only


def alone() -> Story:
    """n1 has lost its peer at 2.0; nothing was acknowledged yet."""
    return Story().write(1.0, 0).apart(2.0, "n1", "n2")


class TestI3:
    def test_a_failover_and_back(self) -> None:
        story = (
            Story().commit(1, "SHARED", "n1").commit(2, "SOLO", "n2").commit(3, "SOLO", "n2").commit(4, "SHARED", "n2")
        )
        assert judge("I3", story).outcome is Outcome.VALID

    def test_a_hand_over_and_its_new_writing(self) -> None:
        story = (
            Story().commit(1, "SOLO", "n1").commit(2, "SOLO", "n2", writer="n1").commit(3, "SOLO", "n2", writer="n1")
        )
        assert judge("I3", story).outcome is Outcome.VALID

    @pytest.mark.parametrize(
        "story",
        [
            Story().commit(1, "SOLO", "n1").commit(2, "SOLO", "n2"),
            Story().commit(1, "SOLO", "n1").commit(2, "SHARED", "n2"),
            Story().commit(1, "SOLO", "n1", epoch=4),
            Story().commit(1, "SOLO", "n1", epoch=1),
            Story().commit(1, "STEALING", "n2"),
        ],
        ids=["taken from its owner", "released by another", "a leap", "no growth", "an override that nobody noted"],
    )
    def test_an_unlawful_change(self, story: Story) -> None:
        assert judge("I3", story).outcome is Outcome.INVALID

    def test_a_change_behind_the_stores_back(self) -> None:
        story = Story()
        story.lock = {**story.lock, "epoch": 9}
        assert "not SHARED" in judge("I3", story.commit(1, "SOLO", "n1")).why

    def test_an_override_that_the_scenario_noted(self) -> None:
        story = (
            Story().commit(1, "SOLO", "n1").fault(1.5, "override").commit(2, "STEALING", "n2").commit(3, "SOLO", "n2")
        )
        assert judge("I3", story).outcome is Outcome.VALID


class TestAlone:
    @pytest.mark.parametrize("name", ALONE)
    def test_under_the_lock(self, name: str) -> None:
        assert judge(name, alone().commit(2.5, "SOLO", "n1").write(2.6, 1)).outcome is Outcome.VALID

    @pytest.mark.parametrize("name", ALONE)
    def test_under_shared(self, name: str) -> None:
        verdict = judge(name, alone().write(2.6, 1))
        assert verdict.outcome is Outcome.INVALID
        assert "1 x1 (by n1" in verdict.why

    @pytest.mark.parametrize("name", ALONE)
    def test_under_the_peers_lock(self, name: str) -> None:
        assert judge(name, alone().commit(2.2, "SOLO", "n2").write(2.6, 1)).outcome is Outcome.INVALID

    @pytest.mark.parametrize("name", ALONE)
    def test_before_the_lock_came(self, name: str) -> None:
        story = alone().write(2.6, 1).commit(3.0, "SOLO", "n1").write(3.1, 2)
        assert judge(name, story).outcome is Outcome.INVALID
        assert judge(name, story, window_s=1.0).outcome is Outcome.VALID

    @pytest.mark.parametrize("name", ALONE)
    def test_a_write_that_was_under_way_when_the_peer_was_lost(self, name: str) -> None:
        assert judge(name, Story().write(1.9, 1, took=0.3).apart(2.0, "n1")).outcome is Outcome.VALID

    @pytest.mark.parametrize("name", ALONE)
    def test_a_peer_that_syncs_is_no_peer(self, name: str) -> None:
        story = Story().write(1.0, 0).peer(2.0, "n1", "Connected", "Inconsistent").write(3.0, 1)
        assert judge(name, story).outcome is Outcome.INVALID

    def test_nobody_watched_the_node(self) -> None:
        story = Story().write(1.0, 0).add(2.0, "n1", "lost", stream="events2").write(3.0, 1)
        assert judge("I4", story).outcome is Outcome.UNKNOWN

    def test_the_lock_came_but_nobody_told_the_node(self) -> None:
        story = alone().commit(2.5, "SOLO", "n1", told=False).write(2.6, 1)
        assert judge("I4", story).outcome is Outcome.VALID
        assert judge("I7", story).outcome is Outcome.INVALID

    def test_told_of_a_lock_that_was_given_back(self) -> None:
        story = alone().commit(2.2, "SOLO", "n1").commit(2.4, "SHARED", "n1").write(2.6, 1)
        assert judge("I7", story).outcome is Outcome.INVALID


class TestI12:
    def test_both_current(self) -> None:
        story = Story().apart(1.0, "n1", "n2").commit(1.5, "SOLO", "n1")
        story.peer(3.0, "n1", "Connected", "UpToDate").peer(3.0, "n2", "Connected", "UpToDate")
        assert judge("I12", story.commit(3.1, "SHARED", "n1")).outcome is Outcome.VALID

    @pytest.mark.parametrize(("connection", "disk"), [("Connecting", "DUnknown"), ("Connected", "Inconsistent")])
    def test_too_early(self, connection: str, disk: str) -> None:
        story = Story().peer(1.0, "n1", connection, disk).commit(1.5, "SOLO", "n1").commit(3.0, "SHARED", "n1")
        verdict = judge("I12", story)
        assert verdict.outcome is Outcome.INVALID
        assert "n1 saw no two current replicas" in verdict.why

    def test_the_moment_counts_when_it_was_sent(self) -> None:
        story = Story().commit(1.0, "SOLO", "n1").apart(2.0, "n1", "n2").commit(4.0, "SHARED", "n1")
        assert judge("I12", story).outcome is Outcome.INVALID
        late = [
            e if e.kind != "proxy" else type(e)(e.t, e.source, e.kind, {**e.data, "came": 1.5}) for e in story.told()
        ]
        assert invariants.INVARIANTS["I12"](late, facts(WHOLE), Expectation()).outcome is Outcome.VALID

    def test_by_another(self) -> None:
        assert judge("I12", Story().commit(1, "SOLO", "n1").commit(2, "SHARED", "n2")).outcome is Outcome.INVALID

    def test_unwatched(self) -> None:
        story = Story().commit(1, "SOLO", "n1").add(2.0, "n1", "lost", stream="events2").commit(3, "SHARED", "n1")
        assert judge("I12", story).outcome is Outcome.UNKNOWN
