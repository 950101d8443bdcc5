"""A run as one self-contained HTML page: it loads nothing, and works from a file, on paper, and without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from urllib.parse import quote

import jinja2

from lab.scenario import runfolder
from lab.scenario.chart import Chart, chart
from lab.scenario.history import Event
from lab.scenario.lanes import fault_text, timeline
from lab.scenario.observed import acks, faults
from lab.scenario.recovery import recovery_s
from lab.scenario.report import write_atomically
from lab.scenario.runfolder import Kept, RunFiles
from lab.scenario.verdict import Outcome

PARTS = Path(__file__).parent / "page"
SIGNS: Mapping[str, str] = {"valid": "✓", "unknown": "?", "invalid": "✗", "": "–"}
UNFINISHED = "unfinished"
INVARIANTS: Mapping[str, str] = {
    "I1": "no acknowledged write is lost",
    "I2": "never two writable Primaries",
    "I3": "the lock's history is monotonic",
    "I4": "no solo acknowledgement without the lock",
    "I5": "one container, one address",
    "I6": "recovers by itself within the bound",
    "I7": "lock state unknown: no solo acknowledgement",
    "I8": "healing converges",
    "I9": "the file system is sound",
    "I10": "the handler ran when it had to",
    "I11": "a stale node never serves",
    "I12": "releases are right",
}


@dataclass(frozen=True)
class Judged:
    """One invariant of a scenario; `outcome` is empty where it was not audited."""

    name: str
    title: str
    outcome: str
    why: str
    planted: bool

    @property
    def sign(self) -> str:
        """The outcome without colour."""
        return SIGNS[self.outcome]


@dataclass(frozen=True)
class Recovery:
    """Seconds from a fault to the first acknowledged write after it, and what is allowed; None where unknown."""

    text: str
    took_s: float | None
    bound_s: float | None

    @property
    def late(self) -> bool:
        """Whether it took longer than allowed."""
        return self.took_s is not None and self.bound_s is not None and self.took_s > self.bound_s


@dataclass(frozen=True)
class Link:
    """A file of the run, by an address relative to the page."""

    name: str
    href: str
    size: str


@dataclass(frozen=True)
class Section:
    """A scenario as the page shows it."""

    ident: str
    kept: Kept
    verdict: str
    good: bool
    judged: tuple[Judged, ...]
    recoveries: tuple[Recovery, ...]
    chart: Chart
    begun: float
    """Wall seconds."""
    acked: int
    unanswered: int
    logs: tuple[Link, ...]

    @property
    def sign(self) -> str:
        """The verdict without colour."""
        return SIGNS.get(self.verdict, "–")

    @property
    def slowest(self) -> Recovery | None:
        """The recovery that took longest."""
        known = [one for one in self.recoveries if one.took_s is not None]
        return max(known, key=lambda one: one.took_s or 0.0, default=None)


def write(folder: Path) -> Path:
    """Write the page of a run into its folder and return its path.

    Raises:
        BadInput: no run is there, or a file of it is damaged.
    """
    page = folder / runfolder.PAGE
    write_atomically(page, render(runfolder.read(folder)))
    return page


def render(run: RunFiles) -> str:
    """Return the page; everything that comes from the run is escaped."""
    sections = tuple(_section(run.folder, place, kept) for place, kept in enumerate(run.scenarios, start=1))
    script = (PARTS / "report.js").read_text(encoding="utf-8")
    # Only this very script may run: whatever a log smuggles in may not, nor load anything.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    took = [one.took_s for section in sections for one in section.recoveries if one.took_s is not None]
    bounds = [one.bound_s for section in sections for one in section.recoveries if one.bound_s]
    return _template().render(
        run=run,
        title=f"hapair run {run.folder.resolve().name}",
        began=_utc(run.began or min((s.begun for s in sections if s.kept.events), default=None)),
        length=_length(sections),
        sections=sections,
        good=sum(section.good for section in sections),
        invariants=INVARIANTS,
        took=sorted(took),
        reach=max([*took, *bounds], default=1.0) * 1.04,
        logs=tuple(_links(run.folder, run.logs)),
        style=(PARTS / "report.css").read_text(encoding="utf-8"),
        script=script,
        digest=digest,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _section(folder: Path, place: int, kept: Kept) -> Section:
    ident = f"s{place}"
    whole = timeline(kept.events)
    verdict = kept.verdict.value if kept.verdict else UNFINISHED
    red = {name for name, said in kept.invariants.items() if said.outcome is Outcome.INVALID}
    as_planted = bool(kept.about.planted) and red == set(kept.about.planted) - {"scenario"} and bool(kept.verdict)
    judged = [
        Judged(
            name,
            INVARIANTS.get(name, ""),
            kept.invariants[name].outcome.value if name in kept.invariants else "",
            kept.invariants[name].why if name in kept.invariants else "not audited",
            name in kept.about.planted,
        )
        for name in dict.fromkeys([*INVARIANTS, *kept.invariants])
    ]
    return Section(
        ident=ident,
        kept=kept,
        verdict=verdict,
        good=as_planted if kept.about.planted else kept.verdict is Outcome.VALID,
        judged=tuple(judged),
        recoveries=recoveries(kept.events),
        chart=chart(whole, ident),
        begun=whole.begun,
        acked=sum(whole.acks),
        unanswered=len(whole.unanswered),
        logs=tuple(_links(folder, kept.logs)),
    )


def recoveries(events: tuple[Event, ...]) -> tuple[Recovery, ...]:
    """Return one recovery for each fault, with the bound that the scenario stated last."""
    stated = [e.number("recovery_s") for e in events if e.source == "scenario" and e.kind == "expect"]
    done = acks(events)
    found: list[Recovery] = []
    for fault in faults(events):
        own = fault.number("bound_s")
        bound = own if own > 0 else stated[-1] if stated else None
        found.append(Recovery(fault_text(fault), recovery_s(fault, events, done), bound))
    return tuple(found)


def _links(folder: Path, logs: tuple[Path, ...]) -> Iterator[Link]:
    for path in logs:
        size = path.stat().st_size
        shown = f"{size} B" if size < 1024 else f"{size / 1024:.0f} KiB"
        yield Link(path.name, quote(path.relative_to(folder).as_posix()), shown)


def _utc(wall: float | None) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if wall else "unknown"


def _length(sections: tuple[Section, ...]) -> str:
    told = [section for section in sections if section.kept.events]
    if not told:
        return "unknown"
    seconds = max(section.begun + section.chart.length_s for section in told) - min(section.begun for section in told)
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
