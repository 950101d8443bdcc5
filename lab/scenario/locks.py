"""What the lock was and what each replica saw, drawn from a history: commits, exchanges, spans of redundancy. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.scenario.history import Event
from lab.scenario.observed import NODES, Ack, acks, boots


@dataclass(frozen=True)
class Version:
    """One version of a lock; `owner` and `writer` are uuids."""

    state: str
    owner: str
    writer: str
    epoch: int
    attempt: str

    @classmethod
    def of(cls, found: object) -> Version | None:
        """Read what a log shows of a lock; None: that was no lock."""
        if not isinstance(found, Mapping) or not isinstance(found.get("epoch"), int):
            return None
        state, owner, writer, attempt = (str(found.get(key, "")) for key in ("state", "owner", "writer", "attempt_id"))
        return cls(state, owner, writer, int(found["epoch"]), attempt)

    def __str__(self) -> str:
        return f"{self.state} of {self.owner[:8]}, epoch {self.epoch}, written by {self.writer[:8]}"


@dataclass(frozen=True)
class Commit:
    """A change that the store has made: its own log, on the clock of the client's node."""

    t: float
    name: str
    before: Version | None
    after: Version


@dataclass(frozen=True)
class Exchange:
    """One request as the proxy saw it: it came at `came` and was answered at `t` (wall seconds)."""

    t: float
    came: float
    client: str
    name: str
    asked: Version | None
    told: Version | None
    rule: str
    stored: int


@dataclass(frozen=True)
class Span:
    """A time in which a node saw both replicas current (True), not (False), or nobody knows (None)."""

    start: float
    end: float
    current: bool | None


def commits(events: Sequence[Event]) -> tuple[Commit, ...]:
    """Return every change of a lock object, in the order in which the store made them."""
    found: list[Commit] = []
    for event in events:
        if event.source != "store" or event.kind != "request" or event.text("method") != "PUT":
            continue
        after = Version.of(event.data.get("after"))
        if event.number("status") in (200, 201) and after is not None:
            found.append(Commit(event.t, event.text("name"), Version.of(event.data.get("before")), after))
    return tuple(found)


def exchanges(events: Sequence[Event]) -> tuple[Exchange, ...]:
    """Return every request that the proxy answered, or did not."""
    return tuple(
        Exchange(
            event.t,
            event.number("came"),
            event.text("client"),
            event.text("name"),
            Version.of(event.data.get("asked")),
            Version.of(event.data.get("told")),
            event.text("rule"),
            int(event.number("store")),
        )
        for event in events
        if event.source == "store" and event.kind == "proxy"
    )


def solo_spans(made: Sequence[Commit], owner: str) -> list[tuple[float, float]]:
    """Return the spans of time in which the lock in force was SOLO of `owner`."""
    ends = [commit.t for commit in made[1:]] + [math.inf]
    return [
        (commit.t, end)
        for commit, end in zip(made, ends, strict=False)
        if commit.after.state == "SOLO" and commit.after.owner == owner
    ]


WANTED = {"connection": "Connected", "peer-disk": "UpToDate", "disk": "UpToDate"}
PEER = ("connection", "peer-disk")
OBJECTS = {"connection": ("connection",), "device": ("disk",), "peer-device": ("peer-disk",)}


def spans(events: Sequence[Event], node: str, keys: Sequence[str] = tuple(WANTED)) -> list[Span]:
    """Return what a node saw over time, by its events2: whether all of `keys` were as they should be.

    Nobody knows before its stream is followed, and from the moment on that it is lost. What is destroyed counts as
    not there.
    """
    state: dict[str, str] = {}
    found: list[Span] = []
    since, current = -math.inf, None
    for event in events:
        if event.source != node or not _changes(event, state):
            continue
        now = _current(state, keys)
        if now is not current:
            found.append(Span(since, event.t, current))
            since, current = event.t, now
    return [*found, Span(since, math.inf, current)]


def _changes(event: Event, state: dict[str, str]) -> bool:
    """Take an event into the state; False when it says nothing about it."""
    if event.kind == "lost" and event.text("stream") == "events2":
        state.clear()
        return True
    if event.kind != "drbd":
        return False
    for key in OBJECTS.get(event.text("object"), ()):
        if event.text("change") == "destroy":
            state[key] = "destroyed"
        elif event.text(key):
            state[key] = event.text(key)
    return True


def _current(state: Mapping[str, str], keys: Sequence[str]) -> bool | None:
    if any(state.get(key, WANTED[key]) != WANTED[key] for key in keys):
        return False
    return True if all(key in state for key in keys) else None


def alone(events: Sequence[Event], margin_s: float) -> tuple[list[tuple[Ack, str]], list[tuple[Ack, str]]]:
    """Return the writes acknowledged by a node that saw no current peer, and those where nobody knows.

    A write counts as alone when it was sent and answered within such a span; `margin_s` is by how much the clocks of
    client and node may differ.
    """
    node_of = boots(events)
    seen = {node: spans(events, node, PEER) for node in NODES}
    surely: list[tuple[Ack, str]] = []
    perhaps: list[tuple[Ack, str]] = []
    for ack in acks(events):
        node = node_of.get(ack.boot, "")
        states = {
            span.current
            for span in seen.get(node, [Span(-math.inf, math.inf, None)])
            if span.start - margin_s <= ack.t and span.end + margin_s >= ack.started
        }
        if True not in states:
            (surely if states == {False} else perhaps).append((ack, node))
    return surely, perhaps
