"""The pytest plugin, run by pytest itself on a pair of fakes; and the prompt into the pair."""

from __future__ import annotations

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

import lab.scenario.plugin  # noqa: F401 - loaded here once: each inner session would load parts of it anew
from lab import proc
from lab.hosts.site import EXAMPLE, load_site
from lab.paths import PROJECT
from lab.providers import pair
from lab.providers.supervisor import PLAN
from lab.scenario import pairs, runfolder, shell
from tests.unit.scenario.fakes import FakeLab

pytest_plugins = ["pytester"]

CONFTEST = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
import pytest
from lab.scenario.plugin import Rig
from tests.unit.scenario import fakes

pytest_plugins = ["lab.scenario.plugin"]

@pytest.fixture(scope="session")
def rig(tmp_path_factory):
    pair, client = fakes.ready(tmp_path_factory.mktemp("lab"))
    pair.client = client
    def reset():
        pair.lab.log.append("reset")
        node = pair.lab.nodes["third"]
        fresh, client = fakes.ready(pair.lab.folder)
        pair.fake, pair.client = fresh.fake, client
        client.pair = pair
        pair.fake.log.append("reset")
    yield Rig(pair, reset)

@pytest.fixture
def client(scene):
    scene.expect(recovery_s=20, failovers=0)
    return scene.pair.client
"""
GOOD = "def test_good(scene, client): client.write(3)\n"
BAD = "def test_bad(scene, client): client.write(1, lost=True)\n"


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    pytester.makeconftest(CONFTEST)
    return Run(pytester)


class Run:
    """One inner pytest session."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.folder = pytester.path / "run"

    def __call__(self, source: str, *options: str) -> pytest.RunResult:
        self.pytester.makepyfile(test_it=source)
        given = ["--run-dir", str(self.folder), "--seed", "7", "-p", "no:cacheprovider", *options]
        return self.pytester.runpytest_inprocess(*given)

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return found

    def scenarios(self) -> list[dict[str, Any]]:
        return list(self.summary()["scenarios"])


VERDICTS = (
    GOOD
    + BAD
    + """
def test_unread(scene, client):
    del scene.lab.nodes["third"].says["*get http*/cgi-bin/read*"]
    scene.lab.nodes["third"].says["*get http*/cgi-bin/read*"] = 1

def test_broken(scene, client):
    client.write(2)
    assert 1 == 2

def test_was_reset(scene, client):
    assert "reset" in scene.lab.log  # only the first scenario finds the pair new
"""
)


def test_each_kind_of_scenario_gets_its_verdict(run: Run) -> None:
    result = run(VERDICTS)
    result.assert_outcomes(passed=2, failed=3)
    scenarios = {one["name"]: one for one in run.scenarios()}
    assert {name: one["verdict"] for name, one in scenarios.items()} == {
        "good": "valid",
        "bad": "invalid",
        "unread": "unknown",
        "broken": "unknown",
        "was_reset": "valid",
    }
    assert (scenarios["good"]["acked"], scenarios["good"]["lost"], scenarios["bad"]["lost"]) == (4, 0, 1)
    assert scenarios["broken"]["acked"] == 3
    assert (run.folder / "broken" / "history.jsonl").exists()
    result.stdout.fnmatch_lines_random(
        [
            "*provider uml, seed 7*",
            "*I1 invalid: 1 acknowledged and lost: * ab*",
            "*repeat: ./dev nox -s *-k test_bad --provider uml --seed 7",
            "*I1 unknown: *",
            "*assert 1 == 2*",
            "good *valid*",
            "run: *",
            "report: */run/report.html",
        ]
    )
    kept = json.loads((run.folder / "run.json").read_text())
    assert re.fullmatch(r"./dev nox -s \S+ -- --provider uml --seed 7", kept["command"])
    assert [one["name"] for one in kept["scenarios"]] == list(scenarios)
    assert kept["scenarios"][1]["repeat"].endswith("-k test_bad --provider uml --seed 7")
    assert kept["scenarios"][3]["error"].startswith("AssertionError: ")
    shown = (run.folder / "report.html").read_text()
    assert "2 of 5 scenarios as expected" in shown and 'href="junit.xml"' in shown


LEFT = """
import pytest

def test_first(scene, client):
    assert "reset" not in scene.lab.log
    client.write(1)

def test_second(scene, client):
    assert "reset" not in scene.lab.log, "a pair that was left well is not made new"
    client.write(1)

@pytest.mark.spoils
def test_spoiling(scene, client):
    assert "reset" not in scene.lab.log
    client.write(1)

def test_after_spoiling(scene, client):
    assert scene.lab.log.count("reset") == 1
    scene.lab.log.clear()
    client.write(1, lost=True)

def test_after_a_bad_one(scene, client):
    assert scene.lab.log.count("reset") == 1
    client.write(1)
"""


