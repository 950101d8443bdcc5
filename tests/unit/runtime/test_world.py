"""The policy and the lock against the world model: named interleavings, then thousands of random ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapair.actions import Kind
from hapair.fencing import Held, no_guard
from hapair.guards import Guards
from hapair.memory import Wish
from hapair.override import wait_s
from hapair.states import Disk, Role

from .model_store import Broken
from .world import TIMES, World

pytestmark = pytest.mark.thorough


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A pair that serves on n1, connected, lock SHARED, some writes acknowledged."""
    return serving_pair(tmp_path)


def serving_pair(folder: Path) -> World:
    world = World(folder)
    for node in world.nodes.values():
        node.start_agent()
    world.settle(10)
    assert world.serving() == ["n1"]
    for _ in range(3):
        world.write()
    assert world.acknowledged
    return world


def test_serves_on_the_preferred_node(world: World) -> None:
    assert world.nodes["n1"].data == world.nodes["n2"].data == world.acknowledged


def test_power_loss_of_the_active_node(world: World) -> None:
    world.nodes["n1"].power_off()
    world.settle(12)
    assert world.serving() == ["n2"]
    assert world.store.record.owner == "uuid-n2"
    world.write()
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(20)
    assert world.serving() == ["n2"]
    assert world.store.record.state.value == "SHARED"
    assert world.nodes["n1"].data >= world.acknowledged


def test_cut_with_store_up_has_one_winner(world: World) -> None:
    world.link = False
    world.settle(20)
    world.write()
    assert world.serving() == ["n1"]
    assert world.nodes["n1"].removed == 0


def test_cut_and_store_down_acknowledges_nothing_and_removes_the_primary(world: World) -> None:
    before = set(world.acknowledged)
    world.link, world.store.down = False, True
    for _ in range(60):
        world.settle(0.5)
        world.write()
    assert world.acknowledged == before
    assert world.nodes["n1"].removed == 1
    assert world.serving() == []


def test_planned_switchovers_back_and_forth(world: World) -> None:
    for active, other in (("n1", "n2"), ("n2", "n1"), ("n1", "n2")):
        assert world.serving() == [active]
        world.nodes[active].wish(Wish.SECONDARY)
        world.settle(5)
        assert world.serving() == [other]
        world.write()
    assert world.store.record.state.value == "SHARED"


def test_reboot_of_the_active_node_hands_the_lock_over(world: World) -> None:
    world.nodes["n1"].wish(Wish.LEAVE)
    world.settle(8)
    assert world.nodes["n1"].memory.left
    assert world.serving() == ["n2"]
    world.write()
    world.nodes["n1"].power_off()
    world.nodes["n2"].power_off()
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(30)
    assert world.serving() == [], "n1 is stale: it waits for n2"
    assert "only n2 has every acknowledged write" in world.nodes["n1"].memory.waiting or "Outdated" in (
        world.nodes["n1"].memory.waiting
    )
    world.nodes["n2"].power_on()
    world.nodes["n2"].start_agent()
    world.settle(30)
    assert world.serving() != []
    assert world.nodes["n1"].data >= world.acknowledged


def test_standby_leaves_while_the_store_is_down(world: World) -> None:
    before = set(world.acknowledged)
    world.store.down = True
    world.nodes["n2"].wish(Wish.LEAVE)
    for _ in range(40):
        world.settle(0.5)
        if not world.nodes["n2"].drbd_up or world.nodes["n1"].removed:
            break
        before = set(world.acknowledged)
    world.write()
    assert world.acknowledged == before, "the departure under SHARED must not let n1 acknowledge alone"


def test_a_peer_that_begins_to_serve_after_the_leavers_last_look(world: World) -> None:
    """F3: the way down is decided while nobody serves; the peer promotes before it is gone."""
    leaver, peer = world.nodes["n1"], world.nodes["n2"]
    peer.agent_up = False
    leaver.wish(Wish.LEAVE)
    while not leaver.control.actions or leaver.control.actions[-1].kind is not Kind.DOWN:
        world.settle(0.25)
        leaver.decide()
    assert peer.role is Role.SECONDARY
    peer._promote()
    peer.mounted = True
    while leaver.control.actions:
        leaver.act(leaver.control)
    world.notice()
    world.write()
    assert not leaver.drbd_up
    assert "fencing" in peer.suspended, "its handler runs"


