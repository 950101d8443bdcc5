"""Scenario 31."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(31)
def test_switchovers(scene: Scene, pytestconfig: pytest.Config) -> None:
    """The service moves to and fro in good order, under acknowledged writes, as often as --switchovers says."""
    switch_over(scene, pytestconfig.getoption("--switchovers"))
    scene.wait_healed()


def switch_over(scene: Scene, count: int) -> None:
    """Move the service `count` times."""
    scene.expect(recovery_s=20, failovers=count, gap_s=20)
    for _ in range(count):
        scene.wait_acks(20)
        _, now_active = scene.switchover()
        scene.wait_ack_of(now_active)
