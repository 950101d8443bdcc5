"""Scenarios 18 and 19: a disk that failed is behind, whatever it says later."""

import pytest

from lab.scenario import disk_faults
from lab.scenario.scene import Scene


@pytest.mark.scenario(18)
def test_disk_of_standby_fails(scene: Scene) -> None:
    """The standby's disk fails, both nodes crash, and that disk revives alone: it refuses."""
    active, standby = scene.roles()
    # Between the failure and the active node's lock there is a window of one exchange with the store (rule F4).
    scene.expect(recovery_s=60, failovers=0, window_s=1.5, may_fail=(standby,))
    scene.wait_acks(10)
    mark = scene.history.mark()

    with disk_faults.failing(scene.faults, standby, reads=False):
        scene.wait_solo(active, since=mark)
        scene.wait_acks(10)
        with scene.faults.power_loss(standby), scene.faults.power_loss(active):
            mark = scene.history.mark()
            scene.lab.nodes[standby].power_on()
            scene.wait_refusal(standby, booted_since=mark)

    scene.wait_healed()
    scene.clear_tombstone(standby)
    scene.wait_acks(10)


@pytest.mark.scenario(19)
def test_disk_of_active_is_gone(scene: Scene) -> None:
    """The active node runs on its peer's disk, so it hands over; then both crash, and the stale disk boots alone."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=1, window_s=1.5)
    scene.wait_acks(10)

    scene.faults.note("detach", active, leaves=active)
    scene.lab.nodes[active].run(["drbdadm", "detach", scene.place.resource], limit_s=15)
    scene.wait_ack_of(standby)
    scene.wait_acks(10)
    with scene.faults.power_loss(active), scene.faults.power_loss(standby):
        mark = scene.history.mark()
        scene.lab.nodes[active].power_on()
        scene.wait_refusal(active, booted_since=mark)

    scene.wait_acks(10)
    scene.wait_healed()
    scene.clear_tombstone(active)
