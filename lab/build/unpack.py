"""Archives into folders, by a reader that trusts nothing: what leads out of the folder, or fills the disk, is refused.

tar (plain, gzip, bzip2, xz, zstd), a .deb, or the tar archive inside a .deb. All of it arrives, or nothing does.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import os
import posixpath
import re
import shutil
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import zstandard

from lab.build.runner import Stopped
from lab.errors import BadInput, HapairError, HostLacks

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK_BYTES = 1 << 20
STREAM_BYTES = 64 << 10  # tarfile copies what it has not used yet at every read
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
DEB_MAGIC = b"!<arch>\n"
"""First bytes of a .deb (deb(5)); each member has a header of 60 bytes (ar(5))."""
AR_HEADER_BYTES = 60
BLOCK_BYTES = 512  # of a tar archive
OPENERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file, mode="rb")),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x28\xb5\x2f\xfd", lambda file: zstandard.ZstdDecompressor().stream_reader(file, closefd=False)),
)
DAMAGED = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError, ValueError)


@dataclass(frozen=True)
class Limits:
    """What an archive may grow to. Linux's source has 100,000 members and 1.7 GB, 11 times its .xz."""

    members: int = 500_000
    total_bytes: int = 8 << 30
    ratio: int = 200
    """Unpacked bytes for each packed one, looked at once there are `ratio_from_bytes`."""
    ratio_from_bytes: int = 64 << 20
    path_chars: int = 1024


LIMITS = Limits()


