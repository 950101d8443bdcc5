"""Scenario 9."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(9)
def test_owner_returns_alone(scene: Scene) -> None:
    """The owner of the lock crashes while it serves alone, and returns alone: it serves, without a person."""
    active, standby = scene.roles()
    scene.expect(recovery_s=40, failovers=0)
    scene.wait_acks(10)

    with scene.faults.power_loss(standby):
        scene.wait_acks(20)
        with scene.faults.power_loss(active):
            pass
        scene.wait_ack_of(active)
        scene.wait_acks(20)

    scene.wait_healed()
    scene.wait_acks(10)
