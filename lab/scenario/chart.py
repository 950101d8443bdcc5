"""The lanes of one scenario as boxes and pins on a page: places in per cent of the whole length. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from lab.scenario import coarse
from lab.scenario.lanes import SLOT_S, Decision, Mark, Span, Timeline

ZOOMS = (1, 2, 4, 8, 16, 32, 64)
LABELS = 20  # of pins that fit side by side at zoom 1; the style makes the chart wide enough
TICKS = 12
STEPS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
MOST = 400  # entries of a list; the logs have all of them
TELLING = ("fault", "heal", "lock", "decision")
OWN = ("decision", "fence", "kernel")  # what has a pin on a node's lane of decisions
TONES: Mapping[str, str] = {
    **dict.fromkeys(("Primary",), "strong"),
    **dict.fromkeys(("Secondary", "UpToDate", "Connected", "SHARED"), "calm"),
    **dict.fromkeys(("frozen", "Inconsistent", "Outdated", "Consistent", "NetworkFailure", "Diskless"), "warn"),
    **dict.fromkeys(("StandAlone", "Failed"), "bad"),
    **dict.fromkeys(("off", "paused"), "gone"),
}


@dataclass(frozen=True)
class Box:
    """A state from `left` on, `width` wide (both in per cent)."""

    left: float
    width: float
    text: str
    tone: str
    title: str


@dataclass(frozen=True)
class Entry:
    """A line of the list of what happened, and the pin that leads to it; `times` counts repetitions of it."""

    ref: str
    at_s: float
    where: str
    kind: str
    what: str
    rule: str = ""
    outcome: str = ""
    why: str = ""
    bad: bool = False
    times: int = 1


@dataclass(frozen=True)
class Pin:
    """A moment on a lane; its label shows from zoom `zoom` on (0: never)."""

    left: float
    label: str
    title: str
    zoom: int
    entry: Entry


@dataclass(frozen=True)
class Lane:
    """One lane; the first one of a group carries the group's name."""

    name: str
    kind: str
    boxes: tuple[Box, ...] = ()
    pins: tuple[Pin, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Client:
    """The acknowledgements: a path for each node in a box of `columns` by 100, and the longest gap."""

    columns: int
    paths: tuple[tuple[str, str], ...]
    highest: float
    column_s: float
    gap: Box | None


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn of one scenario, the list below it, and how many entries the list leaves out."""

    length_s: float
    lanes: tuple[Lane, ...]
    client: Client
    ticks: tuple[tuple[float, str], ...]
    entries: tuple[Entry, ...]
    left_out: int


def chart(whole: Timeline, ident: str) -> Chart:
    """Return the chart of a history; `ident` makes the references of its entries unique on the page."""
    listed, left_out = entries(whole, ident)
    scale = 100 / (whole.length_s or 1.0)
    # A fault that lasts is a box with its name in it; one that happens by itself has its name at its pin.
    moments = {fault.start_s for fault in whole.faults if fault.end_s <= fault.start_s}
    struck = tuple(
        replace(pin, label=pin.entry.what if pin.entry.at_s in moments else "")
        for pin in _pins(listed, "scenario", ("fault",), whole.length_s)
    )
    lanes = [Lane("faults", "faults", _faults(whole, scale), struck)]
    for node, own in whole.nodes.items():
        frozen = [span for span in own.suspended if span.state != "no"]
        lanes += [
            Lane("role", "tall", _boxes(own.role, scale), (), node),
            Lane("disk", "thin", _boxes(own.disk, scale)),
            Lane("connection", "thin", _boxes(own.connection, scale)),
            Lane("suspended", "thin", _boxes(frozen, scale, "warn")),
            Lane("decisions", "pins", (), _pins(listed, node, OWN, whole.length_s)),
        ]
    lanes += [
        Lane("lock", "tall", _boxes(whole.lock, scale, "held"), (), "store"),
        Lane("epoch", "thin", _boxes(whole.epoch, scale, "plain")),
        Lane("writes", "pins", (), _pins(listed, "store", ("lock",), whole.length_s)),
    ]
    return Chart(whole.length_s, tuple(lanes), _client(whole, scale), _ticks(whole.length_s), listed, left_out)


def entries(whole: Timeline, ident: str, most: int = MOST) -> tuple[tuple[Entry, ...], int]:
    """Return what happened, in order, and how much was left out: repetitions become one entry before that."""
    found = sorted(_all(whole), key=lambda entry: entry.at_s)
    if len(found) > most:
        found = list(_collapsed(found))
    kept = sorted(found, key=lambda entry: (not entry.bad, entry.kind not in TELLING, entry.at_s))[:most]
    ordered = sorted(kept, key=lambda entry: entry.at_s)
    return tuple(replace(one, ref=f"{ident}-e{n}") for n, one in enumerate(ordered)), len(found) - len(kept)


def _all(whole: Timeline) -> Iterator[Entry]:
    for lanes in whole.nodes.values():
        yield from (_decided(decision) for decision in lanes.decisions)
    yield from (_marked(mark) for mark in whole.marks)


def _decided(one: Decision) -> Entry:
    bad = one.outcome not in ("done", "") and not one.outcome.startswith("exit")
    why = f"{one.why} ({one.took_s:.2f} s)" if one.took_s >= 0.005 else one.why
    return Entry("", one.at_s, one.node, "decision", one.action, one.rule, one.outcome, why, bad)


def _marked(mark: Mark) -> Entry:
    return Entry("", mark.at_s, mark.where, mark.kind, mark.text, bad=mark.bad)


def _collapsed(found: Sequence[Entry]) -> Iterator[Entry]:
    """Make one entry of those that say the same of the same place, one after the other."""
    last: dict[str, Entry] = {}
    ordered: dict[int, Entry] = {}
    place_of: dict[str, int] = {}
    for place, entry in enumerate(found):
        before = last.get(entry.where)
        same = before and replace(before, at_s=0, times=1, why="") == replace(entry, at_s=0, why="")
        if before and same:
            last[entry.where] = replace(before, times=before.times + 1)
        else:
            last[entry.where], place_of[entry.where] = entry, place
        ordered[place_of[entry.where]] = last[entry.where]
    yield from ordered.values()


def _boxes(given: Sequence[Span], scale: float, own: str = "") -> tuple[Box, ...]:
    return tuple(
        Box(
            span.start_s * scale,
            span.length_s * scale,
            span.state,
            TONES.get(span.state, own or "plain"),
            f"{span.state}: {span.start_s:.2f} s to {span.end_s:.2f} s ({span.length_s:.2f} s)",
        )
        for span in coarse.spans(given)
    )


def _faults(whole: Timeline, scale: float) -> tuple[Box, ...]:
    spans = [Span(fault.start_s, fault.end_s, fault.text) for fault in whole.faults if fault.end_s > fault.start_s]
    return tuple(replace(box, tone="fault") for box in _boxes(spans, scale))


def _pins(listed: Iterable[Entry], lane: str, kinds: Sequence[str], length_s: float) -> tuple[Pin, ...]:
    own = [e for e in listed if e.kind in kinds and lane in (e.where, "scenario")]
    first = coarse.zooms([entry.at_s for entry in own], length_s or 1.0, LABELS, ZOOMS)
    scale = 100 / (length_s or 1.0)
    return tuple(
        Pin(entry.at_s * scale, _label(entry), _title(entry), zoom, entry)
        for entry, zoom in zip(own, first, strict=True)
    )


def _label(entry: Entry) -> str:
    if entry.kind == "lock":
        return "refused" if entry.bad else f"e{entry.what.partition('epoch ')[2].partition(',')[0]}"
    return entry.rule or ("!" if entry.bad else entry.kind)


def _title(entry: Entry) -> str:
    rule = f"{entry.rule}: " if entry.rule else ""
    rest = ", ".join(text for text in (entry.outcome, entry.why) if text)
    return f"{entry.at_s:.2f} s  {rule}{entry.what}{f' ({rest})' if rest else ''}"


def _client(whole: Timeline, scale: float) -> Client:
    per, totals = coarse.columns(whole.acks)
    highest = max(totals, default=0.0) or 1.0
    below = [0.0] * len(totals)
    paths: list[tuple[str, str]] = []
    for who, counts in whole.acks_of.items():
        means = coarse.columns(counts)[1]
        if any(means):
            paths.append((who, _bars(means, below, highest)))
        below = [low + mean for low, mean in zip(below, means, strict=True)]
    gap = whole.gap if whole.gap and whole.gap.length_s >= 2 * SLOT_S else None
    shown = (
        Box(gap.start_s * scale, gap.length_s * scale, f"{gap.length_s:.2f} s", "gap", "longest gap") if gap else None
    )
    return Client(len(totals), tuple(paths), highest, per * SLOT_S, shown)


def _bars(means: Sequence[float], below: Sequence[float], highest: float) -> str:
    """Return an SVG path: a bar for each column with something in it, neighbours of one height as one bar."""
    parts: list[str] = []
    place = 0
    for (low, mean), same in groupby(zip(below, means, strict=True)):
        wide = sum(1 for _ in same)
        if mean:
            floor = f"{100 - low / highest * 96:.2f}"
            parts.append(f"M{place} {floor}v{-mean / highest * 96:.2f}h{wide}V{floor}z")
        place += wide
    return "".join(parts)


def _ticks(length_s: float) -> tuple[tuple[float, str], ...]:
    step = next((step for step in STEPS_S if length_s / step <= TICKS), length_s / TICKS)
    if not length_s:
        return ((0.0, "0 s"),)
    return tuple((n * step / length_s * 100, f"{n * step:g} s") for n in range(int(length_s / step) + 1))
