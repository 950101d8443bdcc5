"""Power loss is power loss: what was not flushed is gone."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario()
def test_power_loss_both(scene: Scene) -> None:
    """Both nodes lose power at once under acknowledged writes: they serve again by themselves, and nothing is lost."""
    active, standby = scene.roles()
    scene.expect(recovery_s=40, failovers=None)
    scene.wait_acks(50)

    with scene.faults.power_loss(active), scene.faults.power_loss(standby):
        pass

    scene.wait_acks(30)
    scene.wait_healed()
