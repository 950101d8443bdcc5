"""F9 in the world model: a node whose replica was put back from a snapshot is never a source of data."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import model_node
from .model_store import Broken
from .test_world import heal, serving_pair
from .world import World


def put_back(folder: Path, *, store_down: bool = False) -> World:
    """Serve together, after a copy of n2's replica was made; cut the power of both; n2 boots alone with the copy."""
    world = serving_pair(folder)
    standby = world.nodes["n2"]
    standby.power_off()
    world.settle(5)
    copy = standby.snapshot()
    standby.power_on()
    standby.start_agent()
    world.settle(30)
    world.write()
    assert standby.data == world.acknowledged
    for node in world.nodes.values():
        node.power_off()
    standby.put_back(copy)
    world.store.down = store_down
    standby.power_on()
    standby.start_agent()
    world.settle(30)
    return world


def test_a_replica_that_was_put_back_waits_for_a_person(tmp_path: Path) -> None:
    world = put_back(tmp_path)
    standby = world.nodes["n2"]
    assert world.store.record.state.value == "SHARED", "the lock alone would let it serve"
    assert not standby.drbd_up
    assert "tries again to bring DRBD up" in standby.memory.waiting
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(30)
    assert world.serving() == ["n1"]
    world.write()
    assert not standby.drbd_up
    standby.make_anew()
    heal(world)
    assert standby.data >= world.acknowledged


def test_one_that_was_attached_without_the_store_claims_nothing_later(tmp_path: Path) -> None:
    """The store comes back after the node: its lock is SHARED, and would let the old replica serve."""
    world = put_back(tmp_path, store_down=True)
    standby = world.nodes["n2"]
    assert standby.drbd_up
    assert "has not answered yet" in standby.memory.waiting
    world.store.down = False
    world.settle(60)
    assert world.serving() == []
    assert world.store.record.state.value == "SHARED"
    assert "is older than the one attached last" in standby.memory.waiting
    world.nodes["n1"].power_on()
    world.nodes["n1"].start_agent()
    world.settle(30)
    assert world.serving() == ["n1"]


def test_a_pair_that_starts_without_the_store_serves_and_is_judged_when_it_is_back(tmp_path: Path) -> None:
    world = serving_pair(tmp_path)
    for node in world.nodes.values():
        node.power_off()
    world.store.down = True
    for node in world.nodes.values():
        node.power_on()
        node.start_agent()
    world.settle(30)
    (active,) = world.serving()
    world.store.down = False
    world.settle(10)
    for node in world.nodes.values():
        assert not node.paths.unjudged("r0").exists()
    world.nodes[active].power_off()
    world.settle(30)
    assert len(world.serving()) == 1, "the other one takes over: it was judged"


def test_the_model_finds_a_replica_that_is_attached_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted fault: every replica goes on."""
    monkeypatch.setattr(model_node, "successor", lambda replica, stored: max(replica[0].number, stored) + 1)
    with pytest.raises(Broken, match="without acknowledged writes"):
        put_back(tmp_path)
