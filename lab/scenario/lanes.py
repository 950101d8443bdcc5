"""From a history to lanes: what the terminal, the picture and the page all draw. Pure.

Every moment and length is in seconds since the scenario began; what happened before is no part of a lane, except as
the state in which it starts.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lab.scenario.history import Event
from lab.scenario.observed import NODES, boots, faults

SLOT_S = 0.1  # acknowledgements are counted per 100 ms
STOPPED = {"power_loss": "off", "freeze": "paused"}  # what a fault makes of a node at once
NOBODY = "?"  # the lane of acknowledgements whose boot nobody knows
UNTOLD = ("follow", "clock", "unit")  # the recorder's own notes, and what only a recovery is measured by

Change = tuple[float, str]


@dataclass(frozen=True)
class Span:
    """A state of a lane, from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    state: str

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Mark:
    """Something that happened at one moment: on a node, in the store, to the client, or by the scenario's hand.

    `kind` is fault, heal, fence (the fence-peer handler), helper (another one), kernel, boot, lock or note.
    """

    at_s: float
    text: str
    bad: bool = False
    where: str = ""
    kind: str = "note"


@dataclass(frozen=True)
class Decision:
    """One action of a node's agent, with the rule that asked for it; `at_s` is when it ended."""

    at_s: float
    node: str
    rule: str
    action: str
    outcome: str
    why: str
    took_s: float


@dataclass(frozen=True)
class Fault:
    """A fault from its beginning until it was healed; both are the same for what happens by itself (a reboot)."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class NodeLanes:
    """What one node said of itself; `role` shows a frozen, paused or dead node as such, and not its last role."""

    role: tuple[Span, ...]
    disk: tuple[Span, ...]
    connection: tuple[Span, ...]
    suspended: tuple[Span, ...]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Timeline:
    """A history in lanes.

    `lock` and `epoch` are the fence lock's; `acks` counts acknowledged writes per 100 ms, `acks_of` those of each
    node; `unanswered` holds when a write failed; `gap` is the longest time without an acknowledgement.
    """

    begun: float
    """Wall seconds."""
    length_s: float
    nodes: Mapping[str, NodeLanes]
    lock: tuple[Span, ...]
    epoch: tuple[Span, ...]
    acks: tuple[int, ...]
    acks_of: Mapping[str, tuple[int, ...]]
    unanswered: tuple[float, ...]
    gap: Span | None
    faults: tuple[Fault, ...]
    marks: tuple[Mark, ...]
    stopped_s: float
    """When the client stopped, the end of the history unless it did."""


def timeline(events: Sequence[Event]) -> Timeline:
    """Return the lanes of a history (or of what there is of it so far); an empty one has length 0."""
    told = [event for event in events if event.kind not in UNTOLD]
    begun = next((e.t for e in told if e.source == "scenario" and e.kind == "begin"), told[0].t if told else 0.0)
    told = [event for event in told if event.t >= begun or event.source in (*NODES, "store")]
    length = max(0.0, max((event.t for event in told), default=begun) - begun)
    owners = _owners(told)
    stopped = [event.t - begun for event in told if event.source == "client" and event.kind == "stop"]
    moments = [event.t - begun for event in told if event.source == "client" and event.kind == "ack"]
    acks_of = _slots(told, begun, length)
    return Timeline(
        begun=begun,
        length_s=length,
        nodes={node: _node(told, node, begun, length) for node in NODES},
        lock=_spans(_lock_changes(told, owners), begun, length),
        epoch=_spans(_epoch_changes(told), begun, length),
        acks=tuple(sum(counts) for counts in zip(*acks_of.values(), strict=True)),
        acks_of=acks_of,
        unanswered=tuple(e.t - begun for e in told if e.source == "client" and e.kind == "fail"),
        gap=_gap(moments, stopped[-1:] or [length]),
        faults=tuple(_faults(told, begun, length)),
        marks=tuple(sorted(_marks(told, begun, owners), key=lambda mark: mark.at_s)),
        stopped_s=(stopped[-1:] or [length])[0],
    )


def state_at(spans: Sequence[Span], at_s: float) -> str:
    """Return the state of a lane at the end of everything before `at_s`, "-" where nothing is known."""
    place = bisect.bisect_left(spans, at_s, key=lambda span: span.start_s)
    return spans[place - 1].state if place else "-"


def _owners(events: Sequence[Event]) -> Mapping[str, str]:
    """Return which node a lock owner's UUID belongs to: the scenario's beginning says so."""
    begin = next((e for e in events if e.source == "scenario" and e.kind == "begin"), None)
    named = begin.data.get("owners") if begin else None
    return {uuid: str(node) for uuid, node in named.items()} if isinstance(named, Mapping) else {}


def _node(events: Sequence[Event], node: str, begun: float, length: float) -> NodeLanes:
    own = [event for event in events if event.source == node]
    return NodeLanes(
        role=_spans(_role_changes(events, node), begun, length),
        disk=_spans(_drbd_changes(own, "device", "disk"), begun, length),
        connection=_spans(_drbd_changes(own, "connection", "connection"), begun, length),
        suspended=_spans(_drbd_changes(own, "resource", "suspended"), begun, length),
        decisions=tuple(_decision(e, begun) for e in own if e.kind == "decision" and e.t >= begun),
    )


def _decision(event: Event, begun: float) -> Decision:
    rule, action, outcome, why = (event.text(key) for key in ("rule", "action", "outcome", "why"))
    took = event.number("took_s")
    return Decision(event.t - begun, event.source, rule, action, outcome, why, took if took > 0 else 0.0)


def _drbd_changes(own: Sequence[Event], thing: str, key: str) -> Iterator[Change]:
    """Yield the values of one field of a node's events; nothing is known while its events are not followed."""
    for event in own:
        if event.kind == "drbd" and event.text("object") == thing and event.text(key):
            yield event.t, event.text(key)
        elif event.kind == "lost" and event.text("stream") == "events2":
            yield event.t, ""


