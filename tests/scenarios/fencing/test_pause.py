"""Scenario 15."""

import time

import pytest

from lab.scenario.scene import Scene

THAW_S = 2.0  # 0.4 s on an idle machine, 1.2 s where three jobs shared each processor; see docs/failover.md


@pytest.mark.scenario(15)
@pytest.mark.parametrize("pause_s", [5, 30, pytest.param(120, marks=pytest.mark.long)])
def test_pause(scene: Scene, pause_s: int) -> None:
    """The active node is paused as a whole and resumed, before or after the standby took over: nothing stale."""
    active, _ = scene.roles()
    taken = pause_s > scene.pair.site.times.grace_s
    scene.expect(recovery_s=30, failovers=1 if taken else 0, may_fail=(active,), thaw_s=THAW_S)
    scene.wait_acks(10)

    with scene.faults.freeze(active, leaves=active if taken else ""):
        time.sleep(pause_s)  # the pause is the fault

    scene.wait_acks(10)
    scene.wait_healed()
    scene.wait_acks(10)
