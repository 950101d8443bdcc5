"""The lock in the world model: who watches it while something hangs, and how a hand-over ends that nobody saw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hapair.actions import Action, Kind, Outcome, Verdict
from hapair.fencing import no_guard
from hapair.lock import LockRecord, LockState, after, first
from hapair.memory import Memory, Seen, Wish, answered, begin
from hapair.override import wait_s
from hapair.states import Settings

from .model_node import Lane, Node
from .model_store import MemoryStore
from .test_world import serving_pair
from .world import TIMES, World

pytestmark = pytest.mark.thorough


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A pair that serves on n1, connected, lock SHARED, some writes acknowledged."""
    return serving_pair(tmp_path)


class Hung(Lane):
    """A lane whose action does not end."""

    @property
    def busy(self) -> bool:
        return True


def test_a_solo_owner_whose_drbd_hangs_sees_the_override_all_the_same(world: World) -> None:
    """F8: a command of DRBD may hang for longer than the override waits; the lock is watched beside it."""
    world.link = False
    world.settle(12)
    owner, thief = world.nodes["n1"], world.nodes["n2"]
    owner.control = Hung()
    stealing = thief.fence.begin_override(world.store.record.epoch, "uuid-n1", no_guard, "test").record
    assert stealing is not None
    world.settle(wait_s(TIMES))
    assert owner.removed == 1
    assert world.serving() == []


def away(node: Node) -> None:
    """Let a node not reach the store any more."""
    node.fence._backend = MemoryStore()
    node.fence._backend.down = True


def test_a_hand_over_that_its_owner_did_not_see_ends_when_the_leaver_is_back(world: World) -> None:
    """F7: the owner alone is cut off from the store while the standby is rebooted in good order."""
    owner, leaver = world.nodes["n1"], world.nodes["n2"]
    world.link = False
    world.settle(12)
    assert world.store.record.owner == "uuid-n1"
    away(owner)
    world.link = True
    world.settle(5)
    leaver.wish(Wish.LEAVE)
    world.settle(10)
    assert not leaver.drbd_up
    assert world.store.record.writer == "uuid-n2"
    leaver.power_off()
    leaver.power_on()
    leaver.start_agent()
    world.settle(10)
    owner.fence._backend = world.store
    world.settle(10)
    assert world.store.record.state.value == "SHARED"
    owner.power_off()
    world.settle(20)
    assert world.serving() == ["n2"]


def test_an_agent_that_died_after_its_hand_over_stays_and_says_so(world: World) -> None:
    """F7: then the lock is given back by an owner that looks; and a departure after that hands it over again."""
    owner, leaver = world.nodes["n1"], world.nodes["n2"]
    leaver.wish(Wish.LEAVE)
    while not leaver.memory.handed_over:
        world.step()
        world.pass_time(0.25)
    leaver.start_agent()
    world.settle(10)
    assert world.store.record.stays
    owner.start_agent()
    world.settle(10)
    assert world.store.record.state.value == "SHARED"
    leaver.wish(Wish.LEAVE)
    world.settle(10)
    assert not leaver.drbd_up
    assert world.store.record.owner == "uuid-n1"
    world.write()
    assert owner.data >= world.acknowledged


@pytest.mark.parametrize("kind", [Kind.WATCH_LOCK, Kind.JUDGE])
@pytest.mark.parametrize("verdict", [Verdict.DONE, Verdict.UNAVAILABLE, Verdict.FAILED])
def test_what_goes_on_beside_the_rest_puts_nothing_off_and_clears_no_trouble(kind: Kind, verdict: Verdict) -> None:
    site = Settings("r0", "uuid-n1", "uuid-n2", "n2", True, TIMES)
    memory = replace(begin(0.0), trouble="drbdadm primary failed", retry_at=3.0)
    made = answered(memory, Outcome(Action(kind, "F8", "", 1.0), verdict, 1.0, "away"), site, 2.0)
    assert (made.trouble, made.retry_at) == ("drbdadm primary failed", 3.0)


def test_an_answer_that_a_later_version_overtook_is_no_news() -> None:
    """Two questions may be under way: an old SHARED, told late, must not hide that the lock is the peer's."""
    site = Settings("r0", "uuid-n1", "uuid-n2", "n2", True, TIMES)
    shared = first("r0", me="uuid-n1", attempt_id="a", time=1.0, epoch=4)
    stolen = after(shared, LockState.SOLO, owner="uuid-n2", writer="uuid-n2", attempt_id="b", time=2.0)

    def told(memory: Memory, kind: Kind, began: float, record: LockRecord | None) -> LockRecord | None:
        verdict = Verdict.UNAVAILABLE if record is None else Verdict.DONE
        made = answered(memory, Outcome(Action(kind, "F8", "", 1.0), verdict, began, "", record), site, 10.0)
        assert made.lock is not None
        return made.lock.record

    known = replace(begin(0.0), lock=Seen(5.0, stolen))
    assert told(known, Kind.READ_LOCK, 4.0, shared) == stolen
    assert told(known, Kind.WATCH_LOCK, 6.0, stolen) == stolen
    assert told(known, Kind.READ_LOCK, 6.0, None) is None, "unknown is an answer"
