"""The folder for the nodes' memory is found by trying."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.errors import HostLacks
from lab.providers import memory


@pytest.fixture
def all_tmpfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_is_tmpfs", lambda _: True)


@pytest.mark.usefixtures("all_tmpfs")
def test_a_good_folder_is_used_through_a_private_one_below_it(tmp_path: Path) -> None:
    chosen = memory.choose([tmp_path / "missing", tmp_path], 1)
    assert chosen.parent == tmp_path
    assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == [chosen]


def test_tmpfs_is_preferred_and_anything_else_taken_if_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / name for name in ("disk", "tmpfs")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(memory, "_is_tmpfs", lambda folder: folder.name == "tmpfs")
    assert memory.choose(folders, 1).parent.name == "tmpfs"
    assert memory.choose(folders[:1], 1).parent.name == "disk"


@pytest.mark.usefixtures("all_tmpfs")
def test_too_little_space_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match=r"MiB free, 1099511627776 MiB needed") as caught:
        memory.choose([tmp_path], 1 << 60)
    assert "HAPAIR_MEMORY_DIR" in caught.value.hint


def test_noexec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(memory, "mmap", SimpleNamespace(**{**vars(mmap), "mmap": refuse}))
    assert memory.probe(tmp_path, 1) == "mounted noexec"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert memory.probe(tmp_path, 1) == "may not be written to"


def test_the_users_own_choice_comes_first_and_the_lab_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAPAIR_MEMORY_DIR", "/mine")
    monkeypatch.setenv("TMPDIR", "relative/is/ignored")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert memory.candidates(tmp_path) == [Path("/mine"), Path("/dev/shm"), Path("/tmp"), tmp_path]  # noqa: S108 - names only


def test_a_name_that_is_taken_is_left_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(("ab", "ab", "cd"))
    monkeypatch.setattr("secrets.token_hex", lambda _: next(names, "ab"))
    assert [memory.private(tmp_path).name for _ in range(2)] == ["hapair-ab", "hapair-cd"]
    with pytest.raises(HostLacks, match="is full of folders named hapair"):
        memory.private(tmp_path)


def test_the_machine_has_memory() -> None:
    assert memory.available_bytes() > 1 << 20
