"""What the invariants look at, drawn from a history: writes, answers, promotions, and the facts at the end. Pure."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.scenario.history import Event

NODES = ("n1", "n2")


@dataclass(frozen=True)
class Ack:
    """An acknowledged write: sent at `started`, answered at `t` by `boot` (wall seconds of the client)."""

    seq: int
    nonce: str
    boot: str
    started: float
    t: float

    @property
    def line(self) -> str:
        """The line that the container's list must hold."""
        return f"{self.seq} {self.nonce}"


@dataclass(frozen=True)
class Seen:
    """`who` answered a request that was sent at `started`; the answer was there at `t`."""

    who: str
    started: float
    t: float
    what: str


@dataclass(frozen=True)
class Expectation:
    """What a scenario allows, in seconds: it stands in the scenario, and is judged by I6 and I10.

    `failovers` counts promotions of a node that did not hold the role before; None allows any number.
    `fences` names the nodes whose fence-peer handler must have run, `may_fail` those where it may fail. `window_s` is
    how much later than an acknowledgement alone the lock may be (I4, I7): where a rule names such a window. `thaw_s` is
    how long a node that was paused as a whole may go on to answer (I5; never to acknowledge): until its agent runs.
    `split_brain`: the scenario forces one, so the kernel may say so, which it never may otherwise.
    """

    recovery_s: float = 30.0
    failovers: int | None = 1
    gap_s: float | None = None
    fences: tuple[str, ...] = ()
    may_fail: tuple[str, ...] = ()
    window_s: float = 0.0
    thaw_s: float = 0.0
    split_brain: bool = False


@dataclass(frozen=True)
class NodeFacts:
    """One node at the end; None where it could not be asked."""

    role: str | None = None
    disk: str | None = None
    connection: str | None = None
    peer_disk: str | None = None
    out_of_sync: int | None = None
    suspended: str | None = None
    failed_units: tuple[str, ...] | None = None
    leftovers: tuple[str, ...] | None = None
    containers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Facts:
    """Everything read at the end, before anything is torn down; None where it could not be read.

    `macs`, `owners` and `clients` tell which node a MAC address, a uuid and an address of the LAN belong to;
    `lock_name` is the lock's name in the store.
    """

    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    lines: tuple[str, ...] | None = None
    baseline: tuple[str, ...] = ()
    macs: Mapping[str, str] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    clients: Mapping[str, str] = field(default_factory=dict)
    lock_name: str = ""
    lock: Mapping[str, object] | None = None
    impairments: tuple[str, ...] | None = None
    scrub_code: int | None = None
    scrub_text: str = ""
    device_errors: Mapping[str, int] | None = None


def acks(events: Sequence[Event]) -> tuple[Ack, ...]:
    """Return every acknowledged write, in the order of their acknowledgement."""
    return tuple(
        Ack(int(e.number("seq")), e.text("nonce"), e.text("boot"), e.number("started"), e.t)
        for e in events
        if e.source == "client" and e.kind == "ack"
    )


def faults(events: Sequence[Event]) -> tuple[Event, ...]:
    """Return the faults that the scenario put in place."""
    return tuple(e for e in events if e.source == "scenario" and e.kind == "fault")


def boots(events: Sequence[Event]) -> dict[str, str]:
    """Return which node each boot id belongs to, as far as the nodes were asked."""
    return {e.text("boot"): e.source for e in events if e.kind == "boot" and e.source in NODES}


def promotions(events: Sequence[Event]) -> dict[str, list[float]]:
    """Return when each node became Primary (wall seconds, ascending).

    The state that the first dump of events2 shows is where the history starts, not a promotion; a dump of a later
    boot that shows a Primary is one, at that moment at the latest.
    """
    found: dict[str, list[float]] = {node: [] for node in NODES}
    role: dict[str, str] = {}
    boot: dict[str, str] = {}
    for event in events:
        node = event.source
        if node not in NODES:
            continue
        if event.kind == "boot":
            if boot.setdefault(node, event.text("boot")) != event.text("boot"):
                boot[node], role[node] = event.text("boot"), "rebooted"
        elif _is_role(event):
            if event.text("role") == "Primary" and role.get(node) not in (None, "Primary"):
                found[node].append(event.t)
            role[node] = event.text("role")
    return found


def _is_role(event: Event) -> bool:
    # connections carry the peer's role; only a resource carries the node's own
    return event.kind == "drbd" and event.text("object") == "resource" and bool(event.text("role"))


def takeovers(events: Sequence[Event]) -> list[tuple[float, str]]:
    """Return (when, node) of each promotion of a node that was not the last one to be Primary."""
    holder = ""
    moved: list[tuple[float, str]] = []
    for event in events:
        if event.source in NODES and _is_role(event) and event.text("role") == "Primary":
            if holder and event.source != holder:
                moved.append((event.t, event.source))
            holder = event.source
    return moved


def gaps(events: Sequence[Event], stream: str) -> dict[str, list[tuple[float, float]]]:
    """Return for each node the spans of wall time in which nobody followed that stream of it."""
    lost: dict[str, float] = {node: float("-inf") for node in NODES}
    spans: dict[str, list[tuple[float, float]]] = {node: [] for node in NODES}
    for event in events:
        if event.source not in NODES or event.text("stream") != stream:
            continue
        if event.kind == "follow" and event.source in lost:
            spans[event.source].append((lost.pop(event.source), event.t))
        if event.kind == "lost":
            lost.setdefault(event.source, event.t)
    for node, since in lost.items():
        spans[node].append((since, float("inf")))
    return spans


def first_after(moments: Sequence[float], t: float) -> float | None:
    """Return the first of ascending `moments` that is later than `t`, or None."""
    place = bisect.bisect_right(moments, t)
    return moments[place] if place < len(moments) else None
