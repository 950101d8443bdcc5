"""Write logs made by hand, and the disk that a power cut leaves. A real kernel writes them in the scenarios."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from lab.errors import HapairError
from lab.providers import volatile
from lab.providers.volatile import Cut, VolatileDisk, differing_bytes, log_of
from lab.providers.writelog import DISCARD, FLUSH, FUA, MAGIC, MARK, Place, entries

SECTOR = 512
DISK_BYTES = 1 << 20
Head = tuple[int, int, int, bytes]
"""Sector, sectors, flags, data."""


def head(sector: int, sectors: int, flags: int) -> bytes:
    return struct.pack("<QQQQ", sector, sectors, flags, 0).ljust(SECTOR, b"\0")


def write(sector: int, fill: bytes, sectors: int = 1, flags: int = 0) -> bytes:
    return head(sector, sectors, flags) + fill * (sectors * SECTOR)


def log(*parts: bytes, counted: int | None = None) -> bytes:
    """A log with a superblock that counts so many entries; None: it was never written."""
    block = b"" if counted is None else struct.pack("<QQQI", MAGIC, 1, counted, SECTOR)
    return block.ljust(SECTOR, b"\0") + b"".join(parts) + bytes(4 * SECTOR)


FLUSHED = head(0, 0, FLUSH)


def read(data: bytes, begin: Place | None = None) -> list[tuple[int, int, int]]:
    found = entries(lambda offset, length: data[offset : offset + length], DISK_BYTES, begin)
    return [(entry.flags, entry.start_bytes, entry.size_bytes) for entry in found]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (log(), []),
        (b"", []),
        (log(write(8, b"a"), FLUSHED), [(0, 4096, 512), (FLUSH, 0, 0)]),
        # a flush in the middle, and a write whose flush is under way behind it
        (log(write(0, b"a"), FLUSHED, write(1, b"b"), write(2, b"c")), [(0, 0, 512), (FLUSH, 0, 0), (0, 512, 512)]),
        # the last write may be torn: nothing follows it, nobody counted it
        (log(FLUSHED, write(8, b"a", 8)), [(FLUSH, 0, 0)]),
        (log(FLUSHED, write(8, b"a", 8, FUA), counted=1), [(FLUSH, 0, 0)]),
        # the superblock is written after a FUA write: it is there as a whole
        (log(FLUSHED, write(8, b"a", 8, FUA), counted=2), [(FLUSH, 0, 0), (FUA, 4096, 4096)]),
        # discards and marks have no data in the log
        (
            log(head(16, 64, DISCARD), write(0, b"b"), head(0, 0, MARK)),
            [(DISCARD, 8192, 32768), (0, 0, 512), (MARK, 0, 0)],
        ),
    ],
    ids=["empty", "cut off at once", "flush", "flush in the middle", "torn", "FUA torn", "FUA", "discard and mark"],
)
def test_what_is_complete_counts(data: bytes, found: Sequence[tuple[int, int, int]]) -> None:
    assert read(data) == list(found)


def test_a_log_is_read_on_from_where_it_was_left() -> None:
    data = log(write(8, b"a", 2), write(0, b"b"), FLUSHED)
    places = [entry.after for entry in entries(lambda at, length: data[at : at + length], DISK_BYTES)]
    assert places == [Place(2048, 1), Place(3072, 2), Place(3584, 3)]
    assert read(data, places[0]) == [(0, 0, 512), (FLUSH, 0, 0)] and read(data, places[2]) == []


def test_a_damaged_log_is_refused() -> None:
    with pytest.raises(HapairError, match="leads beyond the disk's 1048576 bytes"):
        read(log(write(DISK_BYTES // SECTOR, b"a"), FLUSHED))
    with pytest.raises(HapairError, match="not a write log: magic 0x1"):
        read(struct.pack("<QQQI", 1, 1, 0, SECTOR).ljust(2048, b"\0"))


def disk_of(folder: Path, content: bytes) -> tuple[VolatileDisk, Path]:
    file = folder / "disk"
    file.write_bytes(content.ljust(DISK_BYTES, b"\0"))
    disk = VolatileDisk(file)
    disk.begin()
    return disk, file


def extend(file: Path, data: bytes, at: int = 0) -> None:
    """Write into a node's disk or its log, as its kernel does."""
    with file.open("r+b") as opened:
        opened.seek(at)
        opened.write(data)


def test_a_cut_leaves_what_the_disk_held_at_the_start_and_what_the_log_made_durable(tmp_path: Path) -> None:
    disk, file = disk_of(tmp_path, b"at the start")
    extend(file, b"S" * 4096, 4096)
    extend(file, b"U" * 5000, 8192)
    extend(log_of(file), log(write(8, b"S", 8), FLUSHED))
    assert disk.cut() == Cut(kept_writes=2, discarded_bytes=8192)
    assert file.read_bytes() == (b"at the start".ljust(4096, b"\0") + b"S" * 4096).ljust(DISK_BYTES, b"\0")


def test_later_writes_win_and_a_discard_empties(tmp_path: Path) -> None:
    disk, file = disk_of(tmp_path, b"x" * 8192)
    extend(log_of(file), log(write(0, b"a"), write(0, b"b"), head(8, 8, DISCARD), FLUSHED))
    disk.cut()
    assert file.read_bytes()[:8192] == b"b" * 512 + b"x" * 3584 + bytes(4096)


def test_the_next_run_begins_with_what_the_cut_left_and_an_empty_log(tmp_path: Path) -> None:
    disk, file = disk_of(tmp_path, b"")
    extend(log_of(file), log(write(0, b"a"), FLUSHED))
    disk.cut()
    disk.begin()
    with log_of(file).open("rb") as opened:
        assert not any(opened.read(65536))
    assert disk.cut() == Cut(0, 0) and file.read_bytes()[:512] == b"a" * 512


def test_folding_in_between_changes_nothing_and_gives_room_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, file = disk_of(tmp_path, b"")
    first = log(write(0, b"a", 512), FLUSHED).rstrip(b"\0").ljust(264192, b"\0")
    extend(log_of(file), first)
    before = log_of(file).stat().st_blocks
    monkeypatch.setattr(volatile, "FOLD_BYTES", 4096)
    assert disk.full
    disk.fold()
    assert log_of(file).stat().st_blocks < before / 8
    at = SECTOR + (512 + 2) * SECTOR
    extend(log_of(file), write(2, b"b") + FLUSHED, at)
    assert disk.cut().kept_writes == 4
    assert file.read_bytes()[:2048] == b"a" * 1024 + b"b" * 512 + b"a" * 512


def test_a_log_without_room_is_refused_and_the_disk_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(volatile, "LOG_BYTES", 8192)
    monkeypatch.setattr(volatile, "FOLD_BYTES", 4096)
    disk, file = disk_of(tmp_path, b"")
    extend(file, b"new")
    extend(log_of(file), log(write(0, b"a", 8), FLUSHED))
    with pytest.raises(HapairError, match="has no room left"):
        disk.cut()
    assert file.read_bytes()[:3] == b"new"


def test_files_are_compared_where_either_has_data(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for file, data, at in ((one, b"1", 0), (other, b"2", 8 << 20)):
        with file.open("wb") as opened:
            opened.truncate(16 << 20)
        extend(file, data, at)
    assert differing_bytes(one, other) == 2 * 4096 and differing_bytes(one, one) == 0