def test_a_reconnection_voids_a_hand_over(world: World) -> None:
    """F3: the peer may have written and released the lock in between; the departure hands over again."""
    owner, leaver = world.nodes["n1"], world.nodes["n2"]
    leaver.wish(Wish.LEAVE)
    while not leaver.memory.handed_over:
        world.step()
        world.pass_time(0.25)
    for link in (False, True):
        world.link = link
        for _ in range(20):
            world.notice()
            owner.handler_runs()
            world.finish_resync()
            world.handshake()
            owner.decide()
            owner.act(owner.control)
            leaver.decide()
            leaver.control.actions.clear()
            world.pass_time(0.25)
    assert world.store.record.state.value == "SHARED"
    while leaver.drbd_up:
        leaver.act(leaver.control)
        leaver.decide()
        world.pass_time(0.25)
    world.notice()
    world.write()
    assert "fencing" in owner.suspended, "the time to hand over has passed, so its handler runs"


def test_a_solo_owner_whose_lock_is_stolen_removes_itself_before_the_thief_may_serve(world: World) -> None:
    """F8: the owner reads the lock every T_watch; the override waits longer than that."""
    world.link = False
    world.settle(12)
    assert world.serving() == ["n1"]
    owner, thief = world.nodes["n1"], world.nodes["n2"]
    stealing = thief.fence.begin_override(world.store.record.epoch, "uuid-n1", no_guard, "test").record
    assert stealing is not None
    world.settle(wait_s(TIMES))
    assert owner.removed == 1
    assert world.serving() == []
    assert thief.fence.end_override(stealing, no_guard, "test").held is Held.HELD
    thief.disk, thief.outdated = Disk.UP_TO_DATE, False
    owner.start_agent()
    world.settle(20)
    world.write()
    assert world.serving() == ["n2"], "and the old owner, back again, does not serve"


def test_a_solo_owner_that_is_cut_off_from_the_store_too_serves_on(world: World) -> None:
    """The stated exception to I2: such an owner cannot see that it was overridden."""
    world.link = False
    world.settle(12)
    world.store.down = True
    world.settle(wait_s(TIMES))
    assert world.nodes["n1"].removed == 0
    assert world.serving() == ["n1"]


def test_the_standbys_disk_fails_both_crash_and_it_revives_alone(world: World) -> None:
    """F4, scenario 18: the disk is back with old data, and looks Consistent."""
    world.nodes["n2"].disk_fails()
    world.settle(1)
    world.write()
    assert world.serving() == ["n1"]
    assert world.store.record.state.value == "SOLO"
    for node in world.nodes.values():
        node.power_off()
    world.nodes["n2"].power_on()
    world.nodes["n2"].start_agent()
    world.settle(30)
    assert world.serving() == []
    assert world.nodes["n2"].disk is Disk.CONSISTENT
    assert "this disk failed once" in world.nodes["n2"].memory.waiting


def test_the_disk_fails_and_both_crash_before_the_primary_took_the_lock(world: World) -> None:
    """F4: the window of one round trip; the lock is SHARED still, only the tombstone keeps the old data back."""
    world.nodes["n2"].disk_fails()
    for node in world.nodes.values():
        node.power_off()
    assert world.store.record.state.value == "SHARED"
    world.nodes["n2"].power_on()
    world.nodes["n2"].start_agent()
    world.settle(30)
    assert world.serving() == []


def test_the_primarys_disk_fails_while_connected(world: World) -> None:
    """F4: the lock goes to the peer before the peer is told; this node steps down, and never claims again."""
    world.nodes["n1"].disk_fails()
    assert world.store.record.owner == "uuid-n2"
    world.write()
    world.settle(8)
    assert world.serving() == ["n2"]
    assert world.nodes["n1"].removed == 0
    world.write()
    for node in world.nodes.values():
        node.power_off()
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(30)
    assert world.serving() == []


@pytest.mark.parametrize("store_down", [False, True])
def test_the_disk_of_a_lone_primary_fails(world: World, store_down: bool) -> None:
    """F4: nobody else has the data, so the lock stays; the node is removed, and the stale peer does not serve."""
    world.nodes["n2"].power_off()
    world.settle(5)
    world.write()
    world.store.down = store_down
    world.nodes["n1"].disk_fails()
    assert world.nodes["n1"].removed == 1
    world.nodes["n2"].power_on()
    world.store.down = False
    world.nodes["n2"].start_agent()
    world.link = False
    world.settle(30)
    assert world.serving() == []
    assert world.store.record.owner == "uuid-n1"


def test_the_primarys_disk_fails_and_the_store_is_away(world: World) -> None:
    """F4: the lock could not be handed over, so the node goes; the peer takes over after T_grace."""
    world.store.down = True
    world.nodes["n1"].disk_fails()
    assert world.nodes["n1"].removed == 1
    world.store.down = False
    world.settle(15)
    assert world.serving() == ["n2"]


def test_a_diskless_primary_that_loses_its_peer_removes_itself(world: World) -> None:
    """F5: no handler is called for it; what it serves is garbage."""
    world.nodes["n1"].disk_fails()
    world.link = False
    world.settle(3)
    assert world.nodes["n1"].removed == 1


