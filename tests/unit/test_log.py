"""Progress: plain lines, a live display on a terminal, silence when asked; results apart from all of it."""

import io
import re
import threading

import pytest
from rich.console import Console

from lab import log


def plain_times(text: str) -> list[str]:
    return re.sub(r"\d+(\.\d+)? s", "N s", text).splitlines()


def test_plain_lines_tell_begin_and_end(capsys: pytest.CaptureFixture[str]) -> None:
    with log.steps("Bringing up", estimate_s=300) as progress:
        with progress.step("kernel", estimate_s=290):
            log.say("by the way")
        with progress.step("image"):
            log.warn("slow disk")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert plain_times(shown.err) == [
        "Bringing up (about N s)",
        "  kernel … (about N s)",
        "by the way",
        "  kernel: done after N s",
        "  image …",
        "warning: slow disk",
        "  image: done after N s",
        "Bringing up: done after N s",
    ]


def test_failure_is_marked_and_goes_on_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), log.steps("Whole") as progress, progress.step("part"):
        raise ZeroDivisionError
    assert plain_times(capsys.readouterr().err)[-2:] == ["  part: FAILED after N s", "Whole: FAILED after N s"]


def test_heartbeat_says_what_goes_on_and_what_remains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beaten = threading.Event()
    real = log.say

    def say(text: str) -> None:
        real(text)
        if "to go" in text:
            beaten.set()

    monkeypatch.setattr(log, "say", say)
    monkeypatch.setattr(log, "HEARTBEAT_S", 0.01)
    with log.steps("Whole") as progress, progress.step("kernel", estimate_s=290) as step:
        step.note("compiling net/core")
        assert beaten.wait(10)
    assert "  kernel: 0 s, about 290 s to go: compiling net/core\n" in capsys.readouterr().err


def test_estimate_that_was_too_short_says_so() -> None:
    assert log.Step("kernel", estimate_s=0.5).state() == "0 s, longer than the usual 0 s"


def test_steps_may_run_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    both_run = threading.Barrier(8, timeout=10)

    def work(progress: log.Steps, number: int) -> None:
        with progress.step(f"part {number}"):
            both_run.wait()

    with log.steps("Whole") as progress:
        threads = [threading.Thread(target=work, args=(progress, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = plain_times(capsys.readouterr().err)
    assert sorted(line for line in lines if "done" in line) == sorted(
        ["Whole: done after N s", *(f"  part {number}: done after N s" for number in range(8))]
    )


def test_terminal_shows_running_steps_and_keeps_ended_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(log, "_console", Console(file=screen, force_terminal=True, width=60, _environ={}))
    with log.steps("Bringing up") as progress, progress.step("kernel", estimate_s=290) as step:
        step.note("compiling " + "a very long name " * 9)
        log.say("by the way")
        with progress.step("image"):
            pass
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n")
    for ended in ("image", "kernel", "Bringing up"):
        assert re.search(rf"✓ {ended}  \d\.\d s", text), text  # a busy machine takes a tenth or two
    assert "kernel  0 s, about 290 s to go: compiling a very" in text
    assert "by the way" in text
    assert max(len(line) for line in text.splitlines()) <= 60


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    with log.silent() as progress, progress.step("part", estimate_s=1) as step:
        step.note("x")
    assert capsys.readouterr() == ("", "")


def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    log.out('{"a": [1]}')
    assert capsys.readouterr() == ('{"a": [1]}\n', "")


def watched(console: Console, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Watch a text that changes, until Ctrl-C at the third look; return what was looked at."""
    looks: list[str] = []

    def text() -> str:
        if len(looks) == 2:
            raise KeyboardInterrupt
        looks.append(f"look {len(looks)} [at] " + "a long line " * 12)
        return looks[-1]

    monkeypatch.setattr(log, "Console", lambda **_: console)
    with pytest.raises(KeyboardInterrupt):
        log.watch(text, every_s=0.01)
    return looks


def test_watching_in_a_terminal_draws_in_place_and_gives_the_screen_back(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    watched(Console(file=screen, force_terminal=True, width=60, height=9, _environ={"TERM": "xterm"}), monkeypatch)
    shown = screen.getvalue()
    assert shown.index("\x1b[?1049h") < shown.index("look 0 [at]") < shown.index("look 1 [at]")
    assert "\x1b[H" in shown[shown.index("look 0") : shown.index("look 1")], "drawn from the top again"
    assert shown.index("look 1") < shown.index("\x1b[?1049l"), "the other screen is left again"
    assert "\x1b[?25h" in shown, "the cursor is back"


def test_watching_without_a_terminal_writes_each_look_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = watched(Console(file=io.StringIO(), width=60, _environ={}), monkeypatch)
    assert capsys.readouterr().out == "".join(f"{look}\n" for look in looks)
