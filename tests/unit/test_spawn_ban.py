"""The rule that unit tests start no process holds, and the mark lifts it."""

import os
import subprocess

import pytest


@pytest.mark.parametrize(
    "start",
    [lambda: subprocess.run(["true"], check=True), lambda: os.system("true"), os.fork],
    ids=["subprocess", "system", "fork"],
)
def test_unmarked_test_cannot_start_a_process(start: object) -> None:
    assert callable(start)
    with pytest.raises(RuntimeError, match="mark it `spawns`"):
        start()


@pytest.mark.spawns
def test_marked_test_can() -> None:
    assert subprocess.run(["true"], check=False).returncode == 0
