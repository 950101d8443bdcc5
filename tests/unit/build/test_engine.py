"""Builds: cached by content, published whole or not at all, checked on every use."""

from __future__ import annotations

import json
import os
import tarfile
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from lab.build import manifest, plan, runner, shelves, steps
from lab.build.engine import ensure
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks
from lab.proc import CommandFailed
from tests.fakes.programs import Fakes
from tests.unit.build.conftest import Shown, Toy

pytestmark = pytest.mark.spawns


def test_a_build_ends_in_an_artifact_with_a_manifest(toy: Toy, shown: Shown) -> None:
    made = ensure("toy", shown)
    assert made.path.read_text() == "hello\n# a comment\nA=y\n"
    assert shown.titles == ["toy: source toy", "toy: unpack toy", "toy: make", "toy: check"]
    content = json.loads((made.folder / "manifest.json").read_text())
    assert content["files"]["toy"]["sha256"] == made.sha256
    assert content["inputs"]["sources"]["toy"]["place"] == f"file {toy.archive}"
    assert toy.kept("scratch") == []


def test_the_second_use_does_nothing_but_check(toy: Toy, shown: Shown) -> None:
    first = ensure("toy", shown)
    shown.titles.clear()
    toy.archive.unlink()
    assert ensure("toy", shown) == first
    assert shown.titles == []


