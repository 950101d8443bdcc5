"""From a history to what a person looks at: rows for the terminal, and one self-contained picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from lab.scenario.history import Event
from lab.scenario.observed import NODES, faults

SLOT_S = 0.1  # acknowledgements are counted per 100 ms
ROW_S = 0.5
NOBODY: Mapping[str, str] = {}
STOPPED = {"power_loss": "off", "freeze": "paused"}  # what a fault makes of a node at once
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Span:
    """A state of a lane, from `start_s` to `end_s` (seconds since the history began)."""

    start_s: float
    end_s: float
    state: str


@dataclass(frozen=True)
class Mark:
    """Something that happened at one moment."""

    at_s: float
    text: str
    bad: bool = False


@dataclass(frozen=True)
class Timeline:
    """A history in lanes: the roles of both nodes, the lock, acknowledgements per 100 ms, and the longest gap."""

    length_s: float
    roles: Mapping[str, tuple[Span, ...]]
    lock: tuple[Span, ...]
    acks: tuple[int, ...]
    gap: Span | None
    marks: tuple[Mark, ...]
    stopped_s: float
    """When the client stopped, the end of the history unless it did."""


@dataclass(frozen=True)
class Row:
    """Half a second of a history; `acks` is one count for each 100 ms."""

    at_s: float
    roles: Mapping[str, str]
    lock: str
    acks: tuple[int, ...]
    gap_s: float
    """Seconds without an acknowledgement up to the end of this row, 0 when there was one in it."""
    marks: tuple[str, ...]

    def __str__(self) -> str:
        states = "  ".join(f"{node} {role:<9}" for node, role in self.roles.items())
        gap = f"{self.gap_s:5.1f} s gap" if self.gap_s >= 2 * ROW_S else " " * 11
        seen = f"lock {self.lock:<11}  {bars(self.acks):<5}  {gap}"
        return f"{self.at_s:6.1f} s  {states}  {seen}  {', '.join(self.marks)}".rstrip()


def timeline(events: Sequence[Event], owners: Mapping[str, str] = NOBODY) -> Timeline:
    """Return the lanes of a history (or of what there is of it so far); an empty one has length 0.

    Args:
        owners: which node a lock owner's UUID belongs to.
    """
    told = [event for event in events if event.kind not in ("follow", "clock")]
    begun = next((e.t for e in told if e.source == "scenario" and e.kind == "begin"), told[0].t if told else 0.0)
    told = [event for event in told if event.t >= begun or event.source in (*NODES, "store")]
    end = max((event.t for event in told), default=begun)
    length = max(0.0, end - begun)
    moments = [event.t - begun for event in told if event.source == "client" and event.kind == "ack"]
    stopped = [event.t - begun for event in told if event.source == "client" and event.kind == "stop"]
    slots = [0] * (int(length / SLOT_S) + 1)
    for moment in moments:
        slots[min(len(slots) - 1, max(0, int(moment / SLOT_S)))] += 1
    return Timeline(
        length_s=length,
        roles={node: _spans(_role_changes(told, node), begun, length) for node in NODES},
        lock=_spans(_lock_changes(told, owners), begun, length),
        acks=tuple(slots),
        gap=_gap(moments, stopped[-1:] or [length]),
        marks=tuple(_marks(told, begun)),
        stopped_s=(stopped[-1:] or [length])[0],
    )


def rows(events: Sequence[Event], owners: Mapping[str, str] = NOBODY) -> list[Row]:
    """Return a history as rows of half a second each; the last one may still be growing."""
    whole = timeline(events, owners)
    per_row = round(ROW_S / SLOT_S)
    found: list[Row] = []
    silent, begun = 0, False
    for number in range(0, len(whole.acks), per_row):
        counts = whole.acks[number : number + per_row]
        begun = begun or any(counts)
        at, end = number * SLOT_S, (number + per_row) * SLOT_S
        silent = 0 if any(counts) or not begun or at >= whole.stopped_s else silent + len(counts)
        marks = tuple(mark.text for mark in whole.marks if at <= mark.at_s < end)
        roles = {node: state_at(spans, end) for node, spans in whole.roles.items()}
        found.append(Row(at, roles, state_at(whole.lock, end), counts, silent * SLOT_S, marks))
    return found


def text(events: Sequence[Event], owners: Mapping[str, str] = NOBODY) -> list[str]:
    """Return the lines that show a history in a terminal, the longest gap last."""
    whole = timeline(events, owners)
    lines = [str(row) for row in rows(events, owners)]
    if whole.gap:
        lines.append(
            f"longest gap: {_length(whole.gap):.2f} s, from {whole.gap.start_s:.2f} s to {whole.gap.end_s:.2f} s"
        )
    return lines


def bars(counts: Iterable[int]) -> str:
    """Return one block character for each count; the highest block stands for 8 and more."""
    return "".join(BARS[min(count, len(BARS) - 1)] for count in counts)


def state_at(spans: Sequence[Span], at_s: float) -> str:
    """Return the state of a lane at the end of everything before `at_s`, "-" where nothing is known."""
    known = [span.state for span in spans if span.start_s < at_s]
    return known[-1] if known else "-"


def _length(span: Span) -> float:
    return span.end_s - span.start_s


def _role_changes(events: Sequence[Event], node: str) -> list[tuple[float, str]]:
    changes: list[tuple[float, str]] = []
    for event in events:
        if event.source == node and event.kind == "drbd" and event.text("object") == "resource" and event.text("role"):
            frozen = event.text("suspended") not in ("", "no")
            changes.append((event.t, "frozen" if frozen else event.text("role")))
        elif event.source == node and event.kind == "lost" and event.text("stream") == "events2":
            changes.append((event.t, "off"))
        elif faults([event]) and event.text("node") == node and event.text("name") in STOPPED:
            changes.append((event.t, STOPPED[event.text("name")]))
    return changes


def _lock_changes(events: Sequence[Event], owners: Mapping[str, str]) -> list[tuple[float, str]]:
    changes: list[tuple[float, str]] = []
    for event in events:
        lock = event.data.get("after")
        if event.source == "store" and isinstance(lock, Mapping) and lock.get("state"):
            state, owner = str(lock["state"]), str(lock.get("owner") or "")
            changes.append((event.t, state if state == "SHARED" else f"{state} {owners.get(owner, owner[:8])}".strip()))
    return changes


def _spans(changes: Sequence[tuple[float, str]], begun: float, length: float) -> tuple[Span, ...]:
    spans: list[Span] = []
    for t, state in changes:
        at = min(max(0.0, t - begun), length)
        if spans and spans[-1].state == state:
            continue
        if spans:
            spans[-1] = Span(spans[-1].start_s, at, spans[-1].state)
        spans.append(Span(at, length, state))
    return tuple(span for span in spans if _length(span) > 0)


def _gap(moments: Sequence[float], stopped: Sequence[float]) -> Span | None:
    """Return the longest time between two acknowledgements, or after the last one until the client stopped."""
    ends = [*moments, *stopped]
    pairs = [(late - early, early, late) for early, late in pairwise(ends)]
    if not moments or not pairs:
        return None
    _, early, late = max(pairs)
    return Span(early, late, "gap")


def _marks(events: Sequence[Event], begun: float) -> Iterable[Mark]:
    for fault in faults(events):
        yield Mark(fault.t - begun, f"{fault.text('name').replace('_', ' ')} of {fault.text('node')}", bad=True)
    for event in events:
        if event.source == "scenario" and event.kind == "heal":
            yield Mark(event.t - begun, f"{event.text('node')} healed")
        if event.source in NODES and event.kind == "drbd" and event.text("helper") == "fence-peer":
            yield Mark(event.t - begun, f"{event.text('helper')} {event.text('change')} on {event.source}")


# The picture: seconds to the right, one lane below the other. Colours are told apart in shades of grey, too.
WIDTH, LEFT, RIGHT, TOP, LANE, STEP = 960, 70, 20, 58, 30, 44
CURVE = 90  # height of the acknowledgements' lane
FILL = {"Primary": "#2f6f4f", "Secondary": "#b9cfc2", "frozen": "#c98b1b", "paused": "#8a8a8a", "off": "#4a4a4a"}
LOCKED, SHARED, UNKNOWN = "#8a4f9e", "#dcc9e4", "#e6e6e6"
LIGHT_TEXT = {"Primary", "off", "paused", "frozen"}


def svg(events: Sequence[Event], owners: Mapping[str, str] = NOBODY, *, title: str = "One power loss") -> str:
    """Return a history as one self-contained SVG document: lanes for n1, n2, store and client, the gap in seconds."""
    whole = timeline(events, owners)
    scale = (WIDTH - LEFT - RIGHT) / (whole.length_s or 1.0)
    height = TOP + 3 * STEP + CURVE + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="600" fill="#222">{escape(title)}</text>',
    ]
    for number, (name, spans) in enumerate([*whole.roles.items(), ("store", whole.lock)]):
        parts += _lane(name, spans, TOP + number * STEP, scale)
    top = TOP + 3 * STEP
    parts += _client(whole, top, scale)
    parts += _axis(whole.length_s, top + CURVE, scale)
    for mark in (mark for mark in whole.marks if mark.bad):
        x = _x(mark.at_s, scale)
        parts.append(f'<line x1="{x}" y1="44" x2="{x}" y2="{top + CURVE}" stroke="#b3261e" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x}" y="42" fill="#b3261e" text-anchor="middle">{escape(mark.text)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(at_s: float, scale: float) -> str:
    return f"{LEFT + at_s * scale:.1f}"


def _lane(name: str, spans: Sequence[Span], y: int, scale: float) -> list[str]:
    parts = [f'<text x="{LEFT - 10}" y="{y + 19}" text-anchor="end" fill="#222">{escape(name)}</text>']
    for span in spans:
        width = _length(span) * scale
        own = SHARED if span.state == "SHARED" else LOCKED if name == "store" else UNKNOWN
        parts.append(
            f'<rect x="{_x(span.start_s, scale)}" y="{y}" width="{width:.1f}" height="{LANE}" '
            f'fill="{FILL.get(span.state, own)}" stroke="#ffffff"><title>{escape(span.state)}</title></rect>'
        )
        if width >= 8 * len(span.state):
            light = span.state in LIGHT_TEXT or (name == "store" and span.state != "SHARED")
            parts.append(
                f'<text x="{LEFT + (span.start_s + _length(span) / 2) * scale:.1f}" y="{y + 19}" text-anchor="middle" '
                f'fill="{"#ffffff" if light else "#222222"}">{escape(span.state)}</text>'
            )
    return parts


def _client(whole: Timeline, top: int, scale: float) -> list[str]:
    base, highest = top + CURVE, max(whole.acks, default=0) or 1
    parts = [
        f'<text x="{LEFT - 10}" y="{top + CURVE - 4}" text-anchor="end" fill="#222">client</text>',
        f'<text x="{LEFT - 10}" y="{top + 22}" text-anchor="end" fill="#666" font-size="10">{highest}/100 ms</text>',
    ]
    for number, count in enumerate(whole.acks):
        if count:
            tall = count / highest * (CURVE - 16)
            parts.append(
                f'<rect x="{_x(number * SLOT_S, scale)}" y="{base - tall:.1f}" '
                f'width="{max(0.8, SLOT_S * scale - 0.3):.1f}" height="{tall:.1f}" fill="#2b5c9b"/>'
            )
    if whole.gap and _length(whole.gap) >= 2 * SLOT_S:
        left, right, y = _x(whole.gap.start_s, scale), _x(whole.gap.end_s, scale), top + CURVE // 2
        middle = LEFT + (whole.gap.start_s + whole.gap.end_s) / 2 * scale
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#b3261e" stroke-width="1.5"/>')
        for end in (left, right):
            parts.append(f'<line x1="{end}" y1="{y - 7}" x2="{end}" y2="{y + 7}" stroke="#b3261e" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{middle:.1f}" y="{y - 8}" text-anchor="middle" font-weight="600" fill="#b3261e" class="gap">'
            f"{_length(whole.gap):.2f} s</text>"
        )
    return parts


def _axis(length_s: float, y: int, scale: float) -> list[str]:
    parts = [f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#888"/>']
    tick = next((step for step in (1, 2, 5, 10, 20, 30, 60) if length_s / step <= 15), 300)
    for second in range(0, int(length_s) + 1, tick):
        x = _x(second, scale)
        parts.append(f'<line x1="{x}" y1="{y}" x2="{x}" y2="{y + 5}" stroke="#888"/>')
        parts.append(f'<text x="{x}" y="{y + 19}" text-anchor="middle" fill="#555">{second} s</text>')
    return parts
