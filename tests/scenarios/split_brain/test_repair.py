"""Scenario 21."""

import pytest

from lab.scenario import split_brain
from lab.scenario.scene import Scene


@pytest.mark.scenario(21)
def test_split_brain_repair(scene: Scene) -> None:
    """After a split brain the discarded replica is saved first; then both are equal, block by block."""
    repair(scene)
    split_brain.compare(scene, scene.roles()[0])
    scene.wait_healed()


def repair(scene: Scene) -> None:
    """Force a split brain, save what the standby wrote, discard it, and wait until both are one again."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=None, fences=(active,), split_brain=True)
    scene.wait_acks(20)

    with split_brain.agents_stopped(scene, standby):
        with split_brain.diverged(scene, active, standby):
            pass
        split_brain.wait_apart(scene)

        copy = split_brain.recover(scene, standby)
    scene.wait_healed()

    found = scene.lab.nodes[standby].run(["grep", "-c", split_brain.NAME, copy], limit_s=60, check=False)
    assert found.code == 0, f"the saved copy lacks what the standby wrote: {copy}"
    scene.wait_acks(20)
