"""Copies of sparse files that stay sparse."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file's data and leave its holes as holes (lseek(2), SEEK_DATA and SEEK_HOLE); the target is replaced.

    Raises:
        OSError: reading or writing failed; a half-written target is removed.
    """
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            size = os.fstat(reader.fileno()).st_size
            writer.truncate(size)
            for start, end in _extents(reader.fileno(), size):
                _copy_range(reader.fileno(), writer.fileno(), start, end)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _extents(fd: int, size: int) -> list[tuple[int, int]]:
    extents = []
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        extents.append((start, end))
    return extents


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        chunk = os.pread(source, min(end - start, 1 << 20), start)
        if not chunk:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        start += os.pwrite(target, chunk, start)  # fewer bytes than asked for when the disk is full