def test_a_pair_that_was_left_well_goes_to_the_next_scenario_and_no_other(run: Run) -> None:
    run(LEFT).assert_outcomes(passed=4, failed=1)
    assert [one["verdict"] for one in run.scenarios()] == ["valid", "valid", "valid", "invalid", "valid"]


PLANTED_TWICE = """
import pytest

@pytest.mark.planted("I1")
def test_in_vain(scene, client):
    client.write(1)

@pytest.mark.planted("I1")
def test_next(scene, client):
    assert scene.lab.log.count("reset") == 1
    client.write(1, lost=True)
"""


def test_a_pair_with_a_planted_fault_goes_to_no_other_even_if_nothing_came_of_it(run: Run) -> None:
    run(PLANTED_TWICE, "-m", "planted").assert_outcomes(passed=1, failed=1)


LONG = "import pytest\n\n@pytest.mark.long\ndef test_slow(scene, client): client.write(3)\n" + GOOD


def test_a_long_scenario_is_named_and_left_out_unless_it_is_asked_for(run: Run) -> None:
    done = run(LONG)
    done.assert_outcomes(passed=1, deselected=1)
    done.stdout.fnmatch_lines(["left out without --long: test_slow"])
    done = run(LONG, "--long")
    done.assert_outcomes(passed=2)
    assert "left out" not in done.stdout.str()
    assert "left out" not in run(LONG, "-k", "good").stdout.str()


@pytest.mark.parametrize("played", ["uml", "vagrant"])
def test_a_scenario_for_one_provider_is_skipped_with_its_reason_on_another(run: Run, played: str) -> None:
    marked = 'import pytest\n\n@pytest.mark.only("uml", "disks keep all")\n' + GOOD
    done = run(marked, "--provider", played, "-rs")
    done.assert_outcomes(**{"passed" if played == "uml" else "skipped": 1})
    assert ("only with --provider uml: disks keep all" in done.stdout.str()) is (played == "vagrant")


SHARED = (
    LONG
    + BAD
    + """
import os
import pytest
from lab.scenario.plugin import RUN

@pytest.mark.parametrize("number", range(3))
def test_lab(scene, client, request, number):
    share = request.config.stash[RUN].share
    names = {"gw0": "lab-of-test", "gw1": "lab-of-test-2"}
    assert (share.part, share.lab) == (True, names[os.environ["PYTEST_XDIST_WORKER"]])
    client.write(3)
"""
)


@pytest.mark.spawns
def test_two_pairs_share_the_scenarios_and_leave_one_run(run: Run) -> None:
    done = run(SHARED, "--pairs", "2", "--lab", "lab-of-test")
    done.assert_outcomes(passed=4, failed=1)
    done.stdout.fnmatch_lines(["*provider uml, seed 7*", "left out without --long: test_slow"])
    found = {one["name"]: (one["verdict"], one["lost"]) for one in run.scenarios()}
    assert found == {"good": ("valid", 0), "bad": ("invalid", 1), **{f"lab[{n}]": ("valid", 0) for n in range(3)}}
    done.stdout.fnmatch_lines_random(["*I1 invalid: 1 acknowledged and lost: * ab*", "bad *invalid*", "report: *"])
    kept = json.loads((run.folder / "run.json").read_text())
    assert re.fullmatch(r"./dev nox -s \S+ -- --provider uml --seed 7", kept["command"])
    assert {one["name"] for one in kept["scenarios"]} == set(found)
    assert "4 of 5 scenarios as expected" in (run.folder / "report.html").read_text()
    shown = ET.parse(run.folder / "junit.xml").iter("property")  # noqa: S314 - ours
    assert [p.get("value") for p in shown if p.get("name") == "verdict"].count("valid") == 4


DIES = (
    GOOD
    + """
import os

def test_dies(scene, client):
    os._exit(9)
"""
)


@pytest.mark.spawns
def test_a_worker_that_dies_leaves_its_labs_name(run: Run) -> None:
    done = run(DIES, "--pairs", "2", "--lab", "lab-of-test")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.stdout.re_match_lines(
        [
            r"what played on the lab lab-of-test(-2)? died, .*",
            r".*lab.destroy --name lab-of-test",
            r"not played to their end: test_it\.py::test_dies$",
        ]
    )


