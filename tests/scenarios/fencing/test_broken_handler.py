"""Scenario 12."""

import pytest

from lab.scenario.scene import Scene

BROKEN = {
    "exits_0": "exit 0",
    "exits_2": "exit 2",
    "exits_20": "exit 20",
    "is_killed": "kill -KILL $$",
    "is_missing": "",
    "hangs": "sleep 1000",
}


@pytest.mark.scenario(12)
def test_broken_handler(scene: Scene) -> None:
    """The handler fails in one way or another while the agent is well: I/O freezes, the agent wins and resumes it."""
    active, _ = scene.roles()
    scene.expect(recovery_s=12, failovers=0, gap_s=12, may_fail=(active,))
    for name, script in BROKEN.items():
        scene.wait_acks(5)
        with scene.programs.handler(active, name, script):
            mark = scene.history.mark()
            with scene.faults.cut("crossover"):
                scene.wait_solo(active, since=mark)
                scene.wait_decision(active, "drbdadm resume-io", since=mark)
                scene.wait_acks(5)
        scene.wait_healed()


@pytest.mark.scenario(12)
def test_broken_handler_without_store(scene: Scene) -> None:
    """The handler fails and no store answers: I/O stays frozen until the node removes itself; the standby serves."""
    active, standby = scene.roles()
    scene.expect(recovery_s=30, failovers=1, may_fail=(active,))
    scene.wait_acks(10)
    mark = scene.history.mark()

    with (
        scene.programs.handler(active, "exits_2", "exit 2"),
        scene.store.unreachable(active),
        scene.faults.cut("crossover", leaves=active),
    ):
        lost = scene.wait_peer_lost(active, since=mark)
        scene.wait_decision(active, "remove this node", since=mark)
        assert scene.acks_between(lost.t, None) == 0, "acknowledged while frozen"
        scene.wait_ack_of(standby)

    scene.wait_healed()
    scene.wait_acks(10)
