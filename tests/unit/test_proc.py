"""Processes: what a failure says, and that a time limit reaches everything that was started."""

from pathlib import Path

import pytest

from lab import proc
from lab.deadline import Deadline, wait_until
from lab.errors import HostLacks
from tests.fakes.programs import Fakes

pytestmark = pytest.mark.spawns


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_success_returns_what_was_printed(fakes: Fakes) -> None:
    fakes.add("tool", prints="one\ntwo\n")
    assert proc.run(["tool", "a b"], limit_s=10).text == "one\ntwo"
    assert fakes.calls("tool") == [["tool", "a b"]]


def test_failure_shows_command_code_and_only_the_last_lines(fakes: Fakes) -> None:
    fakes.add("tool", script="for n in $(seq 40); do echo line-$n >&2; done", code=7)
    with pytest.raises(proc.CommandFailed) as caught:
        proc.run(["tool", "a b"], limit_s=10)
    text = str(caught.value)
    assert "tool 'a b': exit code 7" in text
    assert "line-40" in text and f"line-{41 - proc.LAST_LINES}" in text and f"line-{40 - proc.LAST_LINES}\n" not in text
    assert caught.value.done.code == 7


def test_failure_names_the_signal(fakes: Fakes) -> None:
    fakes.add("tool", script="kill -TERM $$; sleep 10")
    with pytest.raises(proc.CommandFailed, match="was ended by SIGTERM"):
        proc.run(["tool"], limit_s=10)


def test_unchecked_failure_is_returned(fakes: Fakes) -> None:
    fakes.add("tool", code=3)
    assert proc.run(["tool"], limit_s=10, check=False).code == 3


def test_time_limit_kills_the_whole_group(fakes: Fakes, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    fakes.add("tool", script=f"sleep 300 & echo $! >'{note}'; echo before >&2; wait")
    with pytest.raises(proc.CommandFailed, match=r"no end after 0\.5 s\n    before"):
        proc.run(["tool"], limit_s=0.5)
    grandchild = int(note.read_text())
    wait_until("the grandchild is gone", lambda: not alive(grandchild), Deadline.after(5))
    assert not alive(grandchild)


def test_interruption_kills_the_whole_group(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pid"
    fakes.add("tool", script=f"echo $$ >'{note}.new'; mv '{note}.new' '{note}'; sleep 300")
    real = proc.spawn

    def spawn_and_interrupt(*arguments: object, **named: object) -> object:
        child = real(*arguments, **named)  # type: ignore[arg-type] # handed through unchanged
        wait_until("it runs", note.exists, Deadline.after(5))

        def interrupted(**_: object) -> None:
            child.communicate = type(child).communicate.__get__(child)  # type: ignore[method-assign] # only the first call
            raise KeyboardInterrupt

        child.communicate = interrupted  # type: ignore[assignment, method-assign] # Ctrl-C while it is waited for
        return child

    monkeypatch.setattr(proc, "spawn", spawn_and_interrupt)
    with pytest.raises(KeyboardInterrupt):
        proc.run(["tool"], limit_s=60)
    assert not alive(int(note.read_text()))


def test_log_takes_both_outputs_and_the_failure_quotes_it(fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("tool", script="echo out; echo err >&2", code=1)
    log = tmp_path / "log"
    log.write_text("earlier\n")
    with pytest.raises(proc.CommandFailed, match="err"):
        proc.run(["tool"], limit_s=10, log=log)
    assert log.read_text() == "earlier\nout\nerr\n"


def test_environment_is_built_not_inherited(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE")
    fakes.add("tool", script='echo "${SECRET:-none} $LC_ALL $EXTRA"')
    assert proc.run(["tool"], limit_s=10, env={"EXTRA": "y"}).text == "none C.UTF-8 y"


def test_standard_input_is_empty(fakes: Fakes) -> None:
    fakes.add("tool", script="cat; echo end")
    assert proc.run(["tool"], limit_s=10).text == "end"


def test_missing_program_has_a_cure(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="no-such-tool is not installed"):
        proc.run(["no-such-tool"], limit_s=10)
    with pytest.raises(HostLacks, match="apt-get install some-package"):
        proc.which("no-such-tool", "some-package")
    text = tmp_path / "text"
    text.write_text("")
    with pytest.raises(HostLacks, match="may not be executed"):
        proc.run([text], limit_s=10)


def test_which_finds_a_program(fakes: Fakes) -> None:
    tool = fakes.add("tool")
    assert proc.which("tool") == str(tool)
