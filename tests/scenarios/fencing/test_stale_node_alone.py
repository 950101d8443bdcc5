"""Scenarios 6 and 7."""

import pytest

from lab.scenario.scene import Scene


@pytest.mark.scenario(6)
def test_stale_node_alone(scene: Scene) -> None:
    """The active node went on alone and lost power; the stale one boots alone: it refuses, and says why."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    scene.wait_acks(10)

    with scene.faults.power_loss(standby):
        scene.wait_acks(20)
        with scene.faults.power_loss(active):
            mark = scene.history.mark()
            scene.lab.nodes[standby].power_on()
            status = scene.wait_refusal(standby, booted_since=mark)
            assert f"only {active} has every acknowledged write" in status, status
            assert "Secondary" in status, status

    scene.wait_acks(10)
    scene.wait_healed()


@pytest.mark.scenario(7)
def test_wrong_node_boots_first(scene: Scene) -> None:
    """A is off, B writes alone and goes off, A boots first: A waits, and B serves on its return."""
    b, a = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    scene.wait_acks(10)

    with scene.faults.power_loss(a):
        scene.wait_acks(20)
        scene.lab.nodes[b].power_off()
        scene.faults.note("power_loss", b)
        mark = scene.history.mark()
        scene.lab.nodes[a].power_on()
        scene.wait_refusal(a, booted_since=mark)
        scene.lab.nodes[b].power_on()
        scene.wait_ack_of(b)

    scene.wait_healed()
    scene.wait_acks(10)
