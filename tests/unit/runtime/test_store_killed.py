"""The reference store is killed in the middle of writes: what was answered is there, and nothing is half there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hapair.fence.base import Found, Written, etag
from hapair.fence.http import HttpStore

ROUNDS = 10
LONGEST_WRITING_S = 0.1
OBJECTS = ("a", "b", "c")
PADDING = "x" * 12000
"""A lock is small; large objects are longer under way."""


@contextmanager
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], HttpStore]]:
    """Start the store as a process; it says where it listens as soon as it does. It never outlives the block."""
    program = [sys.executable, "-c", "import sys; from hapair.cli import main; sys.exit(main(sys.argv[1:]))"]
    runtime = str(Path(__file__).parents[3] / "hostfiles/runtime")
    with subprocess.Popen(
        [*program, "store", "--listen", "127.0.0.1:0", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": runtime},
    ) as process:
        try:
            assert process.stdout is not None
            yield process, HttpStore(f"http://{process.stdout.readline().split()[-1]}")
        finally:
            process.kill()


class Writer(threading.Thread):
    """Writes an object of its own again and again, until the store is gone; knows what was answered."""

    def __init__(self, client: HttpStore, name: str, number: int, tag: str | None) -> None:
        super().__init__()
        self.client, self.object, self.number, self.tag = client, name, number, tag

    def run(self) -> None:
        while True:
            body = json.dumps({"number": self.number + 1, "padding": PADDING}).encode()
            if self.client.write(self.object, body, self.tag, 1.0).written is not Written.YES:
                return
            self.number, self.tag = self.number + 1, etag(body)


@pytest.mark.spawns
@pytest.mark.thorough
def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("HAPAIR_SEED", "1")))  # noqa: S311 - nothing is kept secret with it
    answered = dict.fromkeys(OBJECTS, 0)
    for _ in range(ROUNDS):
        with started(tmp_path) as (process, client):
            writers = []
            for name, number in answered.items():
                seen = client.read(name, 5.0)
                stands = json.loads(seen.body)["number"] if seen.found is Found.OBJECT else 0
                assert stands in (number, number + 1), "the last answered write, or the one under way"
                writers.append(Writer(client, name, stands, seen.tag or None))
            for writer in writers:
                writer.start()
            # At any moment of a write; that it is one, no event tells.
            time.sleep(chance.uniform(0, LONGEST_WRITING_S))
            process.kill()
            assert process.wait(5) == -signal.SIGKILL
            for writer in writers:
                writer.join(10)
            answered = {writer.object: writer.number for writer in writers}
    assert sum(answered.values()) > ROUNDS
