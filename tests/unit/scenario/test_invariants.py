"""Each invariant with hand-written histories: valid, unknown, invalid."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.scenario import invariants
from lab.scenario.history import Event
from lab.scenario.observed import Expectation, NodeFacts
from lab.scenario.verdict import Outcome, Verdict
from tests.unit.scenario.stories import HEALTHY, MAC_OF, WHOLE, Story, facts, failover

EXPECTED = Expectation(recovery_s=20.0, failovers=1, gap_s=20.0)


def judge(name: str, story: Story, final: object = None, expected: Expectation = EXPECTED) -> Verdict:
    given_facts = facts(WHOLE) if final is None else final
    return invariants.INVARIANTS[name](story.told(), given_facts, expected)  # type: ignore[arg-type] # Facts


@pytest.mark.parametrize("name", list(invariants.INVARIANTS))
def test_a_good_failover_satisfies_every_invariant(name: str) -> None:
    verdict = judge(name, failover())
    assert verdict.outcome is Outcome.VALID, verdict


@pytest.mark.parametrize("name", [name for name in invariants.INVARIANTS if name not in ("I8", "I9", "I10")])
def test_nothing_observed_is_unknown_never_valid(name: str) -> None:
    expected = replace(EXPECTED, failovers=None)
    verdict = invariants.INVARIANTS[name]((), facts([]), expected)
    assert verdict.outcome is Outcome.UNKNOWN, verdict


class TestI1:
    def test_an_acknowledged_write_that_is_missing_is_named(self) -> None:
        verdict = judge("I1", failover(), facts([seq for seq in WHOLE if seq != 7]))
        assert verdict.outcome is Outcome.INVALID
        assert "7 x7" in verdict.why

    @pytest.mark.parametrize("seqs", [[*WHOLE, 10], [*WHOLE, 10, 11], WHOLE])
    def test_a_write_of_unknown_outcome_may_be_there_or_not(self, seqs: list[int]) -> None:
        assert judge("I1", failover(), facts(seqs)).outcome is Outcome.VALID

    def test_a_line_that_is_there_twice(self) -> None:
        assert "more than once: 3 x3" in judge("I1", failover(), facts([*WHOLE, 3])).why

    def test_a_line_that_nobody_sent(self) -> None:
        final = replace(facts(WHOLE), lines=(*(f"{seq} x{seq}" for seq in WHOLE), "11 x1"))
        assert judge("I1", failover(), final).outcome is Outcome.INVALID

    def test_what_was_there_before_is_nobodys_fault(self) -> None:
        final = replace(facts(WHOLE), lines=("0 old", *(f"{seq} x{seq}" for seq in WHOLE)), baseline=("0 old",))
        assert judge("I1", failover(), final).outcome is Outcome.VALID

    def test_a_list_that_could_not_be_read_leaves_it_open(self) -> None:
        assert judge("I1", failover(), facts(None)).outcome is Outcome.UNKNOWN

    @given(
        outcomes=st.lists(st.sampled_from(["ack", "fail"]), max_size=12),
        there=st.lists(st.integers(0, 14), max_size=16),
    )
    def test_agrees_with_a_brute_force_oracle(self, outcomes: list[str], there: list[int]) -> None:
        story = Story()
        for seq, outcome in enumerate(outcomes):
            (story.write if outcome == "ack" else story.failed)(float(seq), seq)
        acked = [seq for seq, outcome in enumerate(outcomes) if outcome == "ack"]
        fine = (
            all(seq in there for seq in acked)
            and all(there.count(seq) == 1 for seq in there)
            and all(seq < len(outcomes) for seq in there)
        )
        verdict = judge("I1", story, facts(there))
        if not acked:
            assert verdict.outcome is Outcome.UNKNOWN
        else:
            assert (verdict.outcome is Outcome.VALID) == fine


class TestI2:
    def test_the_former_node_acknowledges_once_more(self) -> None:
        verdict = judge("I2", failover().write(14.6, 30, "boot-n1"))
        assert verdict.outcome is Outcome.UNKNOWN  # nobody followed n1 at that time: it might have been promoted

    def test_the_former_node_acknowledges_once_more_and_was_watched(self) -> None:
        story = Story().write(1.0, 0).role(2.0, "n2", "Primary").write(3.0, 1, "boot-n2").write(4.0, 2)
        verdict = judge("I2", story)
        assert verdict.outcome is Outcome.INVALID
        assert "n1 answered (ack of 2 x2" in verdict.why

    def test_to_and_fro_with_promotions_is_fine(self) -> None:
        story = Story().write(1.0, 0).role(1.9, "n1", "Secondary").role(2.0, "n2", "Primary").write(3.0, 1, "boot-n2")
        story.role(3.5, "n2", "Secondary").role(3.6, "n1", "Primary").write(4.0, 2)
        assert judge("I2", story).outcome is Outcome.VALID

    def test_a_node_that_was_never_promoted_acknowledges(self) -> None:
        story = Story().write(1.0, 0).write(3.0, 1, "boot-n2")
        assert judge("I2", story).outcome is Outcome.INVALID

    def test_the_peers_role_is_no_promotion(self) -> None:
        story = Story().write(1.0, 0).add(2.0, "n2", "drbd", change="change", object="connection", role="Primary")
        assert judge("I2", story.write(3.0, 1, "boot-n2")).outcome is Outcome.INVALID

    def test_two_nodes_answer_requests_that_overlap(self) -> None:
        story = Story().role(0.5, "n2", "Primary").write(1.0, 0, took=0.3).write(1.1, 1, "boot-n2", took=0.1)
        verdict = judge("I2", story)
        assert verdict.outcome is Outcome.UNKNOWN
        assert "at once" in verdict.why

    def test_a_boot_that_nobody_knows(self) -> None:
        assert judge("I2", failover().write(14.6, 30, "boot-x")).outcome is Outcome.UNKNOWN

    def test_the_kernel_reports_a_split_brain(self) -> None:
        text = "drbd r0: Split-Brain detected but unresolved, dropping connection!"
        verdict = judge("I2", failover().add(15.0, "n2", "kernel", text=text, bug=False))
        assert verdict.outcome is Outcome.INVALID
        assert "Split-Brain" in verdict.why

    def test_a_split_brain_that_the_scenario_forces_is_no_fault_but_two_writers_are(self) -> None:
        forced = Expectation(split_brain=True)
        text = "drbd r0: Split-Brain detected but unresolved, dropping connection!"
        story = Story().write(1.0, 0).add(1.5, "n2", "kernel", text=text, bug=False)
        assert judge("I2", story, expected=forced).outcome is Outcome.VALID
        assert judge("I2", story.write(3.0, 1, "boot-n2"), expected=forced).outcome is Outcome.INVALID

    def test_a_journal_that_nobody_followed_leaves_it_open(self) -> None:
        story = failover()
        story.events = [e for e in story.events if not (e.kind == "follow" and e.text("stream") == "journal")]
        assert judge("I2", story).outcome is Outcome.UNKNOWN

    @pytest.mark.parametrize(
        ("clocks", "outcome"),
        [
            ([("a", -7.0, 0.02), ("a", -7.1, 0.02), ("b", 3.0, 0.02)], Outcome.VALID),
            ([("a", -7.0, 0.02), ("a", -6.0, 0.02)], Outcome.UNKNOWN),
            ([("a", 0.0, 0.3)], Outcome.UNKNOWN),
            ([("a", None, None)], Outcome.UNKNOWN),
        ],
    )
    def test_a_clock_may_be_wrong_but_must_be_known(
        self, clocks: list[tuple[str, float, float]], outcome: Outcome
    ) -> None:
        story = failover()
        for boot, offset, margin in clocks:
            story.add(0.0, "lab", "clock", node="n2", boot=boot, offset_s=offset, margin_s=margin)
        assert judge("I2", story).outcome is outcome

    def test_a_reboot_as_primary_is_a_promotion(self) -> None:
        story = Story().write(1.0, 0).role(2.0, "n2", "Primary").write(3.0, 1, "boot-n2")
        story.add(5.0, "n1", "boot", boot="boot-n1-again").role(6.0, "n1", "Primary", change="exists")
        assert judge("I2", story.write(7.0, 2, "boot-n1-again")).outcome is Outcome.VALID

    @given(
        answers=st.lists(
            st.tuples(st.sampled_from(["n1", "n2"]), st.integers(1, 40), st.integers(0, 6)), min_size=1, max_size=8
        ),
        turns=st.lists(st.tuples(st.sampled_from(["n1", "n2"]), st.integers(1, 40)), max_size=6),
    )
    def test_agrees_with_a_brute_force_oracle(
        self, answers: list[tuple[str, int, int]], turns: list[tuple[str, int]]
    ) -> None:
        story = Story()
        for node, at in turns:  # down and up again in one moment: a promotion at `at`
            story.role(at - 0.001, node, "Secondary").role(float(at), node, "Primary")
        for seq, (node, at, took) in enumerate(answers):
            story.write(float(at), seq, f"boot-{node}", float(took))
        spans = [(node, float(at), float(at + took)) for node, at, took in answers]
        pairs = [(a, b) for a in spans for b in spans if a[0] != b[0]]
        proven = [
            (a, b)
            for b, a in pairs
            if b[2] <= a[1] and not any(node == a[0] and b[2] < at <= a[2] for node, at in turns)
        ]
        overlapping = [(a, b) for a, b in pairs if a[1] < b[2] and b[1] < a[2]]
        wanted = Outcome.INVALID if proven else Outcome.UNKNOWN if overlapping else Outcome.VALID
        assert judge("I2", story).outcome is wanted


class TestI5:
    def test_two_mac_addresses_take_turns(self) -> None:
        story = Story()
        for number in range(6):
            story.add(1.0 + number / 10, "probe", "arp", mac=MAC_OF["n1" if number % 2 else "n2"])
        story.answer(2.0, "n1")
        assert judge("I5", story).outcome is Outcome.INVALID

    def test_the_old_node_still_answers_by_http(self) -> None:
        story = Story().answer(1.0, "n1").role(2.0, "n2", "Primary").answer(3.0, "n2")
        story.add(4.0, "probe", "id", boot="boot-n1", started=3.9)
        verdict = judge("I5", story)
        assert verdict.outcome is Outcome.INVALID
        assert "GET id" in verdict.why

    def test_the_old_node_still_answers_by_arp_only(self) -> None:
        story = Story().answer(1.0, "n1").role(2.0, "n2", "Primary").answer(3.0, "n2")
        story.add(4.0, "probe", "arp", mac=MAC_OF["n1"])
        verdict = judge("I5", story)
        assert verdict.outcome is Outcome.INVALID
        assert "ARP" in verdict.why

    def test_a_stranger_answers(self) -> None:
        story = Story().answer(1.0, "n1").add(1.5, "probe", "arp", mac="02:00:00:00:00:99")
        assert judge("I5", story).outcome is Outcome.UNKNOWN

    def test_the_container_runs_on_both(self) -> None:
        both = {name: replace(HEALTHY, containers=("c1",)) for name in ("n1", "n2")}
        assert judge("I5", failover(), replace(facts(WHOLE), nodes=both)).outcome is Outcome.INVALID

    def test_no_arp_answer_leaves_it_open(self) -> None:
        story = failover()
        story.events = [event for event in story.events if event.kind != "arp"]
        assert judge("I5", story).outcome is Outcome.UNKNOWN


class TestThaw:
    def test_a_paused_node_answers_until_its_agent_runs_again(self) -> None:
        story = Story().answer(1.0, "n1").role(2.0, "n2", "Primary").answer(3.0, "n2").answer(4.3, "n1")
        story.add(4.2, "scenario", "heal", name="freeze", node="n1")
        expected = replace(EXPECTED, thaw_s=1.0)
        assert judge("I5", story).outcome is Outcome.INVALID
        assert judge("I5", story, None, expected).outcome is Outcome.VALID
        assert judge("I5", story.answer(5.5, "n1"), None, expected).outcome is Outcome.INVALID


class TestI6:
    def test_too_late(self) -> None:
        verdict = judge("I6", failover(), expected=replace(EXPECTED, recovery_s=10.0))
        assert verdict.outcome is Outcome.INVALID
        assert "12.01 s after power_loss of n1" in verdict.why

    def test_never_again(self) -> None:
        story = Story().write(1.0, 0).fault(2.0).failed(30.0, 1)
        verdict = judge("I6", story, expected=replace(EXPECTED, failovers=0, gap_s=None))
        assert verdict.outcome is Outcome.INVALID

    def test_the_client_ended_too_early_to_tell(self) -> None:
        story = Story().write(1.0, 0).fault(2.0).failed(3.0, 1)
        assert judge("I6", story, expected=replace(EXPECTED, failovers=0)).outcome is Outcome.UNKNOWN

    def test_an_answer_of_the_dying_node_does_not_end_the_outage(self) -> None:
        story = failover().write(2.05, 40, "boot-n1")
        verdict = judge("I6", story, expected=replace(EXPECTED, recovery_s=10.0))
        assert verdict.outcome is Outcome.INVALID

    def test_a_write_that_was_under_way_already_does_not_end_the_outage(self) -> None:
        story = Story().write(1.9, 0, took=0.5).fault(2.0, node="n2").write(9.0, 1)
        verdict = judge("I6", story, expected=Expectation(recovery_s=5.0, failovers=0))
        assert verdict.outcome is Outcome.INVALID
        assert "7.01 s" in verdict.why

    def test_a_benign_fault_must_not_move_the_service(self) -> None:
        assert judge("I6", failover(), expected=replace(EXPECTED, failovers=0)).outcome is Outcome.INVALID

    def test_a_failover_that_did_not_happen(self) -> None:
        story = Story().write(1.0, 0).write(1.1, 1)
        assert judge("I6", story).outcome is Outcome.INVALID

    def test_failovers_that_nobody_could_see(self) -> None:
        story = Story().write(1.0, 0).write(1.1, 1)
        story.events = [event for event in story.events if event.kind != "follow"]
        assert judge("I6", story).outcome is Outcome.UNKNOWN

    def test_a_gap_longer_than_allowed(self) -> None:
        story = Story().write(1.0, 0).write(9.0, 1)
        verdict = judge("I6", story, expected=Expectation(failovers=0, gap_s=5.0))
        assert verdict.outcome is Outcome.INVALID
        assert "8.00 s without" in verdict.why

    def test_silence_at_the_end_is_a_gap_too(self) -> None:
        story = Story().write(1.0, 0).add(9.0, "client", "stop")
        assert judge("I6", story, expected=Expectation(failovers=0, gap_s=5.0)).outcome is Outcome.INVALID


class TestI8:
    @pytest.mark.parametrize(
        "change",
        [
            {"connection": "Connecting"},
            {"disk": "Outdated"},
            {"peer_disk": "DUnknown"},
            {"out_of_sync": 4},
            {"suspended": "fencing"},
            {"failed_units": ("r0lxd.service",)},
            {"leftovers": ("qdisc netem",)},
        ],
    )
    def test_anything_not_healed_is_named(self, change: dict[str, object]) -> None:
        worse = replace(HEALTHY, **change)  # type: ignore[arg-type] # the fields of NodeFacts, by name
        verdict = judge("I8", Story(), replace(facts(WHOLE), nodes={"n1": worse, "n2": HEALTHY}))
        assert verdict.outcome is Outcome.INVALID
        assert verdict.why.startswith("n1: ")

    def test_a_node_that_did_not_answer_leaves_it_open(self) -> None:
        final = replace(facts(WHOLE), nodes={"n1": HEALTHY, "n2": NodeFacts()})
        assert judge("I8", Story(), final).outcome is Outcome.UNKNOWN

    def test_a_lock_that_was_not_released(self) -> None:
        final = replace(facts(WHOLE), lock={"state": "SOLO", "owner": "n2"})
        assert judge("I8", Story(), final).outcome is Outcome.INVALID

    @pytest.mark.parametrize("missing", [{"lock": None}, {"impairments": None}])
    def test_what_was_not_read_leaves_it_open(self, missing: dict[str, None]) -> None:
        assert judge("I8", Story(), replace(facts(WHOLE), **missing)).outcome is Outcome.UNKNOWN  # type: ignore[arg-type] # by name

    def test_an_impairment_left_behind(self) -> None:
        assert judge("I8", Story(), replace(facts(WHOLE), impairments=("n1/crossover",))).outcome is Outcome.INVALID

    def test_replicas_that_a_comparison_found_to_differ(self) -> None:
        story = Story().add(3.0, "n1", "drbd", change="call", object="helper", helper="out-of-sync")
        assert judge("I8", story, facts(WHOLE)).outcome is Outcome.INVALID
        assert judge("I8", Story(), facts(WHOLE)).outcome is Outcome.VALID


class TestI9:
    def test_a_scrub_that_found_something(self) -> None:
        assert judge("I9", Story(), replace(facts(WHOLE), scrub_code=3)).outcome is Outcome.INVALID

    def test_a_counter_that_is_not_zero(self) -> None:
        final = replace(facts(WHOLE), device_errors={"[/dev/drbd0].corruption_errs": 2})
        assert judge("I9", Story(), final).outcome is Outcome.INVALID

    def test_no_scrub_leaves_it_open(self) -> None:
        assert judge("I9", Story(), replace(facts(WHOLE), scrub_code=None)).outcome is Outcome.UNKNOWN


class TestI10:
    HELPER: ClassVar[dict[str, object]] = {"object": "helper", "helper": "fence-peer"}

    def test_other_helpers_have_other_codes(self) -> None:
        story = Story().add(3.0, "n2", "drbd", change="response", object="helper", helper="unfence-peer", status=256)
        assert judge("I10", story).outcome is Outcome.VALID

    @pytest.mark.parametrize(
        ("status", "outcome"), [(1024, Outcome.VALID), (1280, Outcome.INVALID), (256, Outcome.INVALID)]
    )
    def test_only_the_documented_codes_are_success(self, status: int, outcome: Outcome) -> None:
        story = Story().add(3.0, "n2", "drbd", change="response", status=status, **self.HELPER)
        assert judge("I10", story).outcome is outcome

    def test_a_handler_that_never_ended(self) -> None:
        story = Story().add(3.0, "n2", "drbd", change="call", **self.HELPER)
        assert judge("I10", story, expected=Expectation(fences=("n2",))).outcome is Outcome.INVALID

    def test_the_one_harmless_warning_needs_its_cause_in_its_trace(self) -> None:
        text = "WARNING: CPU: 0 PID: 642 at kernel/rcu/tree_plugin.h:320 rcu_note_context_switch+0x4ee/0x650"
        warned = Story().add(3.0, "n1", "kernel", text=text, bug=True)
        assert judge("I10", warned).outcome is Outcome.INVALID
        cause = "drbd_uuid_new_current+0xc0/0x100 [drbd]"
        elsewhere = (
            Story().add(3.0, "n1", "kernel", text=text, bug=True).add(3.1, "n2", "kernel", text=cause, bug=False)
        )
        assert judge("I10", elsewhere).outcome is Outcome.INVALID
        late = Story().add(3.0, "n1", "kernel", text=text, bug=True).add(9.0, "n1", "kernel", text=cause, bug=False)
        assert judge("I10", late).outcome is Outcome.INVALID
        assert judge("I10", warned.add(3.1, "n1", "kernel", text=cause, bug=False)).outcome is Outcome.VALID

    def test_a_kernel_that_complains(self) -> None:
        assert judge("I10", Story().add(3.0, "n1", "kernel", text="BUG: x", bug=True)).outcome is Outcome.INVALID


class TestI11:
    def test_the_new_node_began_without_a_write(self) -> None:
        story = failover()
        story.events = [event for event in story.events if event.kind != "list"]
        story.listed(14.02, "boot-n2", [*range(9), 20])
        verdict = judge("I11", story)
        assert verdict.outcome is Outcome.INVALID
        assert "9 x9" in verdict.why

    def test_a_write_that_turned_up_later(self) -> None:
        verdict = judge("I11", failover(), facts([*range(9), *range(20, 25), 9, *range(25, 30)]))
        assert verdict.outcome is Outcome.INVALID
        assert "only after" in verdict.why

    def test_a_list_that_was_not_read_in_time_leaves_it_open(self) -> None:
        story = failover()
        story.events = [event for event in story.events if event.kind != "list"]
        assert judge("I11", story).outcome is Outcome.UNKNOWN

    def test_a_write_acknowledged_while_the_list_was_read_need_not_be_in_it(self) -> None:
        assert (
            judge("I11", failover().write(14.01, 31, "boot-n2", took=0.2), facts([*WHOLE, 31])).outcome is Outcome.VALID
        )


def test_a_check_that_raises_is_unknown_with_its_traceback() -> None:
    def broken(*_: object) -> Verdict:
        raise ZeroDivisionError("boom")

    verdict = invariants.guarded(broken, (), facts([]), EXPECTED)
    assert verdict.outcome is Outcome.UNKNOWN
    assert "boom" in verdict.why


def test_events_of_the_supervisor_are_not_taken_for_faults() -> None:
    story = Story().write(1.0, 0).write(1.1, 1)
    story.events.append(Event(1.05, "lab", "fault", {"node": "n1"}))
    assert judge("I6", story, expected=Expectation(failovers=0)).outcome is Outcome.VALID
