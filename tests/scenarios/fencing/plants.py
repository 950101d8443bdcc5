"""Faults planted in the system under test: each breaks one promise of the fencing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lab.scenario.scene import Scene

LIMIT_S = 20.0
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
