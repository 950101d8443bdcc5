"""Scenario 20."""

import pytest

from lab.scenario import split_brain
from lab.scenario.scene import Scene


@pytest.mark.scenario(20)
def test_forced_split_brain(scene: Scene) -> None:
    """Both nodes write while they do not see each other: they stand alone afterwards, alert, and discard nothing."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=None, fences=(active,), split_brain=True)
    scene.wait_acks(20)

    with split_brain.agents_stopped(scene, standby):
        with split_brain.diverged(scene, active, standby):
            pass

        for node in split_brain.wait_apart(scene):
            split_brain.wait_alert(scene, node)
        assert split_brain.standby_file_is_there(scene, standby), "the standby's replica was discarded"
        scene.wait_acks(20)

        split_brain.recover(scene, standby)
    scene.wait_healed()
