"""The lock object: its form, its lawful changes, and what it means to a node. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any, Mapping, Tuple

FORMAT = 1
"""The form of the object that this program writes, and the only one that it reads."""
LARGEST_BYTES = 16384
HISTORY = 20
"""Former versions that a lock object keeps."""
SCHEMA = re.compile(r"local (\d+), global (\d+)")
"""How a lock tells the versions of LXD's databases."""
LARGEST_EPOCH = 2**53
"""JSON's numbers are exact to there."""
LARGEST_TIME = 253402300800.0
"""The year 10000, in wall seconds: the last that a date can show."""
REASON_BYTES = 200
"""Longest reason kept, so that a whole history stays below LARGEST_BYTES."""


class LockState(Enum):
    """SHARED: both replicas hold every acknowledged write. SOLO: only the owner's does. STEALING: an override runs."""

    SHARED = "SHARED"
    SOLO = "SOLO"
    STEALING = "STEALING"


@dataclass(frozen=True)
class Claim:
    """What a node that is about to serve says of its LXD: its schema ("": unknown), and whether a person insists."""

    schema: str = ""
    anyway: bool = False

    def too_old(self, record: LockRecord) -> bool:
        """True when a newer LXD served last: this one could not open its databases."""
        return not self.anyway and ahead(record.schema, self.schema)


class LockInvalid(Exception):
    """What the store holds is not this resource's lock; it counts as unknown, never as free."""


@dataclass(frozen=True)
class Former:
    """What is kept of a former version of the lock; for people only."""

    epoch: int
    state: LockState
    owner: str
    writer: str
    time: float
    reason: str


@dataclass(frozen=True)
class LockRecord:
    """One version of the lock object.

    `owner` is the node whose replica is named current (SOLO), or that promoted or released last (SHARED).
    `writer` is the node that wrote this version: it differs from the owner after a hand-over. `stays` says that this
    writer does not leave (any more): the owner may give the lock back.
    `epoch` grows with every version. `attempt_id` tells whose write this is after a lost reply (F9).
    `schema` is that of the LXD which served last, as the node told when it was promoted; empty: none told.
    `time` (wall seconds), `reason` and `history` (the last versions before this one, oldest first) are for people only:
    no decision reads them.
    """

    resource: str
    state: LockState
    owner: str
    epoch: int
    attempt_id: str
    writer: str
    generation: str = ""
    schema: str = ""
    stays: bool = False
    time: float = 0.0
    reason: str = ""
    history: Tuple[Former, ...] = ()

    def to_bytes(self) -> bytes:
        """Return the JSON text that the store keeps."""
        return json.dumps(
            {"format": FORMAT, **asdict(self)}, sort_keys=True, ensure_ascii=False, default=_word
        ).encode()


def parse(data: bytes, resource: str) -> LockRecord:
    """Read a lock object.

    Raises:
        LockInvalid: garbage, another format, or the lock of another resource.
    """
    if len(data) > LARGEST_BYTES:
        raise LockInvalid("the object is too large to be a lock")
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as bad:
        raise LockInvalid(f"not a lock object: no JSON ({type(bad).__name__})") from None
    if not isinstance(fields, dict):
        raise LockInvalid("not a lock object: no JSON object")
    form = fields.get("format")
    if isinstance(form, (bool, float)) or form != FORMAT:
        told = form if isinstance(form, (int, str)) else type(form).__name__
        raise LockInvalid(
            f"lock object of format {told!a:.40}, but this program knows only {FORMAT}: "
            "install the hapair that wrote it on this node too"
        )
    history = fields.get("history", [])
    if not isinstance(history, list) or not all(isinstance(one, dict) for one in history):
        raise LockInvalid("not a lock object: its history is no list of versions")
    record = LockRecord(
        resource=_text(fields, "resource"),
        state=_state(fields),
        owner=_text(fields, "owner"),
        epoch=_epoch(fields),
        attempt_id=_text(fields, "attempt_id"),
        writer=_text(fields, "writer"),
        generation=_text({"generation": "", **fields}, "generation"),
        schema=_text({"schema": "", **fields}, "schema"),
        stays=fields.get("stays") is True,
        time=_time({"time": 0.0, **fields}),
        reason=_text({"reason": "", **fields}, "reason"),
        history=tuple(_former(one) for one in history),
    )
    if record.resource != resource:
        raise LockInvalid(f"this is the lock of resource {record.resource!a:.80}, not of {resource!r}")
    if not record.owner or not record.attempt_id:
        raise LockInvalid("a lock object without owner or attempt")
    return record


