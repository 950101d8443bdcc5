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
from pathlib import Path

import pytest
from hapair.fence.base import Found, Written
from hapair.fence.http import HttpStore

ROUNDS = 8
LONGEST_WRITING_S = 0.05
PADDING = "x" * 12000
"""A lock is small; large objects are longer under way."""


def start(folder: Path) -> tuple[subprocess.Popen[str], HttpStore]:
    """Start the store as a process; it says where it listens as soon as it does."""
    program = [sys.executable, "-c", "import sys; from hapair.cli import main; sys.exit(main(sys.argv[1:]))"]
    runtime = str(Path(__file__).parents[3] / "hostfiles/runtime")
    process = subprocess.Popen(
        [*program, "store", "--listen", "127.0.0.1:0", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": runtime},
    )
    assert process.stdout is not None
    where = process.stdout.readline().split()[-1]
    return process, HttpStore(f"http://{where}")


@pytest.mark.spawns
def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("HAPAIR_SEED", "1")))  # noqa: S311 - nothing is kept secret with it
    answered, written = 0, 0
    for _ in range(ROUNDS):
        process, client = start(tmp_path)
        seen = client.read("a", 5.0)
        if seen.found is Found.OBJECT:
            stands = json.loads(seen.body)["number"]
            assert stands in (answered, answered + 1), "the last answered write, or the one under way"
            answered = stands
        else:
            assert answered == 0
        killer = threading.Timer(chance.uniform(0, LONGEST_WRITING_S), process.send_signal, [signal.SIGKILL])
        killer.start()
        due = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < due:
            body = json.dumps({"number": answered + 1, "padding": PADDING}).encode()
            wrote = client.write("a", body, seen.tag or None, 1.0)
            if wrote.written is not Written.YES:
                break
            answered, written = answered + 1, written + 1
            seen = client.read("a", 1.0)
            if seen.found is not Found.OBJECT:
                break
        killer.join()
        assert process.wait(5) == -signal.SIGKILL
        assert process.stdout is not None
        process.stdout.close()
    assert written > ROUNDS
