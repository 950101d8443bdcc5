"""Scenarios 14 and 49."""

import pytest

from lab.scenario.history import Event
from lab.scenario.locks import exchanges
from lab.scenario.scene import Scene


@pytest.mark.scenario(14)
def test_release_races_fence(scene: Scene) -> None:
    """The link breaks again at the moment of the release, which reaches the store late: the new fence is in force."""
    active, _ = scene.roles()
    scene.expect(recovery_s=10, failovers=0, gap_s=10, may_fail=(active,))

    def current(event: Event) -> bool:
        return event.source == active and event.text("peer-disk") == "UpToDate"

    for _ in range(2):
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
        with scene.store.slow(0.3, active):
            scene.wait_event("both replicas are current again", current, since=mark)  # that is when the release begins
            mark = scene.history.mark()
            with scene.faults.cut("crossover"):
                scene.wait_solo(active, since=mark)
                scene.wait_acks(40)  # the release lands meanwhile, however late
        scene.wait_healed()
    scene.wait_acks(10)


@pytest.mark.scenario(49)
def test_delayed_release(scene: Scene) -> None:
    """A release is held up on its way and lands after a new fence: the store rejects it."""
    active, _ = scene.roles()
    scene.expect(recovery_s=10, failovers=0, gap_s=10, may_fail=(active,))
    scene.wait_acks(10)
    with scene.store.holds_release(active):
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
        scene.store.wait_hit("holds_release")
        mark = scene.history.mark()
        with scene.faults.cut("crossover"):
            scene.wait_solo(active, since=mark)
            scene.wait_acks(10)
            scene.store.heal()  # now it lands
            late = scene.wait_event(
                "the late release has landed", lambda e: e.text("rule") == "holds_release", since=mark
            )
            assert exchanges([late])[0].stored == 412, str(late)
            scene.wait_acks(10)
    scene.wait_healed()
    scene.wait_acks(10)
