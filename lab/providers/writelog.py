"""The log of a disk's durable writes, as the kernel's dm-log-writes keeps it: read here, never written.

Format (drivers/md/dm-log-writes.c, Linux 7.2; all numbers little-endian): a superblock in sector 0, then one entry
after the other: a sector with its head, then the data of a write. The kernel holds a write back until a FLUSH that was
sent after its end has ended, and puts the flush itself behind it; a FUA write goes in by itself, as soon as it has
ended. So whatever stands in the log is on stable storage, in that order, and what was not flushed is not in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lab.errors import HapairError

MAGIC = 0x6A736677736872
SECTOR_BYTES = 512
"""The logical block size of User-Mode Linux's disks, which the log counts in."""
FIRST_BYTES = SECTOR_BYTES
"""Where the first entry stands."""

FLUSH, FUA, DISCARD, MARK = 1 << 0, 1 << 1, 1 << 2, 1 << 3

_SUPER = struct.Struct("<QQQI")
_HEAD = struct.Struct("<QQQQ")

Read = Callable[[int, int], bytes]
"""Returns (at most) so many bytes from an offset; nothing beyond the end."""


@dataclass(frozen=True)
class Place:
    """How far a log has been read: the offset of the next entry and its number."""

    offset_bytes: int = FIRST_BYTES
    number: int = 0


@dataclass(frozen=True)
class Entry:
    """One entry: what was written where on the disk, and where its data stands in the log. `after` follows it."""

    flags: int
    start_bytes: int
    size_bytes: int
    data_bytes: int
    """Offset of the data in the log; of no meaning for a discard, which has none."""
    after: Place

    @property
    def discard(self) -> bool:
        """The range holds nothing any more."""
        return bool(self.flags & DISCARD)


def entries(read: Read, disk_bytes: int, begin: Place | None = None) -> Iterator[Entry]:
    """Yield every entry that is complete, from `begin` on; a log that was cut off ends with its last complete one.

    The node's kernel writes head, data, and the next head one after the other. So an entry is complete when it has no
    data, when something follows it, or when the superblock, which is written after a FUA write, counts it.

    Raises:
        HapairError: this is no log of a disk of that size.
    """
    counted = _counted(read(0, _SUPER.size))
    place = begin or Place()
    head = _head(read, place.offset_bytes)
    while any(head):
        sector, sectors, flags, _ = head
        payload = 0 if flags & DISCARD else sectors * SECTOR_BYTES
        start, size, data = sector * SECTOR_BYTES, sectors * SECTOR_BYTES, place.offset_bytes + SECTOR_BYTES
        if start + size > disk_bytes:
            raise HapairError(f"entry {place.number} of a write log leads beyond the disk's {disk_bytes} bytes")
        after = Place(data + payload, place.number + 1)
        following = _head(read, after.offset_bytes)
        if payload and place.number >= counted and not any(following):
            return
        yield Entry(flags, start, size, data, after)
        place, head = after, following


def _counted(block: bytes) -> int:
    """Return how many entries the superblock counts; there is none before the first FUA write."""
    if len(block) < _SUPER.size or not any(block):
        return 0
    magic, version, count, sector_bytes = _SUPER.unpack(block)
    if (magic, version, sector_bytes) != (MAGIC, 1, SECTOR_BYTES):
        raise HapairError(
            f"not a write log: magic {magic:#x}, version {version}, sectors of {sector_bytes} bytes",
            "the kernel's dm-log-writes has changed: lab/providers/writelog.py must follow",
        )
    return int(count)


def _head(read: Read, offset: int) -> tuple[int, int, int, int]:
    """Return sector, sectors, flags and length of private data of the head there; all 0 where none was written."""
    block = read(offset, _HEAD.size)
    if len(block) < _HEAD.size:
        return 0, 0, 0, 0
    sector, sectors, flags, private = _HEAD.unpack(block)
    return sector, sectors, flags, private