def _former(fields: Mapping[str, Any]) -> Former:
    return Former(
        epoch=_epoch(fields),
        state=_state(fields),
        owner=_text(fields, "owner"),
        writer=_text(fields, "writer"),
        time=_time(fields),
        reason=_text(fields, "reason"),
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    # Half a surrogate pair can be neither printed nor written again.
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise LockInvalid(f"not a lock object: its {name} is no text")
    return value


def _epoch(fields: Mapping[str, Any]) -> int:
    value = fields.get("epoch")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < LARGEST_EPOCH:
        raise LockInvalid("not a lock object: its epoch is no version number")
    return value


def _time(fields: Mapping[str, Any]) -> float:
    value = fields.get("time")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < LARGEST_TIME:
        raise LockInvalid("not a lock object: its time is no time")
    return float(value)


def _state(fields: Mapping[str, Any]) -> LockState:
    try:
        return LockState(fields.get("state"))
    except ValueError:
        raise LockInvalid("not a lock object: its state is none of " + ", ".join(s.value for s in LockState)) from None


def _short(reason: str) -> str:
    """Return what a person wrote, so cut that JSON makes at most twice as many bytes of it (a quote: two)."""
    plain = "".join(char if char.isprintable() else " " for char in reason)
    return plain.encode()[:REASON_BYTES].decode(errors="ignore")


def _word(state: LockState) -> str:
    return state.value


def first(resource: str, *, me: str, attempt_id: str, time: float, epoch: int = 1) -> LockRecord:
    """Return the first version, which only `init` writes, with both sides UpToDate."""
    return LockRecord(resource, LockState.SHARED, me, epoch, attempt_id, me, time=time, reason="created")


def after(
    before: LockRecord,
    state: LockState,
    *,
    owner: str,
    writer: str,
    attempt_id: str,
    time: float,
    reason: str = "",
    schema: str = "",
    stays: bool = False,
) -> LockRecord:
    """Return the version after `before`: the next epoch, with `before` as the youngest of its history.

    Without a `schema` that of `before` stays.
    """
    former = Former(before.epoch, before.state, before.owner, before.writer, before.time, before.reason)
    return replace(
        before,
        state=state,
        owner=owner,
        writer=writer,
        epoch=before.epoch + 1,
        attempt_id=attempt_id,
        time=time,
        reason=_short(reason),
        schema=schema or before.schema,
        stays=stays,
        history=(*before.history, former)[-HISTORY:],
    )


def solo(before: LockRecord, *, owner: str, writer: str, attempt_id: str, time: float, reason: str = "") -> LockRecord:
    """Return the version after `before` that names `owner` as the only current replica."""
    return after(before, LockState.SOLO, owner=owner, writer=writer, attempt_id=attempt_id, time=time, reason=reason)


def shared(before: LockRecord, *, writer: str, attempt_id: str, time: float, reason: str = "") -> LockRecord:
    """Return the version after `before` that says both replicas are current (a release, or a promotion record)."""
    return after(before, LockState.SHARED, owner=writer, writer=writer, attempt_id=attempt_id, time=time, reason=reason)


def held_by(record: LockRecord, node: str) -> bool:
    """True when `record` is SOLO and names `node`."""
    return record.state is LockState.SOLO and record.owner == node


def handed_to(record: LockRecord, node: str) -> bool:
    """True when `record` is a hand-over to `node` whose writer may be about to leave: no time for a release."""
    return held_by(record, node) and record.writer != node and not record.stays


def closed_to(record: LockRecord, node: str) -> bool:
    """True when `record` forbids `node` to serve alone: SOLO of another node, or an override in progress."""
    return record.state is LockState.STEALING or (record.state is LockState.SOLO and record.owner != node)


def ahead(one: str, other: str) -> bool:
    """True when a database of schema `one` is newer than `other` ("local 42, global 60"); unknown ones never are."""
    known = [SCHEMA.fullmatch(text) for text in (one, other)]
    (ours, theirs) = ([int(number) for number in found.groups()] if found else [0, 0] for found in known)
    return None not in known and (ours[0] > theirs[0] or ours[1] > theirs[1])
