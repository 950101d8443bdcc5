"""The history: frozen, append-only, merged by wall time, and readable again."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.deadline import Deadline
from lab.errors import BadInput, TimedOut
from lab.scenario.history import Event, History, merge

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(min_size=1).filter(lambda key: key not in ("t", "source", "kind"))


@given(data=st.dictionaries(KEYS, VALUES, max_size=4), t=st.floats(allow_nan=False, allow_infinity=False))
def test_an_event_survives_its_line(data: dict[str, object], t: float) -> None:
    event = Event(t, "client", "ack", data)
    assert Event.from_json(event.to_json()) == event
    assert "\n" not in event.to_json()


def test_what_was_observed_cannot_be_changed() -> None:
    given_lines = ["1 a"]
    event = Event(1.0, "client", "list", {"lines": given_lines, "deep": {"more": [1]}})
    given_lines.append("2 b")
    assert event.lines("lines") == ("1 a",)
    with pytest.raises(TypeError):
        event.data["lines"] = ()  # type: ignore[index] # that it cannot be done is the point
    with pytest.raises(AttributeError):
        event.t = 2.0  # type: ignore[misc] # as above


@pytest.mark.parametrize("line", ["", "{", "[]", "7", '{"t": 1}', '{"kind": "x"}', '{"t": "soon", "kind": "x"}'])
def test_a_line_that_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(BadInput):
        Event.from_json(line)


def test_a_field_that_is_missing_reads_as_nothing() -> None:
    event = Event(1.0, "n1", "drbd")
    assert event.text("role") == ""
    assert event.number("status") != event.number("status")
    assert event.lines("lines") == ()
    assert not event.flag("bug")


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=4))
def test_merging_orders_by_time_and_keeps_each_sources_order(times: list[list[int]]) -> None:
    sources = [
        [Event(float(t), f"s{number}", "x", {"place": place}) for place, t in enumerate(sorted(source))]
        for number, source in enumerate(times)
    ]
    merged = merge(*sources)
    assert [event.t for event in merged] == sorted(t for source in times for t in source)
    for source in sources:
        assert [event for event in merged if source and event.source == source[0].source] == source


def test_late_arrivals_are_put_where_they_belong() -> None:
    history = History()
    history.append(Event(2.0, "client", "ack"))
    history.append(Event(1.0, "n1", "kernel"))
    assert [event.t for event in history.events()] == [1.0, 2.0]


def test_a_history_is_on_disk_at_once_and_reads_back(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append(Event(2.0, "client", "ack", {"seq": 1, "lines": ["ä"]}))
    history.note("scenario", "begin", name="x")
    assert History.load(tmp_path / "history.jsonl").events() == history.events()
    history.close()
    history.note("scenario", "late")
    assert len(history.events()) == 3


def test_half_a_last_line_is_forgiven_but_no_other(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    whole = Event(1.0, "n1", "boot").to_json()
    path.write_text(f"{whole}\n{whole[:9]}")
    assert len(History.load(path).events()) == 1
    path.write_text(f"{whole}\n{whole[:9]}\n{whole}\n")
    with pytest.raises(BadInput, match=r"history\.jsonl:2"):
        History.load(path)
    with pytest.raises(BadInput, match="No such file"):
        History.load(tmp_path / "none")


def test_waiting_ends_with_the_event() -> None:
    history = History()
    history.note("client", "invoke")
    timer = threading.Timer(0.05, lambda: history.note("client", "ack", seq=7))
    timer.start()
    found = history.wait("an ack", lambda e: e.kind == "ack", Deadline.after(10))
    timer.join()
    assert found.number("seq") == 7


def test_waiting_from_a_mark_does_not_see_what_was_before() -> None:
    history = History()
    history.note("client", "ack")
    with pytest.raises(TimedOut, match=r"until an ack; last seen: .*client ack"):
        history.wait("an ack", lambda e: e.kind == "ack", Deadline.after(0.01), mark=history.mark())


def test_a_wait_that_sees_nothing_at_all_says_so() -> None:
    with pytest.raises(TimedOut, match="nothing at all"):
        History().wait("anything", lambda _: True, Deadline.after(0.01))


def test_meanwhile_may_end_a_wait() -> None:
    def broken() -> None:
        raise BadInput("violated")

    with pytest.raises(BadInput, match="violated"):
        History().wait("anything", lambda _: True, Deadline.after(60), meanwhile=broken)
