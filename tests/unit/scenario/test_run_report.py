"""summary.json has the agreed form at every moment; the table and the figures are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.scenario import invariants
from lab.scenario.observed import Expectation
from lab.scenario.report import Report, Result, result, write_atomically
from lab.scenario.verdict import Outcome, Verdict, invalid, together, unknown, valid
from tests.unit.scenario.stories import WHOLE, facts, failover


def drawn(seqs: list[int] | None, error: str = "") -> Result:
    events = failover().told()
    final = facts(seqs)
    verdicts = invariants.audit(events, final, Expectation(recovery_s=20, failovers=1))
    return result("power_loss_active", events, final, verdicts, error)


def test_the_figures_of_a_good_run() -> None:
    one = drawn(WHOLE)
    assert (one.verdict, one.acked, one.lost) == (Outcome.VALID, 20, 0)
    assert one.rto_s == pytest.approx(12.01)  # power lost at 2.0, first answer of the other node at 14.01


def test_summary_json_has_exactly_the_agreed_form(tmp_path: Path) -> None:
    report = Report(tmp_path / "run", "uml", 7)
    report.add(drawn(WHOLE))
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(first) == ["provider", "seed", "scenarios"]
    (one,) = first["scenarios"]
    assert list(one) == ["name", "verdict", "rto_s", "acked", "lost", "invariants"]
    assert (first["provider"], first["seed"], one["name"], one["verdict"]) == ("uml", 7, "power_loss_active", "valid")
    assert set(one["invariants"]) == set(invariants.INVARIANTS)
    assert set(one["invariants"].values()) == {"valid"}
    report.add(drawn([0]))
    second = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert second["scenarios"][0] == one
    assert (second["scenarios"][1]["verdict"], second["scenarios"][1]["lost"]) == ("invalid", 19)
    assert not list((tmp_path / "run").glob(".*"))


def test_what_could_not_be_read_is_null(tmp_path: Path) -> None:
    report = Report(tmp_path, "uml", 0)
    report.add(result("x", (), facts(None), {}, "the pair did not come up"))
    (one,) = json.loads((tmp_path / "summary.json").read_text())["scenarios"]
    assert one == {"name": "x", "verdict": "unknown", "rto_s": None, "acked": 0, "lost": None, "invariants": {}}


def test_an_error_in_the_scenario_never_passes_as_valid() -> None:
    assert drawn(WHOLE, "TimedOut: nothing came").verdict is Outcome.UNKNOWN
    assert drawn([0], "TimedOut: nothing came").verdict is Outcome.INVALID
    assert drawn(WHOLE, "TimedOut: nothing came").explanation() == "TimedOut: nothing came"


def test_the_table_names_what_is_not_valid(tmp_path: Path) -> None:
    report = Report(tmp_path, "uml", 0)
    report.add(drawn(WHOLE))
    report.add(drawn([0]))
    heading, good, bad = report.table()
    assert heading.split() == ["scenario", "verdict", "rto", "s", "acked", "lost", "not", "valid"]
    assert good.split() == ["power_loss_active", "valid", "12.01", "20", "0", "-"]
    assert bad.split()[:5] == ["power_loss_active", "invalid", "12.01", "20", "19"]
    assert "I1" in bad.split()


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    before = path.stat().st_ino
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_ino != before


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], Verdict(Outcome.VALID)),
        ([valid("a"), valid("b")], Verdict(Outcome.VALID, "a; b")),
        ([valid("a"), unknown("b")], Verdict(Outcome.UNKNOWN, "b")),
        ([invalid("c"), unknown("b"), valid("a"), invalid("d")], Verdict(Outcome.INVALID, "c; d")),
        ([unknown(str(n)) for n in range(8)], Verdict(Outcome.UNKNOWN, "0; 1; 2; 3; 4; and 3 more")),
    ],
)
def test_the_worst_verdict_decides_and_explains(given: list[Verdict], wanted: Verdict) -> None:
    assert together(given) == wanted
