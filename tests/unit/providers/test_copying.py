"""Sparse copies: the same bytes, the same holes, and never half of a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lab.providers.copying import copy_sparse

MIB = 1 << 20
CONTENTS = {
    "nothing": (0, {}),
    "one hole": (8 * MIB, {}),
    "data in the middle": (8 * MIB, {3 * MIB: b"middle"}),
    "data at both ends": (8 * MIB, {0: b"first", 8 * MIB - 4: b"last"}),
    "more than one piece": (5 * MIB + 7, {MIB // 2: os.urandom(2 * MIB + 5)}),
}


def make(path: Path, size: int, parts: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, data in parts.items():
            file.seek(at)
            file.write(data)
    return path


def stored(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.mark.parametrize(("size", "parts"), CONTENTS.values(), ids=CONTENTS)
def test_bytes_are_equal_and_holes_stay(tmp_path: Path, size: int, parts: dict[int, bytes]) -> None:
    source = make(tmp_path / "source", size, parts)
    copy_sparse(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    if size and stored(source) >= size:
        pytest.skip("this file system has no holes")
    # Twice 64 KiB for each part: file systems give out space in blocks and ahead.
    assert stored(tmp_path / "target") <= sum(len(data) + (128 << 10) for data in parts.values())


def test_the_target_is_replaced(tmp_path: Path) -> None:
    source = make(tmp_path / "source", MIB, {4096: b"new"})
    (tmp_path / "target").write_bytes(b"old" * MIB)
    copy_sparse(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_a_write_that_takes_only_a_part_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "source", 10_000, {0: os.urandom(10_000)})
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:3000], at))
    copy_sparse(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_no_half_written_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    source = make(tmp_path / "source", 4 * MIB, {0: b"x" * 3 * MIB})
    write, left = os.pwrite, [1]

    def fails(fd: int, data: bytes, at: int) -> int:
        if not left:
            raise error
        left.pop()
        return write(fd, data, at)

    monkeypatch.setattr(os, "pwrite", fails)
    with pytest.raises(type(error)):
        copy_sparse(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_shrinks_meanwhile_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "source", 10_000, {0: b"x" * 10_000})
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(OSError, match="became shorter"):
        copy_sparse(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_missing_source_leaves_the_target_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"old"
