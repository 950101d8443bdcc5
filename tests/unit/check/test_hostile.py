"""Hostile archives: each is refused for its reason, nothing leaves the folder, and memory stays bounded."""

from __future__ import annotations

import io
import os
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
import zstandard

from lab.check import tarball
from lab.check.hygiene import Tree, unpack
from lab.check.report import Report
from lab.check.tarball import Broken, Reader

MTIME = 1_577_836_800
Item = tarfile.TarInfo


def entry(name: str, kind: bytes = tarfile.REGTYPE, *, to: str = "", mode: int = 0, size: int = 0, **more: int) -> Item:
    """Return a header that is as it must be, but for what is asked."""
    made = Item(name)
    made.type, made.linkname, made.size, made.mtime = kind, to, size, MTIME
    made.mode = mode or {tarfile.DIRTYPE: 0o755, tarfile.SYMTYPE: 0o777}.get(kind, 0o644)
    for key, value in more.items():
        setattr(made, key, value)
    return made


def folder(name: str) -> Item:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, to: str) -> Item:
    return entry(name, tarfile.SYMTYPE, to=to)


def tar(items: Sequence[Item], form: int = tarfile.PAX_FORMAT) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=form) as made:
        for item in items:
            made.addfile(item, io.BytesIO(b"x" * item.size))
    return raw.getvalue()


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def read(data: bytes, into: Path, **limits: int) -> tuple[Tree, Report]:
    into.mkdir(exist_ok=True)
    report = Report()
    return unpack(Reader(io.BytesIO(data), **limits), into, "t", report), report


