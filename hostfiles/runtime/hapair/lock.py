"""The lock object: its form, its lawful changes, and what it means to a node. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from enum import Enum

VERSION = 1
LARGEST_BYTES = 16384


class LockState(Enum):
    """SHARED: both replicas hold every acknowledged write. SOLO: only the owner's does. STEALING: an override runs."""

    SHARED = "SHARED"
    SOLO = "SOLO"
    STEALING = "STEALING"


class LockInvalid(Exception):
    """What the store holds is not this resource's lock; it counts as unknown, never as free."""


@dataclass(frozen=True)
class LockRecord:
    """One version of the lock object.

    `owner` is the node whose replica is named current (SOLO), or that promoted or released last (SHARED).
    `writer` is the node that wrote this version: it differs from the owner after a hand-over.
    `epoch` grows with every version. `attempt_id` tells whose write this is after a lost reply (F9).
    `time` is wall seconds, for people only: no decision reads it.
    """

    resource: str
    state: LockState
    owner: str
    epoch: int
    attempt_id: str
    writer: str
    generation: str = ""
    time: float = 0.0

    def to_bytes(self) -> bytes:
        """Return the JSON text that the store keeps."""
        fields = asdict(self)
        fields["state"] = self.state.value
        return json.dumps({"version": VERSION, **fields}, sort_keys=True).encode()


def parse(data: bytes, resource: str) -> LockRecord:
    """Read a lock object.

    Raises:
        LockInvalid: garbage, a later version, or the lock of another resource.
    """
    if len(data) > LARGEST_BYTES:
        raise LockInvalid("the object is too large to be a lock")
    try:
        fields = json.loads(data)
        if fields["version"] != VERSION:
            raise LockInvalid(f"lock object of version {fields['version']!r}; this program knows {VERSION}")
        record = LockRecord(
            resource=str(fields["resource"]),
            state=LockState(fields["state"]),
            owner=str(fields["owner"]),
            epoch=int(fields["epoch"]),
            attempt_id=str(fields["attempt_id"]),
            writer=str(fields["writer"]),
            generation=str(fields.get("generation", "")),
            time=float(fields.get("time", 0.0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as bad:
        raise LockInvalid(f"not a lock object ({type(bad).__name__}: {bad})") from None
    if record.resource != resource:
        raise LockInvalid(f"this is the lock of resource {record.resource!r}, not of {resource!r}")
    if record.epoch < 0 or not record.owner or not record.attempt_id:
        raise LockInvalid("a lock object without owner, epoch or attempt")
    return record


def first(resource: str, *, me: str, attempt_id: str, time: float) -> LockRecord:
    """Return the first version, which only `init` writes, with both sides UpToDate."""
    return LockRecord(resource, LockState.SHARED, me, 1, attempt_id, me, time=time)


def solo(before: LockRecord, *, owner: str, writer: str, attempt_id: str, time: float) -> LockRecord:
    """Return the version after `before` that names `owner` as the only current replica."""
    return replace(
        before,
        state=LockState.SOLO,
        owner=owner,
        writer=writer,
        epoch=before.epoch + 1,
        attempt_id=attempt_id,
        time=time,
    )


def shared(before: LockRecord, *, writer: str, attempt_id: str, time: float) -> LockRecord:
    """Return the version after `before` that says both replicas are current (a release, or a promotion record)."""
    return replace(
        before,
        state=LockState.SHARED,
        owner=writer,
        writer=writer,
        epoch=before.epoch + 1,
        attempt_id=attempt_id,
        time=time,
    )


def held_by(record: LockRecord, node: str) -> bool:
    """True when `record` is SOLO and names `node`."""
    return record.state is LockState.SOLO and record.owner == node


def closed_to(record: LockRecord, node: str) -> bool:
    """True when `record` forbids `node` to serve alone: SOLO of another node, or an override in progress."""
    return record.state is LockState.STEALING or (record.state is LockState.SOLO and record.owner != node)
