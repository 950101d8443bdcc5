"""Compiles the host programs once, on the node itself: only its own Python knows what its bytecode looks like."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import marshal
import os
import zipfile
from pathlib import Path

HEADER = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
"""Of bytecode that nobody compares with its source (PEP 552): the archive's name says what it was made from."""


def make(archive: str, kept: str) -> None:
    """Write the bytecode of all modules in the zipapp `archive` to the archive `kept`, whole or not at all.

    It is only an aid: on a disk that is full or cannot be written, nothing is made. Bytecode of former archives goes,
    but for the last one: programs that were started with it may still import from it.
    """
    path = Path(kept)
    with contextlib.suppress(OSError, zipfile.BadZipFile):
        path.parent.mkdir(parents=True, exist_ok=True)
        former = sorted(path.parent.glob("*.zip"), key=lambda one: one.stat().st_mtime)
        _write(path, _compiled(archive))
        for old in former[:-1]:
            old.unlink()


def _compiled(archive: str) -> bytes:
    place = os.path.realpath(archive)
    sink = io.BytesIO()
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as target:
        for name in source.namelist():
            if name.startswith("hapair/"):
                code = compile(source.read(name), f"{place}/{name}", "exec", dont_inherit=True)
                target.writestr(f"{name}c", HEADER + marshal.dumps(code))
    return sink.getvalue()


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            # A power cut must not leave half of it under its name.
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
