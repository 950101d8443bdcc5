"""The page of a run: well-formed, escaped, whole without network; and a damaged run is named with file and line."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lab.errors import BadInput
from lab.scenario import chart, invariants, page, runfolder
from lab.scenario.lanes import timeline
from lab.scenario.observed import Expectation
from lab.scenario.report import Report, result
from lab.scenario.runfolder import About, RunFile
from tests.unit.scenario.stories import WHOLE, Story, facts, failover

EVIL = "</script><script>alert('x')</script><img src=http://evil.example/x onerror=alert(1)>\"'&{{ 7*7 }}"
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and gathers what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def story() -> Story:
    told = failover().add(0.0, "scenario", "expect", recovery_s=20.0)
    told.add(12.0, "n2", "decision", rule="F6", action="take the lock alone", outcome="done", why=EVIL, took_s=0.1)
    return told.add(12.5, "n1", "kernel", text=EVIL, bug=False)


def make_run(folder: Path, told: Story | None = None, seqs: list[int] | None = None, **about: object) -> Path:
    """Write what a run of one scenario leaves behind."""
    own = folder / "power_loss"
    own.mkdir(parents=True)
    events = (told or story()).told()
    (own / "history.jsonl").write_text("".join(event.to_json() + "\n" for event in events))
    verdicts = invariants.audit(events, facts(WHOLE if seqs is None else seqs), Expectation(recovery_s=20))
    kept = {name: {"outcome": v.outcome.value, "why": v.why} for name, v in verdicts.items()}
    (own / "verdict.json").write_text(json.dumps(kept))
    (own / "n1 <journal>.log").write_text(EVIL)
    Report(folder, "uml", 7).add(result("power_loss", events, facts(WHOLE if seqs is None else seqs), verdicts))
    file = RunFile(folder, 0.0)
    file.command = "./dev nox -s failover -- --seed 7"
    given = {"number": 1, "sentence": f"The active node loses its power. {EVIL}", "repeat": "./dev x", **about}
    file.add(About("power_loss", "power_loss", **given))  # type: ignore[arg-type] # the fields of About, by name
    return folder


def drawn(folder: Path) -> Page:
    return Page(page.write(folder).read_text())


def test_it_tells_verdicts_recovery_reasons_rules_and_how_to_repeat(tmp_path: Path) -> None:
    shown = drawn(make_run(tmp_path / "run")).text
    wanted = (
        "Scenario run ✓ 1 of 1",
        "1 of 1 scenarios as expected",
        "Repeat it: ./dev nox -s failover -- --seed 7",
        "User-Mode Linux",
        "12.01 s of 20 s",
        "recovered in 12.01 s, 20 s allowed",
        "20 writes acknowledged, 2 without an answer, 0 lost",
        "first write acknowledged 12.01 s after power_loss of n1",
        "gap 12.55 s",
        "F6 take the lock alone done",
    )
    for words in wanted:
        assert words in shown, words


def test_what_was_lost_or_planted_shows_by_a_sign_and_in_words(tmp_path: Path) -> None:
    lost = drawn(make_run(tmp_path / "lost", seqs=[0])).text
    assert "✗ 0 of 1 scenarios as expected" in lost and "✗ invalid" in lost and "19 acknowledged and lost" in lost
    red = re.findall(r"✗ (I\d+)", lost)
    assert "I1" in red
    assert "1 of 1 scenarios as expected" in drawn(make_run(tmp_path / "planted", seqs=[0], planted=red)).text
    assert "0 of 1 scenarios as expected" in drawn(make_run(tmp_path / "wrong", seqs=[0], planted=["I6"])).text


def test_nothing_that_logs_say_becomes_markup(tmp_path: Path) -> None:
    found = drawn(make_run(tmp_path / "run", error=EVIL))
    assert len(found.all("script")) == 1 and found.all("img") == []
    assert EVIL in found.text and "49" not in re.findall(r"'&(\S+)", found.text)
    assert not [attributes for _, attributes in found.found for name in attributes if name.startswith("on")]


def test_nothing_is_loaded_and_links_stay_within_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    found = drawn(folder)
    loading = [
        (tag, name) for tag, given in found.found for name in given if name in ("src", "srcset", "data", "action")
    ]
    assert loading == [] and found.all("link") == []
    (policy,) = [given["content"] for given in found.all("meta") if "http-equiv" in given]
    assert policy and policy.startswith("default-src 'none'") and "sha256-" in policy
    assert (
        "url(" not in (folder / runfolder.PAGE).read_text() and "@import" not in (folder / runfolder.PAGE).read_text()
    )
    links = [given["href"] or "" for given in found.all("a")]
    assert "power_loss/n1%20%3Cjournal%3E.log" in links
    ids = {given["id"] for _, given in found.found if "id" in given}
    for link in links:
        assert link.removeprefix("#") in ids if link.startswith("#") else re.fullmatch(r"[\w.%-]+(/[\w.%-]+)?", link), (
            link
        )


@pytest.mark.thorough
def test_a_history_of_an_hour_is_quick_and_small(tmp_path: Path) -> None:
    told = failover()
    for number in range(20_000):
        at = 20 + number * 0.18
        told.add(
            at, "n1", "drbd", change="change", object="connection", connection=("Connecting", "Connected")[number % 2]
        )
        if number % 4 == 0:
            told.add(at, "n2", "decision", rule="F8", action=f"look {number}", outcome="done", why="x", took_s=0.0)
            told.write(at, 100 + number, "boot-n2")
    folder = make_run(tmp_path / "run", told)
    began = time.process_time()
    text = page.write(folder).read_text()
    assert time.process_time() - began < 10, "it takes some 1.5 s on one slow core"
    assert len(text) < 700_000
    assert "more are in the logs" in text and "a column is the mean of" in text


def test_repetitions_become_one_entry_only_where_there_are_too_many() -> None:
    told = Story()
    for number in range(9):
        told.add(1.0 + number, "n2", "decision", rule="F8", action="read the lock", outcome="done", why=str(number))
    told.add(20.0, "n2", "decision", rule="F6", action="drbdadm primary", outcome="failed", why="")
    whole = timeline(told.told())
    whole = replace(whole, marks=())
    assert [e.times for e in chart.entries(whole, "s1")[0]] == [1] * 10
    few, left_out = chart.entries(whole, "s1", most=2)
    assert [(e.ref, e.rule, e.times, e.bad) for e in few] == [("s1-e0", "F8", 9, False), ("s1-e1", "F6", 1, True)]
    assert left_out == 0
    assert chart.entries(whole, "s1", most=1)[1] == 1 and chart.entries(whole, "s1", most=1)[0][0].bad


def test_a_run_that_was_killed_has_a_page_all_the_same(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    (folder / "run.json").unlink()
    history = folder / "power_loss" / "history.jsonl"
    history.write_text(history.read_text() + '{"t": 17.0, "so')
    shown = drawn(folder).text
    assert "– unfinished" in shown and "never came to a verdict" in shown and "0 of 1 scenarios as expected" in shown


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("power_loss/history.jsonl", '{"t": 1, "kind": "x"}\nrubbish\n{}\n', "history.jsonl:2: not an event"),
        ("power_loss/verdict.json", '{"I1":\n{"outcome": "fine"}}', "verdict.json: 'fine' is no verdict"),
        ("power_loss/verdict.json", '{"I1":\n', "verdict.json:2: "),
        ("summary.json", "[]", "summary.json: not a JSON object"),
        ("summary.json", '{"scenarios": 3}', "summary.json: its scenarios are no list"),
        ("run.json", '{"scenarios": [{"name": "x", "folder": "../../etc"}]}', "run.json: a scenario has no name"),
    ],
)  # fmt: skip
def test_damage_is_named_with_its_file_and_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    folder = make_run(tmp_path / "run")
    (folder / name).write_text(text)
    with pytest.raises(BadInput, match=re.escape(said)):
        page.write(folder)
    assert not (folder / runfolder.PAGE).exists()


def test_a_run_without_run_json_shows_its_verdicts(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder / "run.json").unlink()
    assert "1 of 1 scenarios as expected" in drawn(folder).text


def test_what_happens_by_itself_has_its_name_at_its_pin() -> None:
    told = story().fault(14.0, "reboot", "n2").add(3.0, "scenario", "heal", name="power_loss", node="n1")
    lane = chart.chart(timeline(told.told()), "s1").lanes[0]
    assert [pin.label for pin in lane.pins] == ["", "reboot of n2"]
    assert [box.text for box in lane.boxes] == ["power loss of n1"]


def test_where_no_run_is_the_message_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such folder"):
        runfolder.read(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="no run is there"):
        runfolder.read(tmp_path)
    with pytest.raises(BadInput, match="no run is there"):
        runfolder.newest(tmp_path / "runs")


def test_the_newest_run_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    make_run(tmp_path / "20260101T000000Z")
    (tmp_path / "20260301T000000Z").mkdir()  # nothing is in it
    made = make_run(tmp_path / "20260201T000000Z")
    assert runfolder.newest(tmp_path) == made


def test_run_json_keeps_what_was_told(tmp_path: Path) -> None:
    about = About("x", "x-2", 3, "s", ("I1",), "r", "e")
    RunFile(tmp_path, 5.0).add(about)
    (entry,) = json.loads((tmp_path / "run.json").read_text())["scenarios"]
    assert entry == {**asdict(about), "planted": ["I1"]}
