"""Fencing with a fault planted in the system under test: exactly the invariants that guard it turn red."""

from __future__ import annotations

import pytest

from lab.scenario.history import Event
from lab.scenario.locks import exchanges
from lab.scenario.place import Place
from lab.scenario.scene import Scene
from tests.scenarios.fencing import defects, plants


@pytest.mark.planted("I4", "I7")
def test_planted_lying_handler(scene: Scene) -> None:
    """Scenario 9 up to the crash, and the handler lies: writes are acknowledged alone, without the lock."""
    active, standby = scene.roles()
    scene.expect(recovery_s=20, failovers=0)
    with plants.lying_handler(scene, active), scene.faults.power_loss(standby):
        scene.wait_acks(20)


@pytest.mark.planted("I4", "I7")
def test_planted_store_that_forgets(scene: Scene) -> None:
    """Scenario 11, and the store says yes without writing, and is believed: the node goes on without the lock."""
    active, standby = scene.roles()
    scene.programs.change(active, defects.BELIEVES_A_YES)
    scene.expect(recovery_s=20, failovers=0, may_fail=(active,))
    mark = scene.history.mark()
    with scene.store.forgets_writes(active), scene.faults.power_loss(standby):
        scene.wait_event("the store has denied it", lambda e: _told_shared(e, scene.place), since=mark)
        scene.wait_acks(20)


@pytest.mark.planted("I3", "I4", "I7")
def test_planted_store_without_conditions(scene: Scene) -> None:
    """Scenario 49, and the store ignores conditions: the delayed release lands over the new fence."""
    active, _ = scene.roles()
    scene.expect(recovery_s=20, failovers=0, may_fail=(active,))
    with scene.store.holds_release(active, unconditional=True):
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
        scene.store.wait_hit("holds_release")
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
            scene.wait_acks(5)
            with scene.programs.agent_hangs(active):
                scene.store.heal()
                scene.wait_acks(20)
            mark = scene.history.mark()
            scene.wait_event(f"{active} reads that", lambda e: _told_shared(e, scene.place), since=mark)
            scene.wait_acks(10)


@pytest.mark.planted("I4", "I7", "I12")
def test_planted_careless_release(scene: Scene) -> None:
    """Scenario 2, and the lock is given back although the peer is away."""
    active, standby = scene.roles()
    scene.expect(recovery_s=20, failovers=0)
    mark = scene.history.mark()
    with scene.faults.power_loss(standby):
        scene.wait_solo(active, since=mark)
        scene.wait_acks(5)
        with scene.programs.agent_hangs(active):
            plants.careless_release(scene, active)
            scene.wait_acks(20)


@pytest.mark.planted("I5")
def test_planted_no_removal(scene: Scene) -> None:
    """Scenario 16, and the frozen node's removal of itself does nothing: it goes on to answer reads."""
    active, standby = scene.roles()
    scene.expect(recovery_s=30, failovers=1, may_fail=(active,))
    plants.no_removal(scene, active)
    with scene.store.unreachable(active), scene.faults.cut("crossover", leaves=active):
        try:
            scene.wait_ack_of(standby)
        finally:
            with scene.faults.power_loss(active):
                pass


@pytest.mark.planted("I6")
def test_planted_hanging(scene: Scene) -> None:
    """Scenario 12, and the agent hangs like the handler: the node stays frozen for too long."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, may_fail=(active,))
    with plants.hanging(scene, active), scene.faults.power_loss(standby):
        scene.wait_acks(5)


def _told_shared(event: Event, place: Place) -> bool:
    """True when a node of the pair was told that the lock is SHARED."""
    found = exchanges([event])
    return (
        bool(found)
        and found[0].client in place.clients
        and found[0].told is not None
        and found[0].told.state == "SHARED"
    )