REAL_RIG = """
import pytest
from types import SimpleNamespace

pytest_plugins = ["lab.scenario.plugin"]

@pytest.fixture(scope="session")
def ready():
    return SimpleNamespace(artifacts=None, hypervisor=None)
"""


@pytest.mark.parametrize("there_before", [True, False])
def test_only_a_lab_that_the_session_made_is_removed_at_its_end(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    lab = tmp_path / "labs" / "lab-of-test"
    if there_before:
        lab.mkdir(parents=True)
    removed: list[str] = []
    monkeypatch.setattr("lab.providers.pair.folder_of", lambda _: lab)
    monkeypatch.setattr("lab.providers.pair.bring_up", lambda *_, **__: lab.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr("lab.providers.pair.destroy", removed.append)
    run.pytester.makeconftest(REAL_RIG)
    done = run("def test_it(rig, run): assert run.usable is " + str(not there_before), "--lab", "lab-of-test")
    done.assert_outcomes(passed=1)
    assert removed == ([] if there_before else ["lab-of-test"])
    assert ("lab-of-test was there before: it was reset, and is left up" in done.stdout.str()) is there_before


@pytest.mark.parametrize("mark", [pair.COMING, pair.FOR_ONCE, "a person's"])
def test_only_what_a_killed_session_left_of_a_lab_is_removed_first(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    lab = tmp_path / "labs" / "scenarios"
    lab.mkdir(parents=True)
    for name in (mark, PLAN):
        (lab / name).touch()
    monkeypatch.setattr("lab.providers.pair.folder_of", lambda _: lab)
    monkeypatch.setattr("lab.providers.pair.bring_up", lambda *_, **__: lab.mkdir(parents=True, exist_ok=True))
    run.pytester.makeconftest(REAL_RIG)
    persons = mark == "a person's"
    done = run(f"def test_it(rig, run): assert run.usable is {not persons}")
    done.assert_outcomes(passed=1)
    assert (lab / mark).exists() is persons
    assert ("of an earlier session, which had been killed, was removed first" in done.stdout.str()) is not persons
    assert ("it was reset, and is left up" in done.stdout.str()) is persons


def test_what_repeats_a_scenario_says_all_that_was_given(run: Run) -> None:
    site = run.pytester.path / "a site.yaml"
    site.write_bytes(EXAMPLE.read_bytes())
    done = run(BAD, "--site", str(site), "--switchovers", "9")
    done.stdout.fnmatch_lines([f"repeat: ./dev nox -s * -k test_bad *--seed 7 --site '{site}' --switchovers 9"])


@pytest.mark.spawns
def test_runs_that_begin_in_one_second_have_folders_of_their_own() -> None:
    asked = [sys.executable, "-c", "from lab.scenario import runfolder; print(runfolder.new(0.0))"]
    one, other = (proc.run(asked, cwd=PROJECT, limit_s=20).text.strip() for _ in range(2))
    assert one != other
    assert Path(one).parent == runfolder.RUNS and Path(one).name.startswith("19700101T000000Z-")


def test_looking_at_what_there_is_leaves_no_run_behind(run: Run) -> None:
    run(GOOD, "--collect-only")
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pairs", "2", "--setup-plan"], "--pairs 2 and --setup-plan do not go together"),
        (["--pairs", "0"], "--pairs 0: give a number from 1 to 8, or auto"),
        (["--pairs", "many"], "--pairs many: give a number from 1 to 8, or auto"),
        (["--pairs", "2", "--keep"], "--pairs 2 and --keep do not go together"),
    ],
)
def test_pairs_that_cannot_be_are_refused_before_anything_starts(run: Run, options: list[str], says: str) -> None:
    result = run(GOOD, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{says}*"])
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("provider", "cores", "free_mb", "count"),
    [
        ("uml", 2, 1 << 20, 2),
        ("uml", 1, 1 << 20, 1),
        ("uml", 64, 1 << 20, 2),
        ("uml", 2, 1000, 1),
        ("vagrant", 64, 1 << 20, 1),
    ],
)
def test_auto_takes_two_pairs_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, provider: str, cores: int, free_mb: int, count: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr("lab.providers.memory.available_bytes", lambda: free_mb << 20)
    assert pairs.auto(provider, lambda: load_site(EXAMPLE)) == count


def test_a_set_up_that_fails_is_reported_too(run: Run) -> None:
    run.pytester.makeconftest(CONFTEST + REFUSE)
    run(GOOD).assert_outcomes(errors=1)
    assert [(one["name"], one["verdict"]) for one in run.scenarios()] == [("good", "unknown")]


def test_a_page_that_cannot_be_written_changes_no_verdict(run: Run) -> None:
    (run.folder / "report.html").mkdir(parents=True)
    result = run(GOOD)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["no report: *"])


