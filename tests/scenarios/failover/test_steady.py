"""No fault at all: whatever stalls is the pair's own, or the lab's."""

from collections.abc import Callable

import pytest

from lab.deadline import Deadline
from lab.scenario.scene import Scene

STEADY_S = 120.0


def steady(scene: Scene, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Write for a while; `meanwhile` is called once, after the first writes."""
    scene.expect(recovery_s=10, failovers=0, gap_s=1.5)
    mark, end = scene.history.mark(), Deadline.after(seconds)
    scene.wait_acks(20)
    meanwhile()
    while end.left_s > 0:
        scene.wait_acks(20)
    lost = [event for event in scene.history.since(mark) if event.text("connection") not in ("", "Connected")]
    assert not lost, str(lost)


@pytest.mark.scenario()
@pytest.mark.long
def test_steady(scene: Scene) -> None:
    """Two minutes of writes, and nothing happens: none waits longer than 1.5 s, and DRBD never loses its peer."""
    scene.roles()
    steady(scene, STEADY_S, lambda: None)
