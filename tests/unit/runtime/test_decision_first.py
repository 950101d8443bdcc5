"""Between an event of DRBD and the decision upon it stands nothing that can wait until after it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hapair import agent, policy
from hapair.agent import Agent, Unit
from hapair.decisions import DecisionLog
from hapair.hooks import Hooks

from lab.deadline import Deadline, wait_until

from .conftest import Host

DUMP = """\
exists resource name:r0 role:Secondary suspended:no
exists connection name:r0 peer-node-id:0 conn-name:peer connection:Connected role:Primary
exists device name:r0 volume:0 minor:0 disk:UpToDate
exists peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate
exists -
"""


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the deciding thread does, in order: it looks, decides, logs events, calls hooks."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            done.append(name)
            return real(*given, **more)

        return call

    monkeypatch.setattr(Unit, "observe", noted("look", Unit.observe))
    monkeypatch.setattr(policy, "decide", noted("decide", policy.decide))
    monkeypatch.setattr(DecisionLog, "line", noted("log", DecisionLog.line))
    monkeypatch.setattr(Hooks, "look", noted("hook", Hooks.look))
    return done


@pytest.mark.spawns
def test_others_are_told_after_the_decision(
    n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    """Their threads would run between the event and the decision; and one look is enough where nobody asked."""
    (tmp_path / "told").write_text(DUMP)
    monkeypatch.setattr(agent, "EVENTS", ("sh", "-c", f"cat '{tmp_path}/told'; exec sleep 60"))
    monkeypatch.setattr(Unit, "dispatch", lambda *_: None)
    made = Agent(n1.config, n1.paths)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        wait_until("the hooks are told", lambda: "hook" in order, Deadline.after(10), pause_s=0.02)
    finally:
        made.stop()
        thread.join()
    first = order.index("log")
    assert order[first - 2 : first + 6] == ["look", "decide", *["log"] * 5, "hook"]
    assert n1.paths.events.read_text() == DUMP or wait_until(
        "all is logged", n1.paths.events.read_text, Deadline.after(5)
    )


def test_other_threads_soon_make_way(n1: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sys.getswitchinterval()
    seen: list[float] = []

    def run(_: Agent) -> int:
        seen.append(sys.getswitchinterval())
        return 0

    monkeypatch.setattr(agent, "_lock_memory", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(Agent, "run", run)
    try:
        assert agent.main(n1.config, n1.paths) == 0
    finally:
        sys.setswitchinterval(before)
    assert seen == [pytest.approx(agent.SWITCH_S)]


def test_lines_that_came_meanwhile_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order. A file that is opened for each line takes the processor from the deciding thread."""
    gate = threading.Event()
    opened: list[Path] = []
    real = Path.open

    def slow(path: Path, *given: Any, **more: Any) -> Any:
        gate.wait(5)
        opened.append(path)
        return real(path, *given, **more)

    monkeypatch.setattr(Path, "open", slow)
    log = DecisionLog(tmp_path / "log", journal=False)
    lines = [str(number) for number in range(20)]
    for line in lines:
        log.line(line)
    gate.set()
    log.drain(5.0)
    assert len(opened) <= 2
    assert (tmp_path / "log").read_text().splitlines() == lines
