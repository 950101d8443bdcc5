"""Scenario 3."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(3)
def test_cut_off_from_all(scene: Scene) -> None:
    """The active node loses crossover and store at once: it freezes and removes itself, and the standby serves."""
    active, standby = scene.roles()
    scene.expect(recovery_s=25, failovers=1, gap_s=25, may_fail=(active,))
    scene.wait_acks(20)
    mark = scene.history.mark()

    with scene.store.unreachable(active), scene.faults.cut("crossover", leaves=active):
        scene.wait_decision(active, "remove this node", since=mark)
        scene.wait_ack_of(standby)
        scene.wait_acks(20)

    scene.wait_healed()
    scene.wait_acks(10)