def _role_changes(events: Sequence[Event], node: str) -> Iterator[Change]:
    """Yield a node's states; events2 prints only the fields that changed, so the others are remembered."""
    role, suspended = "", "no"
    for event in events:
        if event.source == node and event.kind == "drbd" and event.text("object") == "resource":
            role, suspended = event.text("role") or role, event.text("suspended") or suspended
            if role:
                yield event.t, role if suspended == "no" else "frozen"
        elif event.source == node and event.kind == "lost" and event.text("stream") == "events2":
            role, suspended = "", "no"
            yield event.t, "off"
        elif faults([event]) and event.text("node") == node and event.text("name") in STOPPED:
            yield event.t, STOPPED[event.text("name")]
        elif event.source == "scenario" and event.kind == "heal" and event.text("node") == node and role:
            yield event.t, role if suspended == "no" else "frozen"


def _locks(events: Sequence[Event]) -> Iterator[tuple[Event, Mapping[str, object]]]:
    """Yield what the store held after each request for a lock (a probe's object has no state)."""
    for event in events:
        lock = event.data.get("after")
        if event.source == "store" and isinstance(lock, Mapping) and lock.get("state"):
            yield event, lock


def _lock_changes(events: Sequence[Event], owners: Mapping[str, str]) -> Iterator[Change]:
    return ((event.t, _holder(lock, owners)) for event, lock in _locks(events))


def _holder(lock: Mapping[str, object], owners: Mapping[str, str]) -> str:
    state, owner = str(lock["state"]), str(lock.get("owner") or "")
    return state if state == "SHARED" else f"{state} {owners.get(owner, owner[:8])}".strip()


def _epoch_changes(events: Sequence[Event]) -> Iterator[Change]:
    return ((event.t, str(lock["epoch"])) for event, lock in _locks(events) if lock.get("epoch") is not None)


def _spans(changes: Iterable[Change], begun: float, length: float) -> tuple[Span, ...]:
    """Return the spans between changes; a change to "" leaves a hole."""
    spans: list[Span] = []
    for t, state in changes:
        at = min(max(0.0, t - begun), length)
        if spans and spans[-1].state == state:
            continue
        if spans:
            spans[-1] = Span(spans[-1].start_s, at, spans[-1].state)
        spans.append(Span(at, length, state))
    return tuple(span for span in spans if span.state and span.length_s > 0)


