"""Unit tests start no process unless they are marked `spawns`; fake programs on PATH for those that do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.programs import Fakes

STARTS = {
    "subprocess.Popen",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
}


class _Ban:
    """An audit hook cannot be taken away again, so it asks here whether it is to refuse."""

    active = False


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if _Ban.active and event in STARTS:
        raise RuntimeError(
            f"a unit test started a process ({event} {arguments[:2]}): mark it `spawns`, or use no process"
        )


sys.addaudithook(_refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold the ban during the whole test, the fixtures of its module included."""
    _Ban.active = item.get_closest_marker("spawns") is None
    try:
        return (yield)
    finally:
        _Ban.active = False


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Return fake programs that come first on PATH."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return Fakes(folder)