def test_the_key_changes_with_each_input(toy: Toy, shown: Shown, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [ensure("toy", shown).key]
    (toy.folder / "toy.config").write_text("A=m\n")
    keys.append(ensure("toy", shown).key)
    toy.edit("words {files}", "words words {files}")
    keys.append(ensure("toy", shown).key)
    monkeypatch.setattr(plan, "PATH", f"{fakes.folder}:{plan.PATH}")
    fakes.add("cc", prints="cc 12\n")
    toy.edit("files:", "tools: [cc]\nfiles:")
    keys.append(ensure("toy", shown).key)
    fakes.add("cc", prints="cc 13\n")
    keys.append(ensure("toy", shown).key)
    monkeypatch.setattr(plan, "ENGINE", plan.ENGINE + 1)
    keys.append(ensure("toy", shown).key)
    toy.pack("goodbye\n")
    keys.append(ensure("toy", shown, sources={"toy": toy.archive}).key)
    assert len(set(keys)) == len(keys)


def test_what_only_describes_does_not_change_the_key(toy: Toy, shown: Shown) -> None:
    key = ensure("toy", shown).key
    toy.edit("about: a toy", "about: another word for it")
    toy.edit("expect_objects: 2", "expect_objects: 3")
    assert ensure("toy", shown).key == key


@pytest.mark.usefixtures("toy")
def test_a_source_that_nothing_vouches_for_is_in_the_name(shown: Shown) -> None:
    made = ensure("toy", shown)
    assert not made.verified
    assert made.folder.name == f"toy-{made.key}-unverified"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("harm", ["change", "remove", "no manifest", "half a manifest", "another's"])
def test_a_tampered_artifact_is_noticed(shown: Shown, harm: str) -> None:
    made = ensure("toy", shown)
    text = (made.folder / "manifest.json").read_text()
    match harm:
        case "change":
            made.path.write_text("changed")
        case "remove":
            made.path.unlink()
        case "no manifest":
            (made.folder / "manifest.json").unlink()
        case "half a manifest":
            (made.folder / "manifest.json").write_text(text[: len(text) // 2])
        case _:
            (made.folder / "manifest.json").write_text(text.replace(made.key, "0" * 20))
    with pytest.raises(manifest.Damaged) as caught:
        ensure("toy", shown)
    assert str(made.folder) in caught.value.message
    if harm == "change":
        assert made.sha256 in caught.value.message
    assert "invoke build.clean" in caught.value.hint
    assert shelves.rows()[0].state != "good"
    shelves.clean([])
    assert ensure("toy", shown) == made


def test_a_failed_step_shows_its_last_lines_and_leaves_its_log(toy: Toy, shown: Shown) -> None:
    toy.edit("cat words", "echo so bad >&2; exit 7; cat words")
    with pytest.raises(CommandFailed) as caught:
        ensure("toy", shown)
    assert "exit code 7" in caught.value.message
    assert "so bad" in caught.value.message
    assert "sh -c" in caught.value.message
    assert "bwrap" not in caught.value.message
    assert toy.kept("artifacts") == []
    (log,) = (toy.cache / "hapair" / "logs").rglob("01-make.log")
    assert "so bad" in log.read_text()


def test_a_line_that_is_missing_is_named(toy: Toy, shown: Shown) -> None:
    toy.edit("cat words {files}/toy.config", "cat words")
    with pytest.raises(HapairError, match=r"toy does not have every line of toy\.config: A=y"):
        ensure("toy", shown)


def test_steps_that_leave_no_result_fail(toy: Toy, shown: Shown) -> None:
    toy.edit("result: toy", "result: troy")
    with pytest.raises(HapairError, match="left no troy"):
        ensure("toy", shown)


def endless(toy: Toy) -> Endless:
    """Make the build one that starts a grandchild, says so, and never ends."""
    naps = f"1000.{uuid.uuid4().int}"  # processes in the sandbox have other numbers there: a word tells them apart
    toy.edit("cat words", f"sleep {naps} & touch {{work}}/begun; wait; cat words")
    return Endless(toy, naps)


@dataclass(frozen=True)
class Endless:
    """A build that never ends by itself."""

    toy: Toy
    naps: str

    def begun(self) -> bool:
        return bool(list((self.toy.cache / "hapair" / "scratch" / "toy").rglob("begun")))

    def gone(self) -> bool:
        """Wait until nothing of it is left: the kernel kills a group's members one after another."""
        return wait_until("the build is gone", lambda: not self._alive(), Deadline.after(10))

    def _alive(self) -> list[str]:
        return [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if self.naps in _words(path)]


def _words(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it ended while we looked


def test_a_stopped_build_kills_its_group_and_leaves_nothing(toy: Toy, shown: Shown) -> None:
    build_, stop, ended = endless(toy), threading.Event(), []

    def build() -> None:
        with pytest.raises(runner.Stopped) as caught:
            ensure("toy", shown, stop=stop)
        ended.append(caught.value)

    thread = threading.Thread(target=build)
    thread.start()
    wait_until("the step runs", build_.begun, Deadline.after(20))
    stop.set()
    thread.join(20)
    assert ended
    assert build_.gone()
    assert (toy.kept("artifacts"), toy.kept("scratch")) == ([], [])


def test_ctrl_c_kills_the_group(toy: Toy, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    build_ = endless(toy)

    def interrupt(*_: object) -> None:
        if build_.begun():
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "LOOK_S", 0.02)
    monkeypatch.setattr(steps, "counter", lambda *_: interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure("toy", shown)
    assert build_.gone()
    assert (toy.kept("artifacts"), toy.kept("scratch")) == ([], [])


def test_what_a_killed_run_left_is_swept_and_not_taken_for_whole(toy: Toy, shown: Shown) -> None:
    left = toy.cache / "hapair" / "scratch" / "toy" / "killed" / "stage"
    left.mkdir(parents=True)
    (left / "toy").write_text("half")
    assert ensure("toy", shown).path.read_text().startswith("hello")
    assert not left.exists()


def test_a_second_run_waits_for_the_first(toy: Toy, shown: Shown) -> None:
    locks = toy.cache / "hapair" / "locks"
    locks.mkdir(parents=True)
    stop = threading.Event()
    stop.set()
    with FileLock(locks / "build-toy.lock"):
        thread_saw: list[type[BaseException]] = []

        def second() -> None:
            try:
                ensure("toy", shown, stop=stop)
            except runner.Stopped as error:
                thread_saw.append(type(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(20)
        with pytest.raises(HapairError, match="toy is being built now"):
            shelves.clean(["toy"])
    assert thread_saw == [runner.Stopped]
    assert shown.titles == ["toy: source toy", "toy: waiting for another run that builds it"]


def test_a_step_has_a_time_limit(toy: Toy, shown: Shown) -> None:
    endless(toy)
    toy.edit("expect_objects: 2", "limit_s: 0.01")
    with pytest.raises(CommandFailed, match=r"no end after 0\.01 s"):
        ensure("toy", shown)


def test_a_missing_tool_names_the_packages(toy: Toy, shown: Shown) -> None:
    toy.edit("files:", "tools: [no-such-tool]\npackages: [gcc, make]\nfiles:")
    with pytest.raises(HostLacks) as caught:
        ensure("toy", shown)
    assert caught.value.hint == "apt-get install gcc make"


def test_too_little_room_is_said_before_anything_is_fetched(toy: Toy, shown: Shown) -> None:
    toy.edit("files:", "disk_bytes: 1_000_000_000_000_000\nfiles:")
    with pytest.raises(HostLacks, match="building toy needs"):
        ensure("toy", shown)
    assert shown.titles == []


def test_a_file_that_is_not_beside_the_spec_is_bad_input(toy: Toy, shown: Shown) -> None:
    (toy.folder / "toy.config").unlink()
    with pytest.raises(BadInput, match=r"toy\.config is not beside it"):
        ensure("toy", shown)


def test_what_remains_is_counted_while_the_log_grows(tmp_path: Path, shown: Shown) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"  CC      a.o\n  AR      b.a\n  AS      c.")
    watch = steps.counter(log, 4, shown)
    watch()
    with log.open("ab") as file:
        file.write(b"o\n  CC      d.o\n" + b"  CC      e.o\n" * 3)
    watch()
    assert [note.partition(",")[0] for note in shown.notes] == ["1 of 4 objects", "6 of 6 objects"]


def _ar(name: str, data: bytes) -> bytes:
    """Return a member of an ar archive (ar(5))."""
    return f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)


def test_a_deb_is_opened_for_the_archive_inside(toy: Toy, shown: Shown) -> None:
    deb = toy.folder / "toy.deb"
    with tarfile.open(toy.folder / "data.tar.gz", "w:gz") as data:
        data.add(toy.archive, "./usr/src/toy-1.tar")
    deb.write_bytes(
        b"!<arch>\n" + _ar("debian-binary", b"2.0\n") + _ar("data.tar.gz", (toy.folder / "data.tar.gz").read_bytes())
    )
    toy.edit("strip: 1", "strip: 1\n    member: usr/src/toy-*.tar")
    assert ensure("toy", shown, sources={"toy": deb}).path.read_text().startswith("hello")
    toy.edit("toy-*.tar", "other-*.tar")
    with pytest.raises(BadInput, match=r"toy\.deb holds 0 files usr/src/other-\*\.tar"):
        ensure("toy", shown)


@pytest.mark.usefixtures("toy")
def test_a_no_op_is_quick(shown: Shown) -> None:
    ensure("toy", shown)
    began = os.times()
    ensure("toy", shown)
    spent = os.times()
    assert spent.user + spent.system - began.user - began.system < 0.3
