"""A strict reader of .tar.zst that trusts nothing: of POSIX pax and GNU tar it takes only what an artifact may hold.

Formats: pax(1) of POSIX.1-2017, "ustar Interchange Format" and "pax Interchange Format"; RFC 8878 for Zstandard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

BLOCK = 512
# One block of zstd makes up to 128 KiB of four bytes, so a piece of this size makes 32 MiB at most.
PIECE_BYTES = 1024
MAX_WINDOW_BYTES = 1 << 27
MAX_TOTAL_BYTES = 4 << 30
MAX_ENTRIES = 200_000
MAX_NAMES_BYTES = 1 << 16
PAX_KEYS = {b"path", b"linkpath", b"size"}
FILE, LINK, FOLDER = "file", "link", "folder"
KINDS = {b"0": FILE, b"\0": FILE, b"2": LINK, b"5": FOLDER}
REFUSED = {b"1": "a hard link", b"3": "a character device", b"4": "a block device", b"6": "a named pipe"}


class Broken(Exception):
    """The archive cannot be read any further; the text says why."""


@dataclass(frozen=True)
class Entry:
    """The header of one file, link or folder; nothing of it has been checked for sense."""

    name: str
    kind: str
    mode: int
    uid: int
    gid: int
    uname: str
    gname: str
    mtime: int
    size_bytes: int
    target: str
    problem: str = ""
    """What kind of entry it is, when it is one that no artifact may hold."""


class _Source:
    """The decompressed stream, read in pieces of bounded size."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._file = file
        self._inflate = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
        self._held = bytearray()
        self._left = max_bytes

    def _more(self) -> bool:
        if self._inflate.eof:
            if self._inflate.unused_data or self._file.read(1):
                raise Broken("data follows the end of the zstd frame")
            return False
        piece = self._file.read(PIECE_BYTES)
        if not piece:
            raise Broken("the zstd stream ends too early: truncated")
        try:
            made = self._inflate.decompress(piece)
        except zstandard.ZstdError as error:
            raise Broken(f"no sound zstd stream: {error}") from None
        self._left -= len(made)
        if self._left < 0:
            raise Broken("it unpacks to more than an artifact may hold: a bomb")
        self._held += made
        return True

    def take(self, count: int) -> bytes:
        """Return exactly `count` bytes."""
        while len(self._held) < count:
            if not self._more():
                raise Broken("the tar stream ends too early: truncated")
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def rest(self) -> Iterator[bytes]:
        """Return what is left, piece by piece."""
        while self._held or self._more():
            yield bytes(self._held)
            self._held.clear()


class Reader:
    """Entries one after another; the content of one is to be taken before the next.

    Raises:
        Broken: from every method, when the archive cannot be read any further.
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int = MAX_TOTAL_BYTES, max_entries: int = MAX_ENTRIES) -> None:
        self._source = _Source(file, max_bytes)
        self._unread = 0
        self._padding = 0
        self._entries_left = max_entries

    def entries(self) -> Iterator[Entry]:
        """Return the entries in the order of the archive."""
        extra: dict[bytes, bytes] = {}
        while True:
            self._skip()
            block = self._source.take(BLOCK)
            if not block.strip(b"\0"):
                self._end(extra)
                return
            self._entries_left -= 1
            if self._entries_left < 0:
                raise Broken("it holds more entries than an artifact may: a bomb")
            size, flag = self._header(block)
            if flag in (b"x", b"L", b"K"):
                extra |= self._names(flag, size)
                continue
            if b"size" in extra:
                size = _decimal(extra[b"size"])
            self._expect(size)
            yield _entry(block, flag, size, extra)
            extra = {}

    def content(self) -> Iterator[bytes]:
        """Return the content of the entry that came last."""
        while self._unread:
            piece = self._source.take(min(self._unread, 1 << 20))
            self._unread -= len(piece)
            yield piece

    def _expect(self, size: int) -> None:
        self._unread, self._padding = size, -size % BLOCK

    def _skip(self) -> None:
        for _ in self.content():
            pass
        if self._source.take(self._padding).strip(b"\0"):
            raise Broken("the padding after a file's content is not empty")
        self._padding = 0

    def _header(self, block: bytes) -> tuple[int, bytes]:
        if block[257:262] != b"ustar":
            raise Broken("no tar header where one must be")
        if _octal(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
            raise Broken("the checksum of a tar header is wrong")
        return _octal(block[124:136]), block[156:157]

    def _names(self, flag: bytes, size: int) -> dict[bytes, bytes]:
        if size > MAX_NAMES_BYTES:
            raise Broken("an extended header is larger than any name may be")
        self._expect(size)
        data = b"".join(self.content())
        if flag == b"x":
            return _pax(data)
        return {b"path" if flag == b"L" else b"linkpath": data.rstrip(b"\0")}

    def _end(self, extra: dict[bytes, bytes]) -> None:
        if extra:
            raise Broken("an extended header belongs to nothing")
        if self._source.take(BLOCK).strip(b"\0"):
            raise Broken("the end mark is half there")
        for piece in self._source.rest():
            if piece.strip(b"\0"):
                raise Broken("data follows the end mark")


def _entry(block: bytes, flag: bytes, size: int, extra: dict[bytes, bytes]) -> Entry:
    name = _text(block[0:100])
    # GNU's own format ("ustar " with a blank) has no prefix field there.
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = f"{prefix}/{name}"
    kind = KINDS.get(flag, "")
    return Entry(
        name=_decoded(extra[b"path"]) if b"path" in extra else name,
        kind=kind,
        mode=_octal(block[100:108]),
        uid=_octal(block[108:116]),
        gid=_octal(block[116:124]),
        uname=_text(block[265:297]),
        gname=_text(block[297:329]),
        mtime=_octal(block[136:148]),
        size_bytes=size,
        target=_decoded(extra[b"linkpath"]) if b"linkpath" in extra else _text(block[157:257]),
        problem="" if kind else REFUSED.get(flag, f"an entry of type {flag!r}"),
    )


def _text(field: bytes) -> str:
    return _decoded(field.partition(b"\0")[0])


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Broken(f"a name is not UTF-8: {data!r}") from None


def _octal(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits.isdigit():
        # Base-256 numbers (GNU) and signs are for what no artifact holds.
        raise Broken(f"a number in a tar header is not octal: {field!r}")
    try:
        return int(digits, 8)
    except ValueError:
        raise Broken(f"a number in a tar header is not octal: {field!r}") from None


def _decimal(data: bytes) -> int:
    if not data.isdigit() or len(data) > 20:
        raise Broken(f"a size is no number: {data!r}")
    return int(data)


def _pax(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    while data:
        digits, blank, _ = data.partition(b" ")
        if not blank or not digits.isdigit() or len(digits) > 6:
            raise Broken("a pax header is malformed")
        record, data = data[len(digits) + 1 : int(digits)], data[int(digits) :]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or not (len(digits) < int(digits)):
            raise Broken("a pax header is malformed")
        if key not in PAX_KEYS:
            raise Broken(f"a pax header holds {key!r}, which no artifact needs")
        found[key] = value[:-1]
    return found
