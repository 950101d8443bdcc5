"""Scenario 10."""

import pytest

from lab.scenario.locks import commits
from lab.scenario.scene import Scene


@pytest.mark.scenario(10)
def test_lost_reply(scene: Scene) -> None:
    """The store commits the fence and its reply is lost: the node recognises its own success, and writes it once."""
    active, _ = scene.roles()
    scene.expect(recovery_s=8, failovers=0, gap_s=8, fences=(active,))
    scene.wait_acks(20)
    mark = scene.history.mark()

    with scene.store.loses_reply(active), scene.faults.cut("crossover"):
        scene.wait_solo(active, since=mark)
        scene.wait_acks(20)
        fences = [commit for commit in commits(scene.history.since(mark)) if commit.after.state == "SOLO"]
        attempts = {commit.after.attempt for commit in fences}
        assert len(attempts) == len(fences), "one attempt was committed twice"

    scene.wait_healed()
    scene.wait_acks(10)
