"""Scenario 16."""

import pytest

from lab.scenario.observed import boots
from lab.scenario.scene import Scene


@pytest.mark.scenario(16)
def test_frozen_reads(scene: Scene) -> None:
    """The containers of a frozen old Primary still answer reads: they are gone, with their node, before others do."""
    active, standby = scene.roles()
    scene.expect(recovery_s=25, failovers=1, gap_s=25, may_fail=(active,))
    scene.wait_acks(20)
    mark = scene.history.mark()

    with scene.store.unreachable(active), scene.faults.cut("crossover", leaves=active):
        lost = scene.wait_peer_lost(active, since=mark)
        scene.wait_decision(active, "remove this node", since=mark)
        scene.wait_ack_of(standby)
        scene.wait_read_of(standby, since=mark)
        node_of = boots(scene.history.events())
        reads = [e for e in scene.history.events() if e.kind == "id" and e.t > lost.t]
        old = [e.t for e in reads if node_of.get(e.text("boot")) == active]
        new = [e.t for e in reads if node_of.get(e.text("boot")) == standby]
        assert old, "the frozen node answered no read: nothing was put to the test"
        assert max(old) < min(new), f"{active} answered at {max(old):.3f}, {standby} since {min(new):.3f}"

    scene.wait_healed()
    scene.wait_acks(10)
