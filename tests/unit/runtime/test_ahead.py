"""Real-time scheduling: for what asks for it, and for nothing that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
from hapair import proc

REALTIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real-time scheduling is for root only")


@pytest.mark.spawns
def test_what_is_started_from_there_is_ordinary_again() -> None:
    found: list[int] = []

    def look() -> None:
        proc.ahead()
        found.append(os.sched_getscheduler(0))
        code = "import os; print(os.sched_getscheduler(0), os.nice(0))"
        found.extend(int(word) for word in subprocess.check_output([sys.executable, "-c", code]).split())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [REALTIME, os.SCHED_OTHER, max(os.nice(0), 0)]


def test_a_refusal_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    before = os.sched_getscheduler(0)
    proc.ahead()
    assert os.sched_getscheduler(0) == before