def _slots(events: Sequence[Event], begun: float, length: float) -> Mapping[str, tuple[int, ...]]:
    node_of = boots(events)
    counts = {who: [0] * (int(length / SLOT_S) + 1) for who in (*NODES, NOBODY)}
    for event in events:
        if event.source == "client" and event.kind == "ack":
            slots = counts[node_of.get(event.text("boot"), NOBODY)]
            slots[min(len(slots) - 1, max(0, int((event.t - begun) / SLOT_S)))] += 1
    return {who: tuple(slots) for who, slots in counts.items()}


def _gap(moments: Sequence[float], stopped: Sequence[float]) -> Span | None:
    """Return the longest time between two acknowledgements, or after the last one until the client stopped."""
    pairs = [(late - early, early, late) for early, late in pairwise([*moments, *stopped])]
    if not moments or not pairs:
        return None
    _, early, late = max(pairs)
    return Span(early, late, "gap")


def fault_text(fault: Event) -> str:
    """Return a fault in words."""
    name, node = fault.text("name").replace("_", " "), fault.text("node")
    return f"{name} of {node}" if node else name


def _faults(events: Sequence[Event], begun: float, length: float) -> Iterator[Fault]:
    """Pair each fault with the next heal of the same name and node; a fault that never is healed is a moment."""
    heals = [event for event in events if event.source == "scenario" and event.kind == "heal"]
    for fault in faults(events):
        same = (heal for heal in heals if heal.t >= fault.t and _named(heal) == _named(fault))
        end = next(same, fault).t
        yield Fault(fault.t - begun, min(length, end - begun), fault_text(fault))


def _named(event: Event) -> tuple[str, str]:
    return event.text("name"), event.text("node")


def _marks(events: Sequence[Event], begun: float, owners: Mapping[str, str]) -> Iterator[Mark]:
    for event in events:
        at = event.t - begun
        if at < 0:
            continue
        if event.source == "scenario":
            yield from _by_hand(event, at)
        elif event.source == "store":
            yield from _by_store(event, at, owners)
        elif event.source in NODES:
            yield from _by_node(event, at)
        elif event.source == "lab" and event.kind == "unanswered":
            yield Mark(at, event.text("why"), True, "scenario")


def _by_hand(event: Event, at: float) -> Iterator[Mark]:
    if event.kind == "fault":
        yield Mark(at, fault_text(event), True, event.text("node"), "fault")
    elif event.kind == "heal":
        healed = event.text("node") or event.text("name").replace("_", " ")
        yield Mark(at, f"{healed} healed", False, event.text("node"), "heal")
    elif event.kind == "not_healed":
        yield Mark(at, f"did not heal: {event.text('why')}", True, "scenario")
    elif event.kind == "end" and event.text("error"):
        yield Mark(at, event.text("error"), True, "scenario")


def _by_store(event: Event, at: float, owners: Mapping[str, str]) -> Iterator[Mark]:
    """Yield the writes; who reads tells nothing."""
    before, after = event.data.get("before"), event.data.get("after")
    if event.text("method") in ("", "GET") or not (isinstance(after, Mapping) or isinstance(before, Mapping)):
        return
    lock = after if isinstance(after, Mapping) else {}
    status, who = event.text("status"), event.text("client")
    if not lock.get("state"):
        return
    if status.startswith("2"):
        wrote = str(lock.get("writer"))
        told = f"{_holder(lock, owners)}, epoch {lock.get('epoch')}, written by {owners.get(wrote, wrote[:8])}"
        yield Mark(at, told, False, "store", "lock")
    else:
        yield Mark(at, f"{event.text('method')} of {who} refused: {status}", True, "store", "lock")


def _by_node(event: Event, at: float) -> Iterator[Mark]:
    if event.kind == "drbd" and event.text("helper"):
        helper, change, node = event.text("helper"), event.text("change"), event.source
        yield Mark(at, f"{helper} {change} on {node}", False, node, "fence" if helper == "fence-peer" else "helper")
    elif event.kind == "kernel":
        yield Mark(at, f"kernel: {event.text('text')}", True, event.source, "kernel")
    elif event.kind == "boot" and at > 0:
        yield Mark(at, f"{event.source} answers, boot {event.text('boot')[:8]}", False, event.source, "boot")
