"""Both nodes take the lock at the same moment, again and again, over real HTTP: one has it, the other is refused."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hapair.fence.site import fence_of
from hapair.fencing import Answer, Fence, Held, no_guard

from .conftest import Host

pytestmark = pytest.mark.thorough

ROUNDS = 80


def test_never_both(n1: Host, n2: Host) -> None:
    fences = [fence_of(host.config, "r0", host.paths) for host in (n1, n2)]
    fences[0].create(no_guard)
    together = threading.Barrier(2)

    def take(fence: Fence) -> Answer:
        together.wait(5)
        return fence.take()

    wins = [0, 0]
    with ThreadPoolExecutor(2) as pool:
        for round_number in range(ROUNDS):
            told = list(pool.map(take, fences))
            assert sorted(it.held.value for it in told) == ["held", "refused"], f"round {round_number}: {told}"
            winner = 0 if told[0].held is Held.HELD else 1
            wins[winner] += 1
            assert fences[winner].release(no_guard).held is Held.HELD
    assert min(wins) > 0, f"hardly a race: {wins}"
