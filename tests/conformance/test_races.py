"""Writers that contend for the same version: one wins each round, never two. HAPAIR_RACES sets the rounds."""

from __future__ import annotations

import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hapair.fence.base import Backend, Found, Written

from .conftest import LIMIT_S, Place

ROUNDS = int(os.environ.get("HAPAIR_RACES", "300"))
WRITERS = 2
LONGEST_S = 3600.0


@pytest.mark.timeout(LONGEST_S)
def test_never_two_winners(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    clients = [place.client(direct=True) for _ in range(WRITERS)]
    name = f"race-{uuid.uuid4().hex[:8]}"
    together = threading.Barrier(WRITERS)
    tag: str | None = None
    wins = [0] * WRITERS
    began = time.monotonic()

    def attempt(client: Backend, body: bytes, version: str | None) -> Written:
        together.wait(LIMIT_S)
        return client.write(name, body, version, LIMIT_S).written

    with ThreadPoolExecutor(WRITERS) as pool:
        for round_number in range(ROUNDS):
            bodies = [b'{"round": %d, "writer": %d}' % (round_number, number) for number in range(WRITERS)]
            running = [pool.submit(attempt, client, bodies[number], tag) for number, client in enumerate(clients)]
            told = [it.result() for it in running]
            assert sorted(it.value for it in told) == ["conflict"] * (WRITERS - 1) + ["yes"], f"round {round_number}"
            seen = clients[0].read(name, LIMIT_S)
            winner = told.index(Written.YES)
            assert (seen.found, seen.body) == (Found.OBJECT, bodies[winner]), f"round {round_number}: {seen.text}"
            wins[winner] += 1
            tag = seen.tag
    took_s = time.monotonic() - began
    with capsys.disabled():
        print(f"\n{place.kind}: {ROUNDS} rounds of {WRITERS} writers in {took_s:.0f} s, one winner each ({wins})")  # noqa: T201
    assert sum(1 for it in wins if it) >= 2, f"hardly a race: {wins}"