def test_solo_owner_crashes_and_returns_alone(world: World) -> None:
    world.nodes["n2"].power_off()
    world.settle(5)
    world.write()
    world.nodes["n1"].power_off()
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(12)
    assert world.serving() == ["n1"]


def test_stale_node_boots_alone_and_says_why(world: World) -> None:
    world.nodes["n2"].power_off()
    world.settle(5)
    world.write()
    world.nodes["n1"].power_off()
    world.nodes["n2"].power_on()
    world.nodes["n2"].start_agent()
    world.settle(30)
    assert world.serving() == []
    assert "n1" in world.nodes["n2"].memory.waiting


def test_both_boot_without_a_link_and_shared(world: World) -> None:
    for node in world.nodes.values():
        node.power_off()
    world.link = False
    for node in world.nodes.values():
        node.power_on()
        node.start_agent()
    world.settle(20)
    assert len(world.serving()) == 1


@pytest.mark.parametrize("fault", ["lose_reply", "late"])
def test_lost_reply_on_fence_and_on_release(world: World, fault: str) -> None:
    setattr(world.store, fault, True)
    world.link = False
    world.settle(10)
    world.store.land()
    world.link = True
    setattr(world.store, fault, True)
    world.settle(10)
    world.store.land()
    world.settle(10)
    assert len(world.serving()) == 1
    assert world.store.record.state.value == "SHARED"


def test_a_late_release_lands_after_a_new_fence(world: World) -> None:
    world.link = False
    world.settle(5)
    world.link = True
    world.store.late = True
    while not world.store.pending:
        world.settle(0.25)
    world.link = False
    world.settle(5)
    world.store.land()
    world.write()
    assert world.store.record.owner == "uuid-n1"
    assert world.store.record.state.value == "SOLO"


@pytest.mark.parametrize("crash_after", range(14))
def test_agent_killed_after_every_action_of_a_failover(world: World, crash_after: int) -> None:
    """Every interrupted prefix: lock, promote, start …; the restarted agent converges."""
    world.nodes["n1"].power_off()
    survivor, done = world.nodes["n2"], 0
    for _ in range(200):
        world.notice()
        world.handshake()
        survivor.decide()
        for lane in (survivor.control, survivor.services):
            if lane.actions and done < crash_after:
                survivor.act(lane)
                done += 1
        world.pass_time(0.25)
        if done >= crash_after:
            break
    survivor.start_agent()
    world.settle(20)
    assert world.serving() == ["n2"]


@pytest.mark.parametrize("crash_after", range(10))
def test_agent_killed_after_every_action_of_a_switchover(world: World, crash_after: int) -> None:
    old, done = world.nodes["n1"], 0
    old.wish(Wish.SECONDARY)
    for _ in range(60):
        old.decide()
        for lane in (old.control, old.services):
            if lane.actions and done < crash_after:
                old.act(lane)
                done += 1
        if done >= crash_after:
            break
        world.nodes["n2"].decide()
        world.pass_time(0.25)
    old.start_agent()
    world.settle(20)
    assert len(world.serving()) == 1
    assert world.store.record.state.value == "SHARED"


def test_a_queued_release_meets_a_cut_and_is_not_written(world: World) -> None:
    """F7: the conditions are looked at again under the local lock, right before the write."""
    primary = world.nodes["n1"]
    world.link = False
    world.settle(3)
    world.link = True
    while not any(action.kind is Kind.RELEASE for action in primary.control.actions):
        world.notice()
        world.handshake()
        world.finish_resync()
        primary.decide()
        world.pass_time(0.25)
    world.link = False
    world.notice()
    primary.handler_runs()
    primary.act(primary.control)
    world.write()
    assert world.store.record.state.value == "SOLO"


def test_without_the_guard_that_release_breaks_an_invariant(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_objection(_: Guards) -> str:
        return ""

    monkeypatch.setattr(Guards, "release", no_objection)
    with pytest.raises(Broken):
        test_a_queued_release_meets_a_cut_and_is_not_written(world)


def heal(world: World) -> None:
    """Repair everything; the pair must serve again with every acknowledged write, and the lock SHARED."""
    world.link, world.store.down = True, False
    world.store.lose_reply = world.store.late = False
    while world.store.pending:
        world.store.land()
    for node in world.nodes.values():
        if not node.up:
            node.power_on()
        if not node.agent_up or node.memory.left or node.memory.wish is Wish.LEAVE:
            node.start_agent()
    world.settle(60)
    for node in world.nodes.values():
        node.wish(Wish.PRIMARY)
    world.settle(60)
    assert len(world.serving()) == 1, f"{[n.memory.waiting for n in world.nodes.values()]}"
    assert world.store.record.state.value == "SHARED"
    for node in world.nodes.values():
        assert node.data >= world.acknowledged
