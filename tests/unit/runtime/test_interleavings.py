"""The interleavings that the protocol was thought through with, one by one (see also test_world)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapair.actions import Kind
from hapair.memory import Wish
from hapair.states import Connection, Disk, Role

from .test_world import serving_pair
from .world import World

pytestmark = pytest.mark.thorough


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A pair that serves on n1, connected, lock SHARED, some writes acknowledged."""
    return serving_pair(tmp_path)


def boot(world: World, *names: str) -> None:
    for name in names:
        world.nodes[name].power_on()
        world.nodes[name].start_agent()


def solo(world: World) -> None:
    """n2 loses power and n1 writes on, alone."""
    world.nodes["n2"].power_off()
    world.settle(5)
    world.write()
    assert (world.store.record.state.value, world.store.record.owner) == ("SOLO", "uuid-n1")


def resyncing(world: World) -> None:
    """n2 is back and is being synchronised; it stays so, since nobody lets the resync end."""
    solo(world)
    boot(world, "n2")
    while world.nodes["n2"].disk is not Disk.INCONSISTENT:
        world.step()
        world.pass_time(0.25)


def run(world: World, seconds: float) -> None:
    """Let things run, but no resync end."""
    for _ in range(int(seconds / 0.25)):
        world.notice()
        for node in world.nodes.values():
            node.handler_runs()
        world.step()
        world.pass_time(0.25)


def test_the_owner_crashes_inside_the_compare_and_set(world: World) -> None:
    """The write is under way when its sender dies; whether it lands decides, never both."""
    world.store.late = True
    world.link = False
    world.notice()
    world.nodes["n1"].handler_runs()
    world.nodes["n1"].power_off()
    world.store.land()
    world.settle(20)
    assert world.store.record.owner == "uuid-n1"
    assert world.serving() == [], "n1 may have acknowledged under it, as far as n2 knows"
    boot(world, "n1")
    world.settle(20)
    assert world.serving() == ["n1"]


def test_the_write_of_a_crashed_node_lands_after_the_peers(world: World) -> None:
    world.store.late = True
    world.link = False
    world.notice()
    world.nodes["n1"].handler_runs()
    world.nodes["n1"].power_off()
    world.settle(20)
    assert world.serving() == ["n2"]
    world.store.land()
    assert world.store.record.owner == "uuid-n2", "its condition does not hold any more"


def test_the_link_is_back_while_the_handler_runs(world: World) -> None:
    """The kernel ignores the handler's answer; the lock is SOLO all the same, and given back by the reconciler."""
    world.link = False
    world.notice()
    world.link = True
    world.handshake()
    world.nodes["n1"].handler_runs()
    world.settle(5)
    world.write()
    assert world.serving() == ["n1"]
    assert world.store.record.state.value == "SHARED"


def test_the_source_dies_while_the_other_is_inconsistent(world: World) -> None:
    resyncing(world)
    world.nodes["n1"].power_off()
    run(world, 30)
    assert world.serving() == []
    assert world.nodes["n2"].role is Role.SECONDARY
    assert "not good enough" in world.nodes["n2"].memory.waiting
    boot(world, "n1")
    world.settle(30)
    assert world.serving() == ["n1"]


def test_the_link_is_cut_while_the_other_is_a_sync_target(world: World) -> None:
    resyncing(world)
    world.link = False
    run(world, 30)
    assert world.serving() == ["n1"]
    assert world.nodes["n2"].role is Role.SECONDARY


def test_the_sources_disk_dies_in_the_resync(world: World) -> None:
    """Nobody else has the data: n1 keeps the lock and goes; the half-made copy does not serve."""
    resyncing(world)
    world.nodes["n1"].disk_fails()
    assert world.nodes["n1"].removed == 1
    run(world, 30)
    assert world.serving() == []
    assert world.store.record.owner == "uuid-n1"


def test_detached_by_hand_both_crash_and_that_one_boots_alone(world: World) -> None:
    """Scenario 48: nobody wrote a tombstone, so the lock alone must tell."""
    world.nodes["n2"].disk = Disk.DISKLESS
    world.nodes["n1"].peer_disk = Disk.DISKLESS
    world.nodes["n1"]._new_generation()
    world.settle(3)
    world.write()
    for node in world.nodes.values():
        node.power_off()
    boot(world, "n2")
    world.settle(30)
    assert world.serving() == []
    assert "only n1 has every acknowledged write" in world.nodes["n2"].memory.waiting


def test_the_standby_leaves_the_active_dies_and_the_standby_boots_first(world: World) -> None:
    """Scenario 47."""
    world.nodes["n2"].wish(Wish.LEAVE)
    world.settle(8)
    assert world.nodes["n2"].memory.left
    world.write()
    world.nodes["n1"].power_off()
    world.nodes["n2"].power_off()
    boot(world, "n2")
    world.settle(30)
    assert world.serving() == []
    boot(world, "n1")
    world.settle(30)
    assert len(world.serving()) == 1
    assert world.nodes["n2"].data >= world.acknowledged


def test_a_release_races_the_loss_of_the_peers_disk(world: World) -> None:
    """F7: the release was decided while both were UpToDate; right before the write they are not."""
    solo(world)
    boot(world, "n2")
    owner = world.nodes["n1"]
    while not any(action.kind is Kind.RELEASE for action in owner.control.actions):
        world.handshake()
        world.finish_resync()
        for node in world.nodes.values():
            node.decide()
        world.nodes["n2"].act(world.nodes["n2"].control)
        world.pass_time(0.25)
    world.nodes["n2"].disk_fails()
    owner.act(owner.control)
    world.write()
    assert (world.store.record.state.value, world.store.record.owner) == ("SOLO", "uuid-n1")


