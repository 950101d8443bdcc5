"""The lock object."""

from __future__ import annotations

import json
import time

import pytest
from hapair.lock import (
    HISTORY,
    LARGEST_BYTES,
    Former,
    LockInvalid,
    LockState,
    closed_to,
    first,
    held_by,
    parse,
    shared,
    solo,
)
from hypothesis import given
from hypothesis import strategies as st

FIRST = first("r0", me="a", attempt_id="1", time=5.0)
HISTORIC = {"epoch": 1, "state": "SHARED", "owner": "a", "writer": "a", "time": 5.0, "reason": ""}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_round_trip() -> None:
    record = solo(FIRST, owner="b", writer="a", attempt_id="2", time=6.5)
    assert parse(record.to_bytes(), "r0") == record


def test_every_change_is_a_new_epoch() -> None:
    taken = solo(FIRST, owner="a", writer="a", attempt_id="2", time=6.0)
    freed = shared(taken, writer="a", attempt_id="3", time=7.0)
    assert [FIRST.epoch, taken.epoch, freed.epoch] == [1, 2, 3]
    assert [FIRST.state, taken.state, freed.state] == [LockState.SHARED, LockState.SOLO, LockState.SHARED]


def test_a_future_format_is_named_and_is_no_lock() -> None:
    later = FIRST.to_bytes().replace(b'"format": 1', b'"format": 7')
    with pytest.raises(LockInvalid, match=r"format 7, but this program knows only 1: install"):
        parse(later, "r0")


def test_the_last_twenty_versions_are_kept_with_their_reasons() -> None:
    record = FIRST
    for number in range(2, 31):
        record = solo(record, owner="a", writer="b", attempt_id=str(number), time=float(number), reason=f"r{number}")
    assert record.reason == "r30"
    assert [former.epoch for former in record.history] == list(range(10, 30))
    assert record.history[-1] == Former(29, LockState.SOLO, "a", "b", 29.0, "r29")
    assert parse(record.to_bytes(), "r0") == record


@pytest.mark.parametrize("char", ["x", "ä", '"', "\x01", "\udcff", "\N{PILE OF POO}"])
def test_the_longest_history_stays_readable(char: str) -> None:
    record = FIRST
    for _ in range(HISTORY + 1):
        record = solo(record, owner="o" * 36, writer="w" * 36, attempt_id="a" * 32, time=1e9 / 3, reason=char * 1000)
    assert parse(record.to_bytes(), "r0") == record, "no more than LARGEST_BYTES, whatever a person writes"


def test_whom_a_lock_is_closed_to() -> None:
    taken = solo(FIRST, owner="a", writer="a", attempt_id="2", time=6.0)
    assert held_by(taken, "a")
    assert not held_by(taken, "b")
    assert closed_to(taken, "b")
    assert not closed_to(taken, "a")
    assert not closed_to(FIRST, "b")


def test_an_override_is_closed_to_everybody() -> None:
    stealing = parse(FIRST.to_bytes().replace(b"SHARED", b"STEALING"), "r0")
    assert closed_to(stealing, "a")
    assert closed_to(stealing, "b")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "1"},
        {"history": [{"epoch": 1}]},
        {"history": 7},
        {"state": "UNLOCKED"},
        {"epoch": -1},
        {"epoch": "many"},
        {"epoch": "7"},
        {"epoch": True},
        {"epoch": 1.0},
        {"epoch": 2**53},
        {"epoch": float("inf")},
        {"format": True},
        {"format": [[]]},
        {"time": 1e300},
        {"time": float("nan")},
        {"time": -1.0},
        {"time": True},
        {"owner": 7},
        {"owner": "\ud800"},
        {"reason": None},
        {"state": []},
        {"history": [7]},
        {"history": [{**HISTORIC, "time": 1e300}]},
        {"history": [{**HISTORIC, "epoch": 1e999}]},
        {"owner": ""},
        {"attempt_id": ""},
        {"resource": "r1"},
    ],
)
def test_what_is_not_this_lock_is_refused(change: dict[str, object]) -> None:
    fields = {**json.loads(FIRST.to_bytes()), **change}
    with pytest.raises(LockInvalid, match="lock"):
        parse(json.dumps(fields).encode(), "r0")


def test_a_former_version_is_read() -> None:
    fields = {**json.loads(FIRST.to_bytes()), "history": [HISTORIC]}
    assert parse(json.dumps(fields).encode(), "r0").history == (Former(1, LockState.SHARED, "a", "a", 5.0, ""),)


def lock_or_refused(data: bytes) -> None:
    """Nothing but LockInvalid comes of it, in words that can be printed; a lock can be shown and written again."""
    try:
        record = parse(data, "r0")
    except LockInvalid as bad:
        assert 0 < len(str(bad).encode()) < 300
        return
    for at in (record.time, *(one.time for one in record.history)):
        assert time.strftime("%Y", time.gmtime(at)) >= "1970"
    assert parse(record.to_bytes(), "r0") == record


@given(JSON | st.dictionaries(st.sampled_from([*json.loads(FIRST.to_bytes()), "x"]), JSON))
def test_any_json_is_a_lock_or_refused(value: object) -> None:
    lock_or_refused(json.dumps(value).encode())


@given(st.sampled_from(sorted(json.loads(FIRST.to_bytes()))), JSON)
def test_a_lock_with_anything_in_one_place_is_a_lock_or_refused(name: str, value: object) -> None:
    lock_or_refused(json.dumps({**json.loads(FIRST.to_bytes()), name: value}).encode())


@given(st.sampled_from(sorted(HISTORIC)), JSON)
def test_a_former_version_with_anything_in_one_place_is_one_or_refused(name: str, value: object) -> None:
    fields = {**json.loads(FIRST.to_bytes()), "history": [{**HISTORIC, name: value}]}
    lock_or_refused(json.dumps(fields).encode())


@pytest.mark.parametrize("missing", ["format", "state", "owner", "epoch", "attempt_id", "writer", "resource"])
def test_a_lock_that_lacks_a_field_is_refused(missing: str) -> None:
    fields = json.loads(FIRST.to_bytes())
    del fields[missing]
    with pytest.raises(LockInvalid):
        parse(json.dumps(fields).encode(), "r0")


GARBAGE = [
    b"UNLOCKED",
    b"[]",
    b"null",
    b"<html>",
    b"x" * (LARGEST_BYTES + 1),
    b"[" * 9000,
    b'{"format": ' + b"[" * 9000,
]


@given(st.binary(max_size=200) | st.sampled_from(GARBAGE))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(LockInvalid):
        parse(data, "r0")
