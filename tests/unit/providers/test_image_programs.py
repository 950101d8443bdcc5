"""The programs inside the image, run for real: the writer's CGI programs, and the syntax of every script."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import proc
from lab.providers import image
from tests.fakes.programs import Fakes

CGI = image.SOURCE / "writer" / "rootfs" / "www" / "cgi-bin"
BUSYBOX = shutil.which("busybox")
SHELL = [BUSYBOX, "sh"] if BUSYBOX else ["sh"]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def ask(program: str, acks: Path, query: str = "", under: Sequence[str] = ()) -> tuple[str, str]:
    """Run a CGI program `under` another command; return the status that a browser would see, and the body."""
    env = {"QUERY_STRING": query, "ACKS": str(acks)}
    done = proc.run([*under, *SHELL, CGI / program], limit_s=20, env=env)
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.split("\r\n"))
    return fields.get("Status", "200 OK"), body


@pytest.fixture
def acks(tmp_path: Path) -> Path:
    path = tmp_path / "acks"
    path.touch()
    return path


@pytest.mark.spawns
def test_a_write_is_acknowledged_once_it_is_in_the_file(acks: Path) -> None:
    assert ask("write", acks, "1-abc") == ("200 OK", f"1 abc {BOOT_ID}\n")
    assert ask("write", acks, "2-DEF0") == ("200 OK", f"2 DEF0 {BOOT_ID}\n")
    assert acks.read_text() == "1 abc\n2 DEF0\n"


@pytest.mark.spawns
@pytest.mark.parametrize(
    "query", ["", "1", "-", "1-", "-abc", "x-abc", "1-a-b", "1-a b", "1-$(id)", "1-a%0a2", "../1-a"]
)
def test_another_question_is_refused_and_writes_nothing(acks: Path, query: str) -> None:
    assert ask("write", acks, query)[0] == "400 Bad Request"
    assert acks.read_bytes() == b""


@pytest.mark.spawns
def test_a_missing_file_is_never_made_nor_acknowledged(tmp_path: Path) -> None:
    assert ask("write", tmp_path / "acks", "1-abc")[0] == "500 Internal Server Error"
    assert not (tmp_path / "acks").exists()
    assert ask("read", tmp_path / "acks")[0] == "500 Internal Server Error"


@pytest.mark.spawns
def test_a_write_that_fails_is_not_acknowledged(acks: Path) -> None:
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]  # no file may grow
    assert ask("write", acks, "1-abc", under=full)[0] == "500 Internal Server Error"
    assert acks.read_bytes() == b""


@pytest.mark.spawns
@pytest.mark.skipif(BUSYBOX is not None, reason="busybox takes its own dd before the one on PATH")
def test_an_fsync_that_fails_is_not_acknowledged(acks: Path, fakes: Fakes) -> None:
    fakes.add("dd", code=1)
    assert ask("write", acks, "1-abc")[0] == "500 Internal Server Error"
    assert [call[1:] for call in fakes.calls("dd")] == [[f"of={acks}", "oflag=append", "conv=notrunc,fsync"]]


@pytest.mark.spawns
def test_writes_side_by_side_stay_whole(acks: Path) -> None:
    questions = [f"{number}-{number:x}nonce" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda question: ask("write", acks, question), questions))
    assert {status for status, _ in answers} == {"200 OK"}
    assert sorted(acks.read_text().splitlines()) == sorted(question.replace("-", " ") for question in questions)


@pytest.mark.spawns
def test_reads_the_whole_file_and_tells_its_length(acks: Path) -> None:
    acks.write_text("1 abc\n2 def\n")
    assert ask("read", acks) == ("200 OK", "1 abc\n2 def\n")
    done = proc.run([*SHELL, CGI / "read"], limit_s=20, env={"ACKS": str(acks)})
    assert b"Content-Length: 12\r\n" in done.stdout


@pytest.mark.spawns
def test_tells_which_boot_it_runs_on(tmp_path: Path) -> None:
    assert ask("id", tmp_path / "none") == ("200 OK", f"{BOOT_ID}\n")


def scripts() -> list[Path]:
    """Every shell script among the image's sources."""
    files = [path for path in image.SOURCE.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if path.read_bytes().startswith(b"#!/bin/sh\n")]


@pytest.mark.spawns
@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.name)
def test_scripts_parse_and_can_be_started(script: Path) -> None:
    proc.run([*SHELL, "-n", script], limit_s=20)
    assert script.stat().st_mode & 0o111 == 0o111


def test_all_scripts_are_found() -> None:
    found = {path.name for path in scripts()}
    assert found == {"disks", "finish", "id", "init", "initrd-init", "install", "read", "third-init", "write"}