@pytest.mark.parametrize("link", [False, True])
def test_both_boot_and_one_owns_the_lock(world: World, *, link: bool) -> None:
    solo(world)
    world.nodes["n1"].power_off()
    world.link = link
    boot(world, "n2", "n1")
    world.settle(30)
    assert world.serving() == ["n1"]


def test_the_store_is_put_back_from_a_backup_while_one_serves_alone(world: World) -> None:
    """F9: what is confirmed goes on; a promotion on the old word does not."""
    backup = world.store.body
    solo(world)
    world.store.body = backup
    world.settle(10)
    world.nodes["n1"].power_off()
    boot(world, "n1")
    world.settle(20)
    assert world.serving() == []
    assert "went back" in world.nodes["n1"].memory.waiting


def test_the_active_node_is_paused_and_thaws(world: World) -> None:
    """Its kernel believes itself Primary and connected; nothing it does may be acknowledged, and it goes."""
    paused = world.nodes["n1"]
    paused.agent_up = False
    world.link = False
    world.nodes["n2"].lose_connection()
    for _ in range(120):
        world.nodes["n2"].decide()
        world.nodes["n2"].act(world.nodes["n2"].control)
        world.nodes["n2"].act(world.nodes["n2"].services)
        world.pass_time(0.25)
    assert world.nodes["n2"].role is Role.PRIMARY
    assert paused.connection is Connection.CONNECTED
    before = set(world.acknowledged)
    paused.write(next(world.numbers))
    assert world.acknowledged == before
    paused.agent_up = True
    world.settle(3)
    assert paused.removed == 1
    paused.start_agent()
    world.link = True
    world.settle(30)
    assert world.serving() == ["n2"]


def test_the_agent_hangs_and_the_handler_goes_by_itself(world: World) -> None:
    world.nodes["n1"].agent_up = False
    world.link = False
    world.settle(3)
    world.write()
    assert world.serving() == ["n1"]
    assert world.store.record.owner == "uuid-n1"


def test_a_frozen_primary_meets_the_new_one(world: World) -> None:
    """A zombie: cut off from everything it froze, its agent hung; the link comes back when the peer serves."""
    zombie = world.nodes["n1"]
    zombie.agent_up = False
    world.store.down = True
    world.link = False
    world.notice()
    zombie.handler_runs()
    assert zombie.helper is not None
    assert zombie.helper.failed
    world.store.down = False
    world.settle(15)
    assert world.nodes["n2"].role is Role.PRIMARY
    world.link = True
    world.settle(2)
    world.write()
    assert "fencing" in zombie.suspended
    zombie.start_agent()
    world.settle(5)
    assert zombie.removed == 1
    zombie.start_agent()
    world.settle(30)
    assert world.serving() == ["n2"]


def interrupted(world: World, name: str, crash_after: int) -> None:
    """Let things run until a node has carried out so many actions; then its agent is killed and starts anew."""
    node, done = world.nodes[name], 0
    other = node.peer
    for _ in range(120):
        world.notice()
        world.handshake()
        other.handler_runs()
        node.decide()
        for lane in (node.control, node.services):
            if lane.actions and done < crash_after:
                node.act(lane)
                done += 1
        if done >= crash_after:
            break
        other.decide()
        if other.agent_up:
            other.act(other.control)
            other.act(other.services)
        world.pass_time(0.25)
    world.say(f"the agent of {name} is killed after {done} actions")
    node.start_agent()


@pytest.mark.parametrize("name", ["n1", "n2"])
@pytest.mark.parametrize("store_down", [False, True])
@pytest.mark.parametrize("crash_after", range(8))
def test_agent_killed_after_every_action_of_a_departure(
    world: World, name: str, crash_after: int, *, store_down: bool
) -> None:
    """Every interrupted prefix of what a departure does, of the serving node and of the standby."""
    world.store.down = store_down
    world.nodes[name].wish(Wish.LEAVE)
    interrupted(world, name, crash_after)
    world.write()
    world.store.down = False
    for node in world.nodes.values():
        if not node.agent_up:
            node.start_agent()
    world.settle(40)
    world.write()
    for node in world.nodes.values():
        if node.memory.left or not node.agent_up:
            node.start_agent()
    world.settle(40)
    assert len(world.serving()) == 1
    if world.store.record.state.value != "SHARED":
        # Killed right after the hand-over: nobody knows that the departure was called off, so the lock stays with the
        # peer until it has been away and is back (F7).
        assert world.store.record.writer != world.store.record.owner
        world.link = False
        world.settle(10)
        world.link = True
        world.settle(20)
    assert world.store.record.state.value == "SHARED"
    for node in world.nodes.values():
        assert node.data >= world.acknowledged


@pytest.mark.parametrize("crash_after", range(8))
def test_agent_killed_after_every_action_of_a_disk_failure(world: World, crash_after: int) -> None:
    """F4: hand-over, stop, demotion; the failed replica never serves again, and the other one does."""
    world.nodes["n1"].disk_fails()
    world.write()
    interrupted(world, "n1", crash_after)
    world.settle(20)
    world.write()
    assert world.serving() == ["n2"]
    assert world.nodes["n2"].data >= world.acknowledged


@pytest.mark.parametrize("crash_after", range(6))
def test_agent_killed_after_every_action_of_a_return(world: World, crash_after: int) -> None:
    """The owner's agent dies while the peer comes back and the lock is released."""
    solo(world)
    boot(world, "n2")
    interrupted(world, "n1", crash_after)
    world.write()
    world.settle(30)
    world.write()
    assert world.serving() == ["n1"]
    assert world.store.record.state.value == "SHARED"
    assert world.nodes["n2"].data >= world.acknowledged
