"""Scenario 45."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(45)
def test_reboot_active(scene: Scene) -> None:
    """The active node is rebooted in good order under acknowledged writes: it hands over, and comes back in step."""
    active, standby = scene.roles()
    scene.expect(recovery_s=25, failovers=1, gap_s=25)
    scene.wait_acks(30)

    scene.faults.reboot(active, leaves=active)
    scene.wait_ack_of(standby)
    scene.wait_boot_of(active)

    scene.wait_healed()
    scene.wait_acks(10)
