"""Scenario 13."""

import pytest

from lab.scenario.scene import Scene

GO = "/run/hapair-lab-go"
# The real one decides; then the kernel has to wait for its answer until the link is back.
SLOW = f'"$REAL"; code=$?; until [ -e {GO} ]; do sleep 0.05; done; exit $code'


@pytest.mark.scenario(13)
def test_link_back_during_handler(scene: Scene) -> None:
    """The link returns while the handler runs: the kernel ignores its result, and the lock is given back later."""
    active, _ = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, fences=(active,))
    scene.wait_acks(20)

    with scene.programs.handler(active, "slow", SLOW):
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
        scene.wait_connected(active, since=mark)
        scene.lab.nodes[active].put(b"", GO)
        scene.wait_acks(10)
        scene.wait_healed()

    scene.wait_acks(10)
