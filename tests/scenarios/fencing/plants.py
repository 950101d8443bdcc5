"""Faults planted in the system under test: each breaks one promise of the fencing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lab.deadline import Deadline, wait_until
from lab.scenario.faults import heal_all
from lab.scenario.history import Event
from lab.scenario.observed import faults
from lab.scenario.scene import Scene

LIMIT_S = 20.0
MEET_S = 60.0  # both nodes are up again, and DRBD has compared their data
SYSRQ = "/proc/sysrq-trigger"
RELEASE = """
import sys
sys.path.insert(0, "/usr/lib/hapair/hapair.pyz")
from hapair.config import load
from hapair.fence.site import fence_of
from hapair.paths import Paths
print(fence_of(load(Paths().config), sys.argv[1], Paths()).release(lambda: ""))
"""


@contextmanager
def lying_handler(scene: Scene, node: str) -> Iterator[None]:
    """Let the handler say that the peer is fenced without asking for the lock, while the agent hangs."""
    with scene.programs.handler(node, "lies", "exit 4"), scene.programs.agent_hangs(node):
        yield


@contextmanager
def hanging(scene: Scene, node: str) -> Iterator[None]:
    """Let handler and agent hang."""
    with scene.programs.handler(node, "hangs", "sleep 1000"), scene.programs.agent_hangs(node):
        yield


def no_removal(scene: Scene, node: str) -> None:
    """Let the node's removal of itself do nothing."""
    there = scene.lab.nodes[node]
    there.run(["mount", "--bind", "/dev/null", SYSRQ], limit_s=LIMIT_S)
    scene.programs.kill_agent(node)  # the next one opens what is there now
    there.run(["sh", "-c", "until hapair status > /dev/null; do sleep 0.1; done"], limit_s=LIMIT_S)


def careless_release(scene: Scene, node: str) -> None:
    """Give the lock back without looking whether the peer is there."""
    scene.lab.nodes[node].run(["python3", "-c", RELEASE, scene.place.resource], limit_s=LIMIT_S)


@contextmanager
def until_split_brain(scene: Scene) -> Iterator[None]:
    """Go on after the scenario has failed until both replicas have met: by then all is wrong that will be."""
    mark = scene.history.mark()
    try:
        yield
    finally:
        heal_all(scene.lab)
        scene.history.wait("the replicas find that they diverged", _split, Deadline.after(MEET_S), mark=mark)


@contextmanager
def until_serving(scene: Scene, node: str) -> Iterator[None]:
    """Go on after the scenario has failed until that node serves, as it must not: then its data can be judged."""
    try:
        yield
    finally:
        scene.wait_ack_of(node)


@contextmanager
def then_removed(scene: Scene, node: str) -> Iterator[None]:
    """Cut the power of a node in the end, since it cannot remove itself."""
    try:
        yield
    finally:
        with scene.faults.power_loss(node):
            pass


@contextmanager
def until_overdue(scene: Scene) -> Iterator[None]:
    """Go on after the scenario has failed until the outage has outlasted its bound: before that it proves nothing."""
    try:
        yield
    finally:
        overdue = faults(scene.history.events())[0].t + scene.expectation.recovery_s + 1.0
        wait_until("the outage is overdue", lambda: time.time() > overdue, Deadline.after(MEET_S), pause_s=0.5)


@contextmanager
def then_healed(scene: Scene) -> Iterator[None]:
    """Go on after the scenario has failed until the pair is whole again and serves, as it will with this fault."""
    try:
        yield
    finally:
        heal_all(scene.lab)
        scene.wait_healed()
        scene.wait_acks(5)


def _split(event: Event) -> bool:
    return event.kind == "kernel" and "split-brain" in event.text("text").lower()