def unpack(
    archive: Path,
    into: Path,
    *,
    strip: int = 0,
    exclude: tuple[str, ...] = (),
    member: str | None = None,
    root_links: bool = False,
    limits: Limits = LIMITS,
    stop: threading.Event | None = None,
) -> None:
    """Unpack an archive into the folder `into`, which must not exist or be empty. Owners are dropped, modes usual.

    Args:
        archive: the file.
        into: the folder to make.
        strip: leading folders to drop from each path.
        exclude: patterns of paths to leave out; `*` spans folders, and a folder's content goes with it.
        member: the tar archive inside a .deb, as a pattern; None: the .deb's own content.
        root_links: absolute link targets count from the archive's top, as in a .deb, instead of being refused.
        limits: what it may grow to.
        stop: set from another thread, it ends the work.

    Raises:
        BadInput: it is damaged, truncated, no archive, over the limits, or leads out of the folder.
        HostLacks: the disk is full.
        Stopped: `stop` was set.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=".unpack-", dir=into.parent))
    try:
        packed = _inner(archive, member, room / "inner", limits) if member else archive
        writer = _Writer(room / "tree", archive.name, strip, _pattern(exclude), root_links, limits, stop)
        writer.root.mkdir()
        with _told(archive), _content(packed) as stream:
            writer.all(_Counting(stream, packed.stat().st_size, archive.name, limits))
        if into.exists():
            into.rmdir()
        writer.root.replace(into)
    finally:
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _told(archive: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise BadInput(
            f"{archive.name}: damaged, truncated or no archive ({reason})", "fetch or make it again"
        ) from None
    except OSError as error:
        if isinstance(error, gzip.BadGzipFile) or error.errno is None:  # bz2 says so without a number
            raise BadInput(f"{archive.name}: damaged ({error})", "fetch or make it again") from None
        raise full(error, archive.name) from None


def full(error: OSError, doing: str) -> HapairError:
    """Return what to tell about a failure of the disk while something was written."""
    name = error.filename2 or error.filename  # of a copy, the second one was written
    where = f" ({name})" if name else ""
    return HostLacks(f"{doing}: {error.strerror}{where}", "make room there, or point XDG_CACHE_HOME at a larger disk")


@contextmanager
def _content(path: Path) -> Iterator[IO[bytes]]:
    """Open the tar stream in a file, whatever it is packed with."""
    with path.open("rb") as file:
        magic = file.read(len(DEB_MAGIC))
        file.seek(0)
        inner: IO[bytes] = _data(file) if magic == DEB_MAGIC else file
        begin = inner.read(6)
        inner.seek(0)
        opener = next((opener for mark, opener in OPENERS if begin.startswith(mark)), None)
        stream = opener(inner) if opener else inner
        try:
            yield stream
        finally:
            stream.close()


def _data(file: IO[bytes]) -> IO[bytes]:
    """Find the member `data.tar.*` of a .deb."""
    file.seek(len(DEB_MAGIC))
    while header := file.read(AR_HEADER_BYTES):
        if len(header) < AR_HEADER_BYTES or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise tarfile.ReadError("not a Debian package")
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return io.BufferedReader(_Part(file, file.tell(), size))
        file.seek(size + size % 2, os.SEEK_CUR)
    raise tarfile.ReadError("a Debian package without content")


def _inner(deb: Path, member: str, into: Path, limits: Limits) -> Path:
    """Copy the one member of a .deb that a pattern names."""
    into.mkdir()
    names: list[str] = []
    with _told(deb), _content(deb) as stream:
        counted = _Counting(stream, deb.stat().st_size, deb.name, limits)
        with _tar(counted) as tar:
            for info in tar:
                name = posixpath.normpath(info.name)
                if info.isreg() and fnmatch.fnmatchcase(name, member) and (source := tar.extractfile(info)):
                    names.append(name)
                    with (into / "archive").open("wb") as sink:
                        shutil.copyfileobj(source, sink, CHUNK_BYTES)
    if len(names) != 1:
        raise BadInput(f"{deb.name} holds {len(names)} files {member}, not one", "name another package")
    return into / "archive"


def _pattern(exclude: tuple[str, ...]) -> Callable[[str], object]:
    if not exclude:
        return lambda _: None
    # As GNU tar: a pattern that matches a folder takes along what is in it.
    return re.compile("|".join(fnmatch.translate(one).removesuffix(r"\Z") + r"(?:/.*)?\Z" for one in exclude)).match


class _Part(io.RawIOBase):
    """A part of an open file."""

    def __init__(self, file: IO[bytes], begin: int, size: int) -> None:
        self._file, self._begin, self._size, self._at = file, begin, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._begin + self._at)
        data = self._file.read(max(0, min(len(view), self._size - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Counting:
    """A stream that refuses to grow beyond what its packed size makes likely."""

    def __init__(self, stream: IO[bytes], packed_bytes: int, name: str, limits: Limits) -> None:
        self._stream, self._packed, self._name, self._limits = stream, max(1, packed_bytes), name, limits
        self.count = 0
        self._last = (b"", b"")

    def zeros_at(self, offset: int) -> bool:
        """Tell whether the block at `offset`, which was among the last read, holds nothing but zeros."""
        tail = b"".join(self._last)
        begin = offset - (self.count - len(tail))
        return begin >= 0 and tail[begin : begin + BLOCK_BYTES] == bytes(BLOCK_BYTES)

    def read(self, size: int) -> bytes:
        # Decompressors may return less than asked for; tarfile takes that for the end.
        pieces: list[bytes] = []
        wanted = size
        while wanted and (piece := self._stream.read(wanted)):
            pieces.append(piece)
            wanted -= len(piece)
        self.count += size - wanted
        over = self.count > self._limits.total_bytes
        if over or self.count > max(self._limits.ratio_from_bytes, self._packed * self._limits.ratio):
            raise BadInput(
                f"{self._name}: its {self._packed} bytes unpack to more than {self.count - 1}: a decompression bomb",
                "look at where it came from",
            )
        self._last = (self._last[1], b"".join(pieces))
        return self._last[1]


def _tar(stream: _Counting) -> tarfile.TarFile:
    # "r|": one pass, no seeking, so each byte is counted before it is written. It needs no more than read().
    return tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|", bufsize=STREAM_BYTES)


@dataclass
class _Writer:
    """Writes members below `root`, one after the other, and refuses those that would end up elsewhere."""

    root: Path
    name: str
    strip: int
    excluded: Callable[[str], object]
    root_links: bool
    limits: Limits
    stop: threading.Event | None
    links: list[tuple[Path, tarfile.TarInfo]] = field(default_factory=list)

    def all(self, stream: _Counting) -> None:
        """Write every member of a tar stream."""
        with _tar(stream) as tar:
            for number, info in enumerate(tar, 1):
                if number > self.limits.members:
                    self._refuse(info, f"is one more than {self.limits.members} members")
                if self.stop is not None and self.stop.is_set():
                    raise Stopped(f"stopped while unpacking {self.name}")
                self._one(tar, info)
                tar.members.clear()  # type: ignore[attr-defined]  # else tarfile keeps all of them in memory
            # tarfile takes a damaged header for the end, and a missing end for a good one.
            if not stream.zeros_at(tar.offset):
                raise EOFError("the end is missing")
        while stream.read(STREAM_BYTES):
            continue  # only at its very end does a decompressor compare checksums
        top = self.root.resolve()
        for link, info in self.links:
            # What a chain of links makes of the path shows only now.
            if not link.resolve().is_relative_to(top):
                self._refuse(info, f"links out of the folder, to {info.linkname!r}")

    def _refuse(self, info: tarfile.TarInfo, why: str) -> None:
        raise BadInput(f"{self.name}: its member {info.name!r} {why}", "look at where the archive came from")

    def _one(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        path = self._path(info, info.name)
        if path is None or self.excluded(posixpath.normpath(info.name)):
            return
        parent = self.root
        for part in path.parts[:-1]:
            parent = parent / part
            if parent.is_symlink() or parent.is_file():
                self._refuse(info, f"lies below {parent.relative_to(self.root)}, which is no folder")
        target = self.root / path
        parent.mkdir(parents=True, exist_ok=True)
        if info.isdir():
            if target.is_symlink() or target.is_file():
                self._refuse(info, "takes the place of something that is no folder")
            target.mkdir(exist_ok=True)
            return
        if target.is_dir() and not target.is_symlink():
            self._refuse(info, "takes the place of a folder")
        target.unlink(missing_ok=True)
        if info.issym():
            target.symlink_to(self._link(info, path))
            self.links.append((target, info))
        elif info.islnk():
            self._hard(info, target)
        elif info.isreg():
            self._file(tar, info, target)
        else:
            self._refuse(info, "is neither file, folder nor link (a device or a pipe)")

    def _path(self, info: tarfile.TarInfo, name: str) -> Path | None:
        """Return the path in the tree, None when `strip` leaves nothing of it."""
        if name.startswith("/") or ".." in name.split("/"):
            self._refuse(info, "leads out of the folder")
        if len(name) > self.limits.path_chars or CONTROL.search(name):
            self._refuse(info, "has a name that is too long, or has control characters")
        parts = [part for part in name.split("/") if part not in ("", ".")][self.strip :]
        return Path(*parts) if parts else None

    def _link(self, info: tarfile.TarInfo, path: Path) -> str:
        target = info.linkname
        if target.startswith("/") and self.root_links:
            target = posixpath.relpath(target.lstrip("/"), str(path.parent))
        lands = posixpath.normpath(posixpath.join(str(path.parent), target))
        if not target or target.startswith("/") or lands == ".." or lands.startswith("../") or "\0" in target:
            self._refuse(info, f"links out of the folder, to {info.linkname!r}")
        return target

    def _hard(self, info: tarfile.TarInfo, target: Path) -> None:
        source = self._path(info, info.linkname)
        file = self.root / source if source else self.root
        resolved = file.parent.resolve() / file.name
        if not resolved.is_relative_to(self.root.resolve()) or file.is_symlink() or not file.is_file():
            self._refuse(info, f"is a link to {info.linkname!r}, which is no file before it")
        target.hardlink_to(file)

    def _file(self, tar: tarfile.TarFile, info: tarfile.TarInfo, target: Path) -> None:
        source = tar.extractfile(info)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(target, flags, 0o755 if info.mode & 0o100 else 0o644), "wb") as sink:  # noqa: PTH123 - a file descriptor
            if source is not None:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)
            if sink.tell() != info.size:
                raise EOFError(f"{info.name} is cut off")
            sink.flush()  # what is written after utime would set the time again
            os.fchmod(sink.fileno(), 0o755 if info.mode & 0o100 else 0o644)
            moment = max(0, int(info.mtime))
            os.utime(sink.fileno(), (moment, moment))
