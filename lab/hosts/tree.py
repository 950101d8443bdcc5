"""The files of one node as a value: path -> bytes and mode, or link; written to a folder or a tar, always the same."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import BadInput, HapairError

# Lists what a rendered folder holds, so that nothing else is ever removed from one.
MARKER = ".hapair-rendered"
# Every time stamp is the same: 2000-01-01T00:00:00Z, which every archive format can hold.
MTIME_S = 946684800
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # linux/fcntl.h


@dataclass(frozen=True)
class File:
    """A regular file of root's: `mode` is its permission bits; the catalog says what `validator` and `reload` mean."""

    data: bytes
    mode: int = 0o644
    validator: str = "none"
    reload: str = "none"


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Tree:
    """Absolute path -> what is there, sorted by path."""

    entries: Mapping[str, File | Link]

    def __post_init__(self) -> None:
        for path in self.entries:
            if not path.startswith("/") or path != os.path.normpath(path):
                raise HapairError(f"{path} is not a plain absolute path", "correct hostfiles/catalog.yaml")
        object.__setattr__(self, "entries", dict(sorted(self.entries.items())))

    def tar(self) -> bytes:
        """Return the tree as an uncompressed tar with relative names; the same tree gives the same bytes."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path, entry in self.entries.items():
                info = tarfile.TarInfo(path[1:])
                info.mtime, info.uname, info.gname = MTIME_S, "root", "root"
                if isinstance(entry, Link):
                    info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
                    archive.addfile(info)
                else:
                    info.mode, info.size = entry.mode, len(entry.data)
                    archive.addfile(info, io.BytesIO(entry.data))
        return buffer.getvalue()

    def manifest(self) -> str:
        """Return one line for each entry: mode and path, or path and target of a link."""
        return "".join(
            f"link {path} -> {entry.target}\n" if isinstance(entry, Link) else f"{entry.mode:04o} {path}\n"
            for path, entry in self.entries.items()
        )


def write(trees: Mapping[str, Tree], folder: Path) -> list[Path]:
    """Write each tree below `folder`/NAME, in place of what an earlier call wrote there; return the paths written.

    The folder is replaced in one step: a reader sees the old content or the new, never a mixture.

    Raises:
        BadInput: the folder holds anything that no earlier call has written, or its parent cannot be written to.
    """
    folder = folder.absolute()
    _refuse_others(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}", "name a folder that can be written to") from None
    try:
        written = _fill(trees, fresh)
        if folder.exists():
            _exchange(fresh, folder)
        else:
            fresh.rename(folder)
    finally:
        # After an exchange this is the old content.
        shutil.rmtree(fresh, ignore_errors=True)
    return [folder / path for path in written]


def _fill(trees: Mapping[str, Tree], fresh: Path) -> list[str]:
    written: list[str] = []
    for name, tree in sorted(trees.items()):
        for path, entry in tree.entries.items():
            place = fresh / name / path[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(entry, Link):
                place.symlink_to(entry.target)
            else:
                place.write_bytes(entry.data)
                place.chmod(entry.mode)
            written.append(f"{name}{path}")
    (fresh / MARKER).write_text("".join(f"{path}\n" for path in written), encoding="utf-8")
    for parent, _, names in os.walk(fresh, topdown=False):
        for file in names:
            os.utime(Path(parent, file), (MTIME_S, MTIME_S), follow_symlinks=False)
        Path(parent).chmod(0o755)
        os.utime(parent, (MTIME_S, MTIME_S))
    (fresh / MARKER).chmod(0o644)
    return written


def _refuse_others(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise BadInput(f"{folder} is not a folder", "name a new folder, or one that was rendered before")
    if not folder.exists():
        return
    marker = folder / MARKER
    known = set(marker.read_text(encoding="utf-8").splitlines()) if marker.is_file() else set()
    for found in _below(folder):
        if found != MARKER and found not in known:
            raise BadInput(
                f"{folder} holds {found}, which was not rendered",
                "name a new folder, or move that away; nothing was changed",
            )


def _below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        links = [name for name in folders if (here / name).is_symlink()]
        empty = [name for name in folders if name not in links and not any((here / name).iterdir())]
        for name in sorted(names + links + empty):
            yield str((here / name).relative_to(folder))


def _exchange(one: Path, two: Path) -> None:
    """Swap two folders atomically (renameat2(2)), or in two steps on a file system that cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(two), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise HapairError(f"{two}: {os.strerror(number)}", "make the folder and its parent writable")
    aside = Path(tempfile.mkdtemp(prefix=f".{two.name}.", dir=two.parent))
    two.rename(aside)
    one.rename(two)
    aside.rename(one)
