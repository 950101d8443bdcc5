"""Scenario 1."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(1)
def test_power_loss_active(scene: Scene) -> None:
    """The active node loses power under acknowledged writes: the other one serves, and nothing is lost."""
    active, standby = scene.roles()
    scene.expect(recovery_s=25, failovers=1, fences=(standby,))
    scene.wait_acks(30)

    with scene.faults.power_loss(active, leaves=active):
        scene.wait_ack_of(standby)
        scene.wait_acks(30)

    scene.wait_healed()
    scene.wait_acks(10)
