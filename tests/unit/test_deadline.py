"""Deadlines: one moment, stretched by one multiplier, with the last observation in the complaint."""

import itertools
import time

import pytest

from lab.deadline import Deadline, time_scale, wait_until
from lab.errors import BadInput, TimedOut


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the monotonic clock; sleeping moves it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda pause_s: now.__setitem__(0, now[0] + pause_s))
    return now


def test_what_is_left_shrinks_to_zero(clock: list[float]) -> None:
    deadline = Deadline.after(5)
    assert (deadline.left_s, deadline.passed) == (5.0, False)
    clock[0] += 7
    assert (deadline.left_s, deadline.passed) == (0.0, True)


def test_scale_stretches_every_limit(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPAIR_TIME_SCALE", "2.5")
    assert Deadline.after(4).at_s == clock[0] + 10


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "nan", "inf", "1000"])
def test_bad_scale_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPAIR_TIME_SCALE", text)
    with pytest.raises(BadInput, match="HAPAIR_TIME_SCALE"):
        time_scale()


@pytest.mark.usefixtures("clock")
def test_wait_returns_what_the_probe_found() -> None:
    answers = iter(["", "", "ready"])
    assert wait_until("it answers", lambda: next(answers), Deadline.after(5)) == "ready"


def test_wait_gives_up_with_the_last_observation(clock: list[float]) -> None:
    seen = itertools.repeat("")
    with pytest.raises(TimedOut, match="until r0 is Connected; last seen: ''"):
        wait_until("r0 is Connected", lambda: next(seen), Deadline.after(3))
    assert clock[0] == pytest.approx(103)


@pytest.mark.usefixtures("clock")
def test_a_deadline_in_the_past_still_asks_once() -> None:
    assert wait_until("it answers", lambda: True, Deadline(0)) is True