REFUSE = """
from lab.errors import HapairError

def refuse(*_, **__):
    raise HapairError("disk full")

@pytest.fixture(autouse=True)
def ill(rig):
    rig.pair.lab.nodes["third"].put = refuse
"""


def test_attempts_and_junit_are_kept_with_the_run(run: Run, tmp_path: Path) -> None:
    run(GOOD)
    shown = {p.get("name"): p.get("value") for p in ET.parse(run.folder / "junit.xml").iter("property")}  # noqa: S314 - ours
    assert shown["verdict"] == "valid" and str(shown["I1"]).startswith("valid") and shown["lost"] == "0"
    (run.folder / "junit.xml").unlink()
    run(GOOD, f"--junitxml={tmp_path}/junit.xml")
    assert (run.folder / "junit.xml").read_bytes() == (tmp_path / "junit.xml").read_bytes()
    assert (run.folder / "good").is_dir() and (run.folder / "good-2").is_dir()


def test_an_unknown_provider_is_refused_before_anything_starts(run: Run) -> None:
    result = run(GOOD, "--provider", "cloud")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unknown provider 'cloud'; there is uml*"])
    result = run(GOOD, "--libvirt", "cloud")
    result.stderr.fnmatch_lines(["*unknown libvirt 'cloud'; there is auto, host*"])
    assert not run.folder.exists()


def test_without_a_seed_one_is_chosen_and_printed(run: Run) -> None:
    run.pytester.makepyfile(test_it=GOOD)
    result = run.pytester.runpytest_inprocess("--run-dir", str(run.folder), "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines([f"*seed {run.summary()['seed']},*"])


PLANTED = """
import pytest

@pytest.mark.planted("I1")
def test_right(scene, client):
    client.write(1, lost=True)

@pytest.mark.planted("I1")
def test_gives_up(scene, client):
    client.write(1, lost=True)
    scene.wait_acks(5, limit_s=0.01)

@pytest.mark.planted("scenario")
def test_own_step(scene, client):
    assert 1 == 2

@pytest.mark.planted("I2")
def test_another(scene, client):
    client.write(1, lost=True)

@pytest.mark.planted("I1", "I2")
def test_one_too_many(scene, client):
    client.write(1, lost=True)

@pytest.mark.planted("scenario")
def test_not_a_step(scene, client):
    client.write(1, lost=True)

@pytest.mark.planted("I1")
def test_nothing_red(scene, client):
    client.write(1)

@pytest.mark.planted("scenario", may=["I1"])
def test_by_chance(scene, client):
    client.write(1, lost=True)
    assert 1 == 2

@pytest.mark.planted("I2", may=["I1"])
def test_chance_alone(scene, client):
    client.write(1, lost=True)
"""


def test_a_plant_passes_when_exactly_what_it_names_is_red(run: Run) -> None:
    run(PLANTED).assert_outcomes(deselected=9)
    result = run(PLANTED, "-m", "planted", "-rA")
    result.assert_outcomes(passed=4, failed=5)
    good = ("right", "gives_up", "own_step", "by_chance")
    bad = ("another", "one_too_many", "not_a_step", "nothing_red", "chance_alone")
    result.stdout.fnmatch_lines_random([f"PASSED *test_{name}*" for name in good])
    result.stdout.fnmatch_lines_random([f"FAILED *test_{name}*" for name in bad])
    result.stdout.fnmatch_lines_random(["*planted for I2, but red: I1*", "*planted for I1, but red: nothing*"])


class TestShell:
    def test_a_failure_drops_into_the_pair_before_anything_is_torn_down(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("n1 date\nquit\n"))
        result = run(BAD, "--shell-on-failure", "-s")
        result.assert_outcomes(failed=1)
        result.stderr.fnmatch_lines(["*is as the scenario left it*"])

    def test_commands_run_in_their_node(self, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path)
        lab.nodes["n2"].says["sh -c 'drbdadm status'"] = "r0 role:Secondary\n"
        lab.nodes["n2"].says["sh -c false"] = 1
        assert shell.answer(lab, "n2 drbdadm status") == "r0 role:Secondary"
        assert shell.answer(lab, "n2 false").endswith("[exit code 1]")
        assert shell.answer(lab, "n9 false") == "write NODE COMMAND…, with one of n1, n2, third"
        lab.nodes["n1"].power_off()
        assert shell.answer(lab, "n1 date") == "n1 is off"
