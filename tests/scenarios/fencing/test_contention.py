"""Scenario 5."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.scenario.scene import Scene

ROUNDS = 20
CONTEND = """
import dataclasses, json, sys, time
from pathlib import Path
sys.path.insert(0, "/usr/lib/hapair/hapair.pyz")
from hapair.config import load
from hapair.fence.site import fence_of
from hapair.paths import Paths
start, rounds, first = float(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "first"
config = load(Paths().config)
resource = next(iter(config.resources))
won, fences = [], []
for number in range(rounds):
    fence = fence_of(config, resource, Paths(Path(f"/run/contend/{number}")))  # a round is no news of another
    fence.name = f"contend-{number}"
    fences.append(fence)
    if first:
        fence.create(lambda: "")
for number, fence in enumerate(fences):
    # Both wait for the same moment: there is no event that two machines see at once.
    time.sleep(max(0.0, start + number * 0.25 - time.time()))
    won.append(fence.take().held.value)
print(json.dumps(won))
"""


@pytest.mark.scenario(5)
def test_contention(scene: Scene) -> None:
    """Both nodes ask for the same lock at the same moment, many times: exactly one gets it, every time."""
    scene.expect(recovery_s=10, failovers=0, gap_s=10)
    start = time.time() + 5.0

    def contend(node: str, part: str) -> list[str]:
        there = scene.lab.nodes[node]
        ahead_s = there.clock() - time.time()
        argv = ["python3", "-c", CONTEND, f"{start + ahead_s}", f"{ROUNDS}", part]
        return list(json.loads(there.run(argv, limit_s=60).text))

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(contend, "n1", "first"), pool.submit(contend, "n2", "second")]
        n1, n2 = (answer.result() for answer in asked)

    for number, answers in enumerate(zip(n1, n2, strict=True)):
        assert answers.count("held") == 1, f"round {number}: n1 {answers[0]}, n2 {answers[1]}"
    scene.wait_acks(10)
