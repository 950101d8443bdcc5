"""A disk that comes late: DRBD knows the resource, but has not got all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hapair import policy, rules, status
from hapair.actions import Action, Kind, Outcome, Verdict
from hapair.memory import EVENT_LAG_S, RETRY_S, Memory, Wish, answered, begin, wished
from hapair.states import Connection, Disk, Kernel, Observation, Replication, Role, Settings, Times, Volume

from .conftest import Host

SITE = Settings("r0", "uuid-n2", "uuid-n1", "n1", False, Times(3.0, 7.5, 2.0, 20.0, 60.0))
DISKLESS = Observation(
    complete=True,
    kernel=Kernel("r0", connection=Connection.CONNECTING, volumes=(Volume(0, Disk.DISKLESS),)),
    lxd_active=False,
)


def after(verdict: Verdict) -> Memory:
    """Return the memory of an agent whose first `drbdadm adjust` ended at 1 s with this verdict."""
    absent = Observation(complete=True, kernel=None)
    (action,), memory = policy.decide(SITE, absent, begin(0.0), 0.0)
    assert action.kind is Kind.UP
    return answered(memory, Outcome(action, verdict, 0.0), SITE, 1.0)


def kinds(actions: tuple[Action, ...]) -> list[Kind]:
    return [action.kind for action in actions]


def test_what_could_not_be_brought_up_is_tried_again() -> None:
    memory = after(Verdict.FAILED)
    actions, memory = policy.decide(SITE, DISKLESS, memory, 1.5)
    assert Kind.UP not in kinds(actions), "a pause comes first"
    assert memory.wake_at is not None
    assert memory.wake_at <= 1.0 + RETRY_S
    actions, _ = policy.decide(SITE, DISKLESS, memory, 1.0 + RETRY_S)
    assert kinds(actions) == [Kind.UP]


def test_t_grace_does_not_begin_before_drbd_could_meet_the_peer() -> None:
    """F10: the agent may have waited for a disk, or for the store, for longer than T_grace."""
    missing = replace(DISKLESS, kernel=replace(DISKLESS.kernel or Kernel("r0"), volumes=(Volume(0, Disk.CONSISTENT),)))
    grace_s = SITE.times.grace_s
    actions, memory = policy.decide(SITE, missing, after(Verdict.DONE), 0.9 + grace_s)
    assert Kind.TAKE_SOLO not in kinds(actions)
    assert memory.wake_at == 1.0 + grace_s
    assert Kind.TAKE_SOLO in kinds(policy.decide(SITE, missing, memory, 1.0 + grace_s)[0])


def test_a_disk_that_was_detached_later_stays_detached() -> None:
    actions, _ = policy.decide(SITE, DISKLESS, after(Verdict.DONE), 60.0)
    assert Kind.UP not in kinds(actions)


def test_a_leaving_node_is_not_brought_up() -> None:
    memory = replace(after(Verdict.FAILED), wish=Wish.LEAVE, wish_at=2.0)
    actions, _ = policy.decide(SITE, DISKLESS, memory, 60.0)
    assert Kind.UP not in kinds(actions)


@pytest.mark.parametrize("verdict", [Verdict.DONE, Verdict.FAILED])
def test_a_node_does_not_leave_before_the_event_of_what_came_up(verdict: Verdict) -> None:
    """Else DRBD would stay up, with nobody to care for it."""
    memory = wished(after(verdict), Wish.LEAVE, 1.05)
    absent = Observation(complete=True, kernel=None, lxd_active=False)
    actions, memory = policy.decide(SITE, absent, memory, 1.1)
    assert (actions, memory.left, memory.wake_at) == ((), False, 1.0 + EVENT_LAG_S)
    assert policy.decide(SITE, absent, memory, 1.0 + EVENT_LAG_S)[1].left, "nothing came up"
    assert Kind.DOWN in kinds(policy.decide(SITE, DISKLESS, memory, 1.15)[0])


def test_a_split_brain_is_what_a_standby_waits_for() -> None:
    """F12: whatever else it waits for, nothing of that comes before a person has chosen."""
    apart = Kernel("r0", connection=Connection.STANDALONE, volumes=(Volume(0, Disk.UP_TO_DATE),))
    seen = Observation(complete=True, kernel=apart, split_brain=True, lxd_active=False)
    actions, memory = policy.decide(SITE, seen, begin(0.0), 1.0)
    assert kinds(actions) == []
    assert memory.rule == "F12"
    assert "hapair recover-split-brain r0 --victim NODE" in memory.waiting
    connecting = replace(seen, kernel=replace(apart, connection=Connection.CONNECTING))
    assert policy.decide(SITE, connecting, begin(0.0), 1.0)[1].rule == "F10", "a person has chosen"


def test_what_preflight_refuses_is_not_promoted() -> None:
    """F11: a node that is up already, and would be the one to serve."""
    both = Volume(0, Disk.UP_TO_DATE, Disk.UP_TO_DATE, Replication.ESTABLISHED)
    together = Kernel("r0", connection=Connection.CONNECTED, peer_role=Role.SECONDARY, volumes=(both,))
    seen = Observation(complete=True, kernel=together, refused="F11 fencing: must be another", lxd_active=False)
    actions, memory = policy.decide(SITE, seen, begin(0.0), 60.0)
    actions, memory = policy.decide(SITE, seen, memory, 120.0)
    assert not {Kind.RECORD_PROMOTION, Kind.TAKE_SOLO, Kind.PROMOTE} & set(kinds(actions))
    actions, _ = policy.decide(SITE, replace(seen, refused=""), memory, 120.0)
    assert Kind.PROMOTE in kinds(actions)


@pytest.mark.parametrize(
    ("answer", "promotes"), [(None, False), (Verdict.UNAVAILABLE, True), (Verdict.FAILED, False), (Verdict.DONE, False)]
)
def test_beside_a_current_peer_only_a_store_that_is_away_lets_the_unjudged_serve(
    answer: Verdict | None, *, promotes: bool
) -> None:
    """F9: nobody has asked the store yet, it is away (F6), it has said no, the mark is about to go."""
    both = Volume(0, Disk.UP_TO_DATE, Disk.UP_TO_DATE, Replication.ESTABLISHED)
    together = Kernel("r0", connection=Connection.CONNECTED, peer_role=Role.SECONDARY, volumes=(both,))
    seen = Observation(complete=True, kernel=together, unjudged="F9: not yet", lxd_active=False)
    actions, memory = policy.decide(SITE, seen, begin(0.0), 60.0)
    (judge,) = (action for action in actions if action.kind is Kind.JUDGE)
    if answer is not None:
        memory = answered(memory, Outcome(judge, answer, 60.0), SITE, 60.0)
    busy = replace(seen, watch_busy=answer is None)
    actions, _ = policy.decide(SITE, busy, memory, 60.0 + rules.PREFERRED_WAIT_S)
    assert (Kind.PROMOTE in kinds(actions)) is promotes


def test_the_store_is_asked_about_a_replica_every_t_watch_but_not_while_it_leaves() -> None:
    seen = replace(DISKLESS, unjudged="F9: not yet")
    (judge,), memory = policy.decide(SITE, seen, begin(0.0), 60.0)
    assert judge.kind is Kind.JUDGE
    memory = answered(memory, Outcome(judge, Verdict.UNAVAILABLE, 60.0), SITE, 60.5)
    due = 60.5 + SITE.times.watch_s
    actions, memory = policy.decide(SITE, seen, memory, due - 0.1)
    assert kinds(actions) == []
    assert memory.wake_at == due
    assert kinds(policy.decide(SITE, seen, memory, due)[0]) == [Kind.JUDGE]
    leaving = replace(memory, wish=Wish.LEAVE, wish_at=61.0)
    assert Kind.JUDGE not in kinds(policy.decide(SITE, seen, leaving, due)[0])


@pytest.mark.parametrize(
    ("refused", "told"),
    [("", ""), (policy.LOOKING, ""), ("F11 fencing: must be another", "F11 fencing: must be another")],
)
def test_only_what_a_person_must_mend_refuses_a_wish_at_once(refused: str, told: str) -> None:
    """A look at the configuration ends by itself, within a second."""
    seen = replace(DISKLESS, refused=refused)
    assert policy.refusal(SITE, seen, begin(0.0), Wish.PRIMARY) == told
    assert policy.refusal(SITE, seen, begin(0.0), Wish.SECONDARY) == ""


def test_it_says_what_is_refused(n1: Host) -> None:
    lost = Kernel("r0", connection=Connection.CONNECTING, volumes=(Volume(0, Disk.CONSISTENT),))
    seen = Observation(complete=True, kernel=lost, refused="F11 fencing: must be another", lxd_active=False)
    _, memory = policy.decide(SITE, seen, begin(0.0), 60.0)
    assert (memory.rule, memory.waiting) == ("F11", "F11 fencing: must be another")
    shown = status.text({"resources": {"r0": status.resource_status(n1.config, seen, memory, 3.0)}})
    assert shown.count("F11") == shown.count("must be another") == 1, "the rule once, and the refusal once"
    assert memory.wake_at == 60.0 + RETRY_S
