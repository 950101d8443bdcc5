"""Scenario 8."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(8)
@pytest.mark.parametrize("first", ["active", "standby", "both"])
def test_both_off(scene: Scene, first: str) -> None:
    """Both nodes lose power at once; whichever boots first, or both together: somebody serves, and nothing is lost."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=None)
    scene.wait_acks(10)
    for node in (active, standby):
        scene.faults.note("power_loss", node)
        scene.lab.nodes[node].power_off()

    order = {"active": [active, standby], "standby": [standby, active], "both": [active, standby]}[first]
    scene.lab.nodes[order[0]].power_on()
    if first == "both":
        scene.lab.nodes[order[1]].power_on()
        scene.wait_acks(10)
    else:
        scene.wait_ack_of(order[0])
        scene.lab.nodes[order[1]].power_on()

    scene.wait_healed()
    scene.wait_acks(10)
