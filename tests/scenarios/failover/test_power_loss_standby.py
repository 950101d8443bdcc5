"""Scenario 24."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(24)
def test_power_loss_standby(scene: Scene) -> None:
    """The standby loses power under acknowledged writes: a short stall, no failover, and it is in step again later."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, fences=(active,))
    scene.wait_acks(30)

    with scene.faults.power_loss(standby):
        scene.wait_acks(50)

    scene.wait_healed()
    scene.wait_acks(10)
