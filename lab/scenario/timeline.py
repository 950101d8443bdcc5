"""A history for a person: rows for the terminal, and one self-contained picture. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lab.scenario.history import Event
from lab.scenario.lanes import SLOT_S, Span, Timeline, state_at, timeline

ROW_S = 0.5
BARS = " ▁▂▃▄▅▆▇█"
SHOWN = ("fault", "heal", "fence")  # the marks that fit into a row


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


def rows(events: Sequence[Event]) -> list[Row]:
    """Return a history as rows of half a second each; the last one may still be growing."""
    whole = timeline(events)
    per_row = round(ROW_S / SLOT_S)
    found: list[Row] = []
    silent, begun = 0, False
    for number in range(0, len(whole.acks), per_row):
        counts = whole.acks[number : number + per_row]
        begun = begun or any(counts)
        at, end = number * SLOT_S, (number + per_row) * SLOT_S
        silent = 0 if any(counts) or not begun or at >= whole.stopped_s else silent + len(counts)
        marks = tuple(mark.text for mark in whole.marks if mark.kind in SHOWN and at <= mark.at_s < end)
        roles = {node: state_at(lanes.role, end) for node, lanes in whole.nodes.items()}
        found.append(Row(at, roles, state_at(whole.lock, end), counts, silent * SLOT_S, marks))
    return found


def text(events: Sequence[Event]) -> list[str]:
    """Return the lines that show a history in a terminal, the longest gap last."""
    whole = timeline(events)
    lines = [str(row) for row in rows(events)]
    if whole.gap:
        lines.append(
            f"longest gap: {whole.gap.length_s:.2f} s, from {whole.gap.start_s:.2f} s to {whole.gap.end_s:.2f} s"
        )
    return lines


def bars(counts: Iterable[int]) -> str:
    """Return one block character for each count; the highest block stands for 8 and more."""
    return "".join(BARS[min(count, len(BARS) - 1)] for count in counts)


# The picture: seconds to the right, one lane below the other. Colours are told apart in shades of grey, too.
WIDTH, LEFT, RIGHT, TOP, LANE, STEP = 960, 70, 20, 58, 30, 44
CURVE = 90  # height of the acknowledgements' lane
FILL = {"Primary": "#2f6f4f", "Secondary": "#b9cfc2", "frozen": "#c98b1b", "paused": "#8a8a8a", "off": "#4a4a4a"}
LOCKED, SHARED, UNKNOWN = "#8a4f9e", "#dcc9e4", "#e6e6e6"
LIGHT_TEXT = {"Primary", "off", "paused", "frozen"}


def svg(events: Sequence[Event], *, title: str = "One power loss") -> str:
    """Return a history as one self-contained SVG document: lanes for n1, n2, store and client, the gap in seconds."""
    whole = timeline(events)
    scale = (WIDTH - LEFT - RIGHT) / (whole.length_s or 1.0)
    height = TOP + 3 * STEP + CURVE + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" font-weight="600" fill="#222">{escape(title)}</text>',
    ]
    lanes = [*((node, lanes.role) for node, lanes in whole.nodes.items()), ("store", whole.lock)]
    for number, (name, spans) in enumerate(lanes):
        parts += _lane(name, spans, TOP + number * STEP, scale)
    top = TOP + 3 * STEP
    parts += _client(whole, top, scale)
    parts += _axis(whole.length_s, top + CURVE, scale)
    for mark in (mark for mark in whole.marks if mark.kind == "fault"):
        x = _x(mark.at_s, scale)
        parts.append(f'<line x1="{x}" y1="44" x2="{x}" y2="{top + CURVE}" stroke="#b3261e" stroke-dasharray="4 3"/>')
        parts.append(f'<text x="{x}" y="42" fill="#b3261e" text-anchor="middle">{escape(mark.text)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(at_s: float, scale: float) -> str:
    return f"{LEFT + at_s * scale:.1f}"


def _lane(name: str, spans: Sequence[Span], y: int, scale: float) -> list[str]:
    parts = [f'<text x="{LEFT - 10}" y="{y + 19}" text-anchor="end" fill="#222">{escape(name)}</text>']
    for span in spans:
        width = span.length_s * scale
        own = SHARED if span.state == "SHARED" else LOCKED if name == "store" else UNKNOWN
        parts.append(
            f'<rect x="{_x(span.start_s, scale)}" y="{y}" width="{width:.1f}" height="{LANE}" '
            f'fill="{FILL.get(span.state, own)}" stroke="#ffffff"><title>{escape(span.state)}</title></rect>'
        )
        if width >= 8 * len(span.state):
            light = span.state in LIGHT_TEXT or (name == "store" and span.state != "SHARED")
            parts.append(
                f'<text x="{LEFT + (span.start_s + span.length_s / 2) * scale:.1f}" y="{y + 19}" text-anchor="middle" '
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
    if whole.gap and whole.gap.length_s >= 2 * SLOT_S:
        left, right, y = _x(whole.gap.start_s, scale), _x(whole.gap.end_s, scale), top + CURVE // 2
        middle = LEFT + (whole.gap.start_s + whole.gap.end_s) / 2 * scale
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#b3261e" stroke-width="1.5"/>')
        for end in (left, right):
            parts.append(f'<line x1="{end}" y1="{y - 7}" x2="{end}" y2="{y + 7}" stroke="#b3261e" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{middle:.1f}" y="{y - 8}" text-anchor="middle" font-weight="600" fill="#b3261e" class="gap">'
            f"{whole.gap.length_s:.2f} s</text>"
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
