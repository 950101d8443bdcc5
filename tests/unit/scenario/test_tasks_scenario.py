"""The scenario tasks as a person calls them: what they print, and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Config, Context

from lab.errors import ExitCode
from lab.scenario import runfolder, runner
from lab.tasks import scenario
from tests.unit.scenario.test_page import make_run


def test_report_prints_the_page_of_the_run_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    scenario.report(Context(), run=str(folder))
    assert capsys.readouterr().out == f"{folder}/report.html\n"
    assert "</html>" in (folder / "report.html").read_text()


def test_report_takes_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "20260101T000000Z")
    newest = make_run(tmp_path / "20260102T000000Z")
    monkeypatch.setattr(runfolder.newest, "__defaults__", (tmp_path,))
    scenario.report(Context())
    assert capsys.readouterr().out == f"{newest}/report.html\n"


@pytest.mark.parametrize("made", [False, True])
def test_report_refuses_where_no_run_is(made: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x"
    if made:
        folder.mkdir()
    with pytest.raises(SystemExit) as ended:
        scenario.report(Context(), run=str(folder))
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert str(folder) in said.err.replace("\n", "") and "hint: name the folder of a run" in said.err
    assert not (folder / "report.html").exists()


def test_report_names_file_and_line_of_a_damaged_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    history = folder / "power_loss" / "history.jsonl"
    lines = history.read_text().splitlines()
    history.write_text("\n".join([*lines[:4], "\x00damaged", *lines[5:]]))
    with pytest.raises(SystemExit) as ended:
        scenario.report(Context(), run=str(folder))
    assert ended.value.code == 2
    assert "history.jsonl:5: " in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize(
    ("configured", "given", "taken"), [(None, None, "uml"), ("vagrant", None, "vagrant"), ("vagrant", "uml", "uml")]
)
def test_run_takes_the_provider_that_is_given_or_configured_or_uml(
    configured: str | None, given: str | None, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def run(name: str, **options: object) -> ExitCode:
        asked.extend((name, options["provider"], options["seed"]))
        return ExitCode.FAILED

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(SystemExit) as ended:
        scenario.run(Context(Config({"lab": {"provider": configured}})), "power_loss_active", provider=given, seed="7")
    assert (asked, ended.value.code) == (["power_loss_active", taken, 7], 1)


@pytest.mark.parametrize(("seed", "said"), [("seven", "is no whole number"), ("-1", "is no whole number")])
def test_run_refuses_a_seed_that_is_none(seed: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        scenario.run(Context(), "power_loss_active", seed=seed)
    assert ended.value.code == 2 and said in capsys.readouterr().err
