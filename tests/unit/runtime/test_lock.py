"""The lock object."""

from __future__ import annotations

import json

import pytest
from hapair.lock import LARGEST_BYTES, LockInvalid, LockState, closed_to, first, held_by, parse, shared, solo
from hypothesis import given
from hypothesis import strategies as st

FIRST = first("r0", me="a", attempt_id="1", time=5.0)


def test_round_trip() -> None:
    record = solo(FIRST, owner="b", writer="a", attempt_id="2", time=6.5)
    assert parse(record.to_bytes(), "r0") == record


def test_every_change_is_a_new_epoch() -> None:
    taken = solo(FIRST, owner="a", writer="a", attempt_id="2", time=6.0)
    freed = shared(taken, writer="a", attempt_id="3", time=7.0)
    assert [FIRST.epoch, taken.epoch, freed.epoch] == [1, 2, 3]
    assert [FIRST.state, taken.state, freed.state] == [LockState.SHARED, LockState.SOLO, LockState.SHARED]


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
        {"version": 2},
        {"state": "UNLOCKED"},
        {"epoch": -1},
        {"epoch": "many"},
        {"owner": ""},
        {"attempt_id": ""},
        {"resource": "r1"},
    ],
)
def test_what_is_not_this_lock_is_refused(change: dict[str, object]) -> None:
    fields = {**json.loads(FIRST.to_bytes()), **change}
    with pytest.raises(LockInvalid):
        parse(json.dumps(fields).encode(), "r0")


@pytest.mark.parametrize("missing", ["version", "state", "owner", "epoch", "attempt_id", "writer", "resource"])
def test_a_lock_that_lacks_a_field_is_refused(missing: str) -> None:
    fields = json.loads(FIRST.to_bytes())
    del fields[missing]
    with pytest.raises(LockInvalid):
        parse(json.dumps(fields).encode(), "r0")


@given(st.binary(max_size=200) | st.sampled_from([b"UNLOCKED", b"[]", b"null", b"<html>", b"x" * (LARGEST_BYTES + 1)]))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(LockInvalid):
        parse(data, "r0")
