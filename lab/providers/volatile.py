"""A disk with a volatile write cache: what was not flushed is gone once the power is cut.

A killed kernel leaves all its writes in the disk's file. So each run of a node begins with a copy of the file, the
kernel logs what has become durable (`lab.providers.writelog`), and after a cut the copy with the log applied takes the
file's place. Everything that was not flushed is lost then, the worst that a disk may do.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import HapairError
from lab.providers import writelog
from lab.providers.copying import copy_sparse
from lab.providers.writelog import Entry, Place

LOG_BYTES = 64 << 30
"""The size of a log as the node sees it: a sparse file, whose read parts are given back."""
FOLD_BYTES = 64 << 20
"""How much room a log may take before it is applied while the node runs."""
BLOCK_BYTES = 4096
CHUNK_BYTES = 1 << 20
PUNCH_HOLE, KEEP_SIZE = 2, 1  # linux/falloc.h


@dataclass(frozen=True)
class Cut:
    """What a power cut took from a disk: writes of its log that stay, and bytes (in blocks of 4 KiB) that are gone."""

    kept_writes: int
    discarded_bytes: int


class VolatileDisk:
    """One disk file, its log and the copy that holds what is durable, during the runs of one node."""

    def __init__(self, file: Path) -> None:
        """Take the disk in `file`."""
        self._file = file
        self._log, self._durable = log_of(file), file.with_name(f"{file.name}.durable")
        self._place = Place()
        self._lock = threading.RLock()  # a node may restart while its log is being folded

    def begin(self) -> None:
        """Start an empty log of the disk as it is now; the node must be off."""
        with self._lock:
            copy_sparse(self._file, self._durable)
            with self._log.open("wb") as log:
                log.truncate(LOG_BYTES)
            self._place = Place()

    @property
    def full(self) -> bool:
        """The log has grown so much that it ought to be folded."""
        return self._log.stat().st_blocks * 512 > FOLD_BYTES

    def fold(self) -> None:
        """Apply what the log holds to the copy and give its room back; the node may go on meanwhile.

        Raises:
            HapairError: the log is none, or has no room left.
        """
        with self._lock, self._log.open("r+b") as log, self._durable.open("r+b") as durable:
            begin = self._place.offset_bytes
            source, target = log.fileno(), durable.fileno()
            size = os.fstat(target).st_size
            for entry in writelog.entries(lambda offset, length: os.pread(source, length, offset), size, self._place):
                _apply(entry, source, target)
                self._place = entry.after
            _give_back(source, begin, self._place.offset_bytes)
        if self._place.offset_bytes > LOG_BYTES - FOLD_BYTES:
            raise HapairError(f"{self._log.name} has no room left", "invoke lab.destroy, then invoke lab.up")

    def cut(self) -> Cut:
        """Let the disk hold what is durable and nothing else; the node must have been killed.

        Raises:
            HapairError: as `fold`; the disk stays as it is.
        """
        with self._lock:
            self.fold()
            lost = differing_bytes(self._file, self._durable)
            self._durable.replace(self._file)
            return Cut(self._place.number, lost)


def log_of(file: Path) -> Path:
    """Return the file of a disk's write log."""
    return file.with_name(f"{file.name}.log")


def differing_bytes(one: Path, other: Path) -> int:
    """Return how many bytes of two files of one size stand in blocks of 4 KiB that are not the same."""
    lost = 0
    with one.open("rb") as left, other.open("rb") as right:
        for start in {*_chunks(left.fileno()), *_chunks(right.fileno())}:
            first, second = (os.pread(file.fileno(), CHUNK_BYTES, start) for file in (left, right))
            if first != second:
                blocks = (slice(at, at + BLOCK_BYTES) for at in range(0, CHUNK_BYTES, BLOCK_BYTES))
                lost += sum(BLOCK_BYTES for block in blocks if first[block] != second[block])
    return lost


def _chunks(fd: int) -> Iterator[int]:
    """Yield the start of every chunk of a file that has data."""
    at = 0
    with contextlib.suppress(OSError):  # ENXIO: nothing but a hole up to the end
        while True:
            at = os.lseek(fd, at, os.SEEK_DATA) // CHUNK_BYTES * CHUNK_BYTES
            yield at
            at += CHUNK_BYTES


def _apply(entry: Entry, source: int, target: int) -> None:
    for at in range(0, entry.size_bytes, CHUNK_BYTES):
        length = min(CHUNK_BYTES, entry.size_bytes - at)
        data = bytes(length) if entry.discard else os.pread(source, length, entry.data_bytes + at)
        os.pwrite(target, data, entry.start_bytes + at)


def _give_back(fd: int, start: int, end: int) -> None:
    """Make a hole of what has been read; whole pages only, and the superblock stays."""
    start, end = -(-start // BLOCK_BYTES) * BLOCK_BYTES, end // BLOCK_BYTES * BLOCK_BYTES
    if end > start:
        libc = ctypes.CDLL(None, use_errno=True)
        offset, length = ctypes.c_int64(start), ctypes.c_int64(end - start)
        if libc.fallocate64(fd, PUNCH_HOLE | KEEP_SIZE, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate: punching a hole into a write log")
