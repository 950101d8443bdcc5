"""Scenarios 47 and 48: the standby left in good order, and the active node dies."""

from contextlib import ExitStack

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(47)
@pytest.mark.parametrize("first", ["standby", "active"])
def test_standby_rebooted(scene: Scene, first: str) -> None:
    """The standby is rebooted in good order under load, then the active node dies: the standby waits for it."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    scene.wait_acks(10)
    mark = scene.history.mark()

    scene.faults.reboot(standby)
    scene.wait_solo(active, since=mark)
    scene.wait_peer_lost(active, since=mark)
    scene.wait_acks(10)
    with scene.faults.power_loss(active):
        if first == "standby":
            scene.wait_refusal(standby, booted_since=mark)
        else:
            scene.lab.nodes[standby].power_off()
            scene.lab.nodes[active].power_on()
            scene.wait_ack_of(active)
            scene.lab.nodes[standby].power_on()

    scene.wait_healed()
    scene.wait_acks(10)


@pytest.mark.scenario(47)
def test_standby_rebooted_unseen(scene: Scene) -> None:
    """The standby is rebooted while the owner of the lock cannot reach the store: the lock is given back after all."""
    active, standby = scene.roles()
    scene.expect(recovery_s=10, failovers=0)
    scene.wait_acks(10)
    mark = scene.history.mark()

    with ExitStack() as cut_off:
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
            scene.wait_acks(5)  # so the kernel's handler has ended, too
            cut_off.enter_context(scene.store.unreachable(active))
            mark = scene.history.mark()
        scene.wait_connected(active, since=mark)
        scene.wait_acks(10)
        mark = scene.history.mark()
        scene.faults.reboot(standby)
        scene.wait_peer_lost(active, since=mark)
        scene.wait_connected(active, since=mark)
        scene.wait_acks(10)

    scene.wait_healed()
    scene.wait_acks(10)


@pytest.mark.scenario(48)
def test_standby_detached(scene: Scene) -> None:
    """The standby's disk is detached, both nodes crash, the standby boots alone: it refuses."""
    active, standby = scene.roles()
    # A person's detach asks nobody: until the active node has the lock there is a window (docs/failover.md).
    scene.expect(recovery_s=60, failovers=0, window_s=1.5)
    scene.wait_acks(10)
    mark = scene.history.mark()

    scene.lab.nodes[standby].run(["drbdadm", "detach", scene.place.resource], limit_s=15)
    scene.wait_solo(active, since=mark)
    scene.wait_acks(10)
    with scene.faults.power_loss(standby), scene.faults.power_loss(active):
        mark = scene.history.mark()
        scene.lab.nodes[standby].power_on()
        scene.wait_refusal(standby, booted_since=mark)

    scene.wait_healed()
    scene.clear_tombstone(standby)
    scene.wait_acks(10)
