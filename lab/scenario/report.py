"""What a run leaves behind for programs and people: summary.json, and a table at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.scenario.history import Event
from lab.scenario.observed import Facts, acks, faults
from lab.scenario.recovery import recovery_s
from lab.scenario.verdict import Outcome, Verdict, together


@dataclass(frozen=True)
class Result:
    """One scenario: seconds from fault to the first acknowledged write (the longest), writes acknowledged and lost."""

    name: str
    verdict: Outcome
    rto_s: float | None
    acked: int
    lost: int | None
    invariants: Mapping[str, Verdict] = field(default_factory=dict)
    error: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return what stands in summary.json."""
        return {
            "name": self.name,
            "verdict": self.verdict.value,
            "rto_s": None if self.rto_s is None else round(self.rto_s, 3),
            "acked": self.acked,
            "lost": self.lost,
            "invariants": {name: verdict.outcome.value for name, verdict in self.invariants.items()},
        }

    def explanation(self) -> str:
        """Return one line for each invariant that is not valid, and the error that ended the scenario."""
        bad = [f"{name} {v.outcome}: {v.why}" for name, v in self.invariants.items() if v.outcome is not Outcome.VALID]
        return "\n".join([*([self.error] if self.error else []), *bad])


def result(
    name: str, events: Sequence[Event], facts: Facts, verdicts: Mapping[str, Verdict], error: str = ""
) -> Result:
    """Draw up the result of one scenario; an error in it makes a valid verdict unknown."""
    done = acks(events)
    took = [recovery_s(fault, events, done) for fault in faults(events)]
    seconds = [value for value in took if value is not None]
    lost = None if facts.lines is None else len({ack.line for ack in done} - set(facts.lines))
    outcome = together(verdicts.values()).outcome
    if error and outcome is Outcome.VALID:
        outcome = Outcome.UNKNOWN
    return Result(name, outcome, max(seconds, default=None), len(done), lost, verdicts, error)


class Report:
    """summary.json of one run, whole at every moment."""

    def __init__(self, folder: Path, provider: str, seed: int) -> None:
        self.folder, self.provider, self.seed = folder, provider, seed
        self.results: list[Result] = []

    def add(self, one: Result) -> None:
        """Add a scenario and write the file anew, by rename."""
        self.results.append(one)
        self.folder.mkdir(parents=True, exist_ok=True)
        data = {
            "provider": self.provider,
            "seed": self.seed,
            "scenarios": [each.to_dict() for each in self.results],
        }
        write_atomically(self.folder / "summary.json", json.dumps(data, indent=2) + "\n")

    def table(self) -> list[str]:
        """Return the lines of a short table."""
        rows = [("scenario", "verdict", "rto s", "acked", "lost", "not valid")]
        for one in self.results:
            rto = "-" if one.rto_s is None else f"{one.rto_s:.2f}"
            bad = " ".join(name for name, v in one.invariants.items() if v.outcome is not Outcome.VALID)
            lost = "?" if one.lost is None else str(one.lost)
            rows.append((one.name, one.verdict.value, rto, str(one.acked), lost, bad or "-"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
