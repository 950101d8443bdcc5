"""Scenario 17."""

from contextlib import ExitStack

import pytest

from lab.scenario import split_brain
from lab.scenario.scene import Scene


@pytest.mark.scenario(17)
@pytest.mark.spoils  # an override is no step of a lock that only nodes change (I3)
def test_override(scene: Scene) -> None:
    """The owner of the lock dies, and a person gives it to the standby: the owner, back and alone, refuses."""
    active, standby = scene.roles()
    scene.expect(recovery_s=40, failovers=1)
    scene.wait_acks(20)
    # The lock is the active node's although both hold everything, so the override loses nothing.
    split_brain.stop_agent(scene, active)
    split_brain.take_lock(scene, active)

    with ExitStack() as apart:
        with scene.faults.power_loss(active, leaves=active):
            split_brain.wait_refused(scene, standby, owner=active)
            split_brain.steal(scene, standby, owner=active)
            scene.wait_ack_of(standby)
            apart.enter_context(scene.faults.cut("crossover", (active,)))
        scene.wait_boot_of(active)
        split_brain.wait_refused(scene, active, owner=standby)
        scene.wait_acks(20)

    scene.wait_healed()
    scene.wait_acks(10)
