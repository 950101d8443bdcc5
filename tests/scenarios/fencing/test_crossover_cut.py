"""Scenario 2."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(2)
def test_crossover_cut(scene: Scene) -> None:
    """The crossover is cut while the store answers: the active node freezes, wins the lock, and goes on alone."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, fences=(active,))
    scene.wait_acks(20)
    mark = scene.history.mark()

    with scene.faults.cut("crossover"):
        scene.wait_solo(active, since=mark)
        scene.wait_acks(20)
        scene.wait_decision(standby, "take the lock alone", since=mark)  # after T_grace it asks too, and is refused

    scene.wait_healed()
    scene.wait_acks(10)