def everything(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


TOP = folder("t")
GOOD = [TOP, folder("t/a"), entry("t/a/f", size=700), link("t/a/l", "../b"), entry("t/b", mode=0o755)]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_plain_archive_is_read_as_it_is(tmp_path: Path, form: int) -> None:
    tree, report = read(zst(tar(GOOD, form)), tmp_path / "in")
    assert report.faults == []
    assert everything(tmp_path / "in") == {"t", "t/a", "t/a/f", "t/a/l", "t/b"}
    assert (tree.root / "a" / "f").read_bytes() == b"x" * 700
    assert os.access(tree.root / "b", os.X_OK)
    assert tree.leaves["a/l"].target == "../b"


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_are_read(tmp_path: Path, form: int) -> None:
    deep = "t/" + "/".join(["d" * 150] * 2)
    items = [TOP, folder("t/" + "d" * 150), folder(deep), entry(f"{deep}/{'f' * 200}"), link(f"{deep}/g", "f" * 200)]
    tree, report = read(zst(tar(items, form)), tmp_path / "in")
    assert report.faults == []
    assert len(tree.leaves) == 2


HOSTILE: dict[str, tuple[list[Item], str, str]] = {
    "traversal": ([TOP, entry("t/../../evil")], "entry", "climbs out"),
    "traversal at once": ([entry("../evil")], "entry", "climbs out"),
    "absolute": ([TOP, entry("/etc/evil")], "entry", "absolute path"),
    "dot": ([TOP, entry("t/./f")], "entry", "no plain path"),
    "two slashes": ([TOP, entry("t//f")], "entry", "no plain path"),
    "other top": ([TOP, folder("u"), entry("u/f")], "entry", "outside of the one top"),
    "file as top": ([entry("t")], "entry", "outside of the one top"),
    "twice": ([TOP, entry("t/f"), entry("t/f")], "entry", "twice"),
    "file where a folder is": ([TOP, folder("t/f"), entry("t/f")], "entry", "twice"),
    "no folder": ([TOP, entry("t/a/f")], "entry", "no entry of its own"),
    "link out": ([TOP, link("t/l", "../../etc/passwd")], "link", "out of the tree"),
    "absolute link": ([TOP, link("t/l", "/etc/passwd")], "link", "absolute path"),
    "dangling link": ([TOP, link("t/l", "nothing")], "link", "to nothing"),
    "link to itself": ([TOP, link("t/l", "l")], "link", "to nothing"),
    "links in a ring": ([TOP, link("t/k", "l"), link("t/l", "k")], "link", "to nothing"),
    "out by two links": (
        [TOP, folder("t/a"), link("t/a/up", ".."), link("t/out", "a/up/../evil")],
        "link",
        "to nothing",
    ),
    "out by a link and its parent": (
        [TOP, folder("t/a"), folder("t/a/b"), entry("t/a/f"), link("t/a/b/up", "../.."), link("t/o", "a/b/up/../f")],
        "link",
        "to nothing",
    ),
    "write through a link": ([TOP, link("t/a", "../.."), entry("t/a/evil")], "entry", "no entry of its own"),
    "write through a link to a folder": (
        [TOP, folder("t/a"), link("t/b", "a"), entry("t/b/evil")],
        "entry",
        "no entry of its own",
    ),
    "empty link": ([TOP, link("t/l", "")], "link", "to nothing"),
    "hard link": ([TOP, entry("t/f"), entry("t/g", tarfile.LNKTYPE, to="t/f")], "entry", "a hard link"),
    "character device": ([TOP, entry("t/d", tarfile.CHRTYPE, devmajor=1, devminor=3)], "entry", "character device"),
    "block device": ([TOP, entry("t/d", tarfile.BLKTYPE, devmajor=8)], "entry", "block device"),
    "pipe": ([TOP, entry("t/p", tarfile.FIFOTYPE)], "entry", "named pipe"),
    "contiguous file": ([TOP, entry("t/c", tarfile.CONTTYPE)], "entry", "type b'7'"),
    "uid": ([TOP, entry("t/f", uid=1000)], "owner", "1000:0"),
    "gid": ([TOP, entry("t/f", gid=5)], "owner", "0:5"),
    "time": ([TOP, entry("t/f", mtime=MTIME + 1)], "mtime", "not 1577836800"),
    "mode": ([TOP, entry("t/f", mode=0o664)], "mode", "0664"),
    "setuid": ([TOP, entry("t/f", mode=0o4755)], "mode", "4755"),
    "folder's mode": ([TOP, entry("t/d", tarfile.DIRTYPE, mode=0o775)], "mode", "0775"),
    "order": ([TOP, entry("t/b"), entry("t/a")], "order", "not sorted"),
    "name too long": ([TOP, entry("t/" + "f" * 256)], "entry", "no plain path"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_entry_is_named_and_does_no_harm(tmp_path: Path, case: str) -> None:
    items, rule, says = HOSTILE[case]
    place = tmp_path / "deep" / "in"
    place.parent.mkdir()
    tree, report = read(zst(tar(items)), place)
    assert rule in report.rules
    assert says in " ".join(str(fault) for fault in report.faults)
    assert everything(tmp_path) - {"deep", "deep/in", "deep/in/t"} <= {
        f"deep/in/t/{path}" for path in {*tree.leaves, *tree.folders}
    }
    assert not any(path.name == "evil" for path in tmp_path.rglob("*"))
    assert all(path.is_symlink() or path.is_file() or path.is_dir() for path in tmp_path.rglob("*"))


def test_an_owners_name_is_named(tmp_path: Path) -> None:
    item = entry("t/f")
    item.uname = "mallory"
    _, report = read(zst(tar([TOP, item])), tmp_path / "in")
    assert report.rules == {"owner"}


def header(item: Item, at: int, data: bytes, *, mend: bool = True) -> bytes:
    """Return a header with some bytes replaced, and its checksum mended."""
    block = bytearray(item.tobuf(tarfile.USTAR_FORMAT))
    block[at : at + len(data)] = data
    if mend:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = b"\0" * 1024
GOOD_TAR = tar(GOOD)
RAW: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "truncated"),
    "no zstd": (b"hello, this is no archive", "no sound zstd"),
    "truncated zstd": (zst(os.urandom(9000))[:5000], "tar header"),
    "half of it": (zst(GOOD_TAR)[:-9], "truncated"),
    "truncated tar": (zst(GOOD_TAR[:700]), "truncated"),
    "cut at a block": (zst(GOOD_TAR[:1024]), "truncated"),
    "no end mark": (zst(GOOD_TAR.rstrip(b"\0") + b"\0" * 100), "truncated"),
    "half an end mark": (zst(TOP.tobuf() + b"\0" * 512), "truncated"),
    "wrong end mark": (zst(TOP.tobuf() + b"\0" * 512 + b"x" * 512), "half there"),
    "data after the end": (zst(TOP.tobuf() + END + b"x" * 512), "follows the end mark"),
    "data after the frame": (zst(GOOD_TAR) + b"more", "follows the end of the zstd"),
    "a second frame": (zst(GOOD_TAR) + zst(GOOD_TAR), "follows the end of the zstd"),
    "no tar": (zst(b"x" * 10_240), "no tar header"),
    "checksum": (zst(header(TOP, 0, b"u", mend=False) + END), "checksum"),
    "size no number": (zst(header(TOP, 124, b"zzz") + END), "not octal"),
    "size 8": (zst(header(TOP, 124, b"00000000008") + END), "not octal"),
    "size negative": (zst(header(TOP, 124, b"-0000000001") + END), "not octal"),
    "size base 256": (zst(header(TOP, 124, b"\x80") + END), "not octal"),
    "size huge": (zst(header(entry("t"), 124, b"77777777777") + END), "truncated"),
    "not UTF-8": (zst(header(TOP, 0, b"\xff") + END), "not UTF-8"),
    "padding": (zst(entry("t", size=1).tobuf() + b"x" * 512 + END), "padding"),
    "huge names": (zst(header(entry("t"), 156, b"L")[:512] + END), "belongs to nothing"),
    "pax of nothing": (zst(header(entry("t", size=8), 156, b"x") + b"8 path=t" + b"\0" * 504 + END), "malformed"),
    "pax key": (zst(header(entry("t", size=11), 156, b"x") + b"11 mtime=1\n".ljust(512, b"\0") + END), "no artifact"),
    "pax length": (zst(header(entry("t", size=8), 156, b"x") + b"2 path=t".ljust(512, b"\0") + END), "malformed"),
    "pax too large": (zst(header(entry("t", size=1 << 20), 156, b"x") + b"\0" * (1 << 20) + END), "larger than"),
}


@pytest.mark.parametrize("case", RAW)
def test_a_broken_archive_is_refused_for_its_reason(tmp_path: Path, case: str) -> None:
    data, says = RAW[case]
    _, report = read(data, tmp_path / "in")
    assert "archive" in report.rules
    assert says in " ".join(fault.what for fault in report.faults if fault.rule == "archive")


def test_every_single_tampered_byte_of_a_header_is_noticed(tmp_path: Path) -> None:
    whole = TOP.tobuf(tarfile.USTAR_FORMAT)
    for at in range(0, 512, 7):
        changed = bytearray(whole)
        changed[at] ^= 0x41
        _, report = read(zst(bytes(changed) + END), tmp_path / f"in{at}")
        assert report.faults, at


def zeros(total: int) -> bytes:
    """Return a compressed file of zeros in an archive, made without holding it."""
    raw = io.BytesIO()
    with zstandard.ZstdCompressor(level=1).stream_writer(raw, closefd=False) as out:
        out.write(TOP.tobuf() + entry("t/zeros", size=total).tobuf())
        for _ in range(total >> 20):
            out.write(b"\0" * (1 << 20))
        out.write(END)
    return raw.getvalue()


def test_a_bomb_ends_at_the_limit_and_is_never_held_in_memory(tmp_path: Path) -> None:
    bomb = zeros(256 << 20)
    assert len(bomb) < 64 << 10
    tracemalloc.start()
    try:
        _, report = read(bomb, tmp_path / "in", max_bytes=80 << 20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [fault.what for fault in report.faults] == ["it unpacks to more than an artifact may hold: a bomb"]
    assert peak < 128 << 20
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 80 << 20


def test_a_bomb_of_entries_ends_at_the_limit(tmp_path: Path) -> None:
    items = [TOP, *(entry(f"t/{number:04}") for number in range(50))]
    _, report = read(zst(tar(items)), tmp_path / "in", max_entries=20)
    assert report.faults[-1].what == "it holds more entries than an artifact may: a bomb"


def test_a_window_that_would_take_gigabytes_is_refused() -> None:
    wide = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    out = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    data = out.compress(b"x" * 4096) + out.flush()
    with pytest.raises(Broken, match="no sound zstd stream"):
        list(Reader(io.BytesIO(data)).entries())
    assert tarball.MAX_WINDOW_BYTES < 1 << 28
