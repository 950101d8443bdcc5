"""Scenario 4, in two parts: healed in time, and not."""

import pytest

from lab.scenario.scene import Scene


def generation(scene: Scene, node: str) -> str:
    """Return DRBD's current data generation on a node."""
    text = scene.lab.nodes[node].run(["drbdadm", "show-gi", scene.place.resource], limit_s=10).text
    return next(part for part in text.split() if part.count(":") >= 5).split(":")[0]


@pytest.mark.scenario(4)
def test_store_down_for_a_moment(scene: Scene) -> None:
    """The crossover is cut while nobody reaches the store, and is whole again in time: writes wait and go on."""
    active, _ = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, may_fail=(active,))
    scene.wait_acks(20)
    before = generation(scene, active)

    with scene.store.unreachable():
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            lost = scene.wait_peer_lost(active, since=mark)
        back = scene.wait_connected(active, since=mark)
        assert scene.acks_between(lost.t, back.t) == 0, "acknowledged while frozen"
        scene.wait_acks(20)

    scene.wait_healed()
    assert generation(scene, active) == before, "a new data generation although nobody went on alone"


@pytest.mark.scenario(4)
def test_store_down_for_both(scene: Scene) -> None:
    """The crossover is cut while nobody reaches the store, for long: nothing is acknowledged, the active node goes."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=None, may_fail=(active, standby))
    scene.wait_acks(20)
    mark = scene.history.mark()

    with scene.store.unreachable(), scene.faults.cut("crossover"):
        lost = scene.wait_peer_lost(active, since=mark)
        scene.wait_decision(active, "remove this node", since=mark)
        scene.wait_decision(standby, "take the lock alone", since=mark)  # after T_grace, and in vain
        scene.wait_boot_of(active)
        assert scene.acks_between(lost.t, None) == 0, "acknowledged by a node that nobody gave the lock"

    scene.wait_acks(10)
    scene.wait_healed()
