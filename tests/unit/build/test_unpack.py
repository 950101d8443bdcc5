"""The archive reader: what leads out, grows without end or breaks off is refused, and leaves nothing."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lab.build.unpack import Limits, unpack
from lab.errors import BadInput

Members = list[tuple[tarfile.TarInfo, bytes]]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> Members:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode, info.mtime = kind, link, len(data), mode, 1_000_000_000
    return [(info, data)]


def tar(*members: Members) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for one in members:
            for info, data in one:
                archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


GOOD = tar(
    member("top/", kind=tarfile.DIRTYPE),
    member("top/run", b"#!/bin/sh\n", mode=0o4777),
    member("top/deep/text", b"words\n" * 20_000, mode=0o600),
    member("top/link", kind=tarfile.SYMTYPE, link="deep/text"),
    member("top/same", kind=tarfile.LNKTYPE, link="top/deep/text"),
)
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
}


def put(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "archive"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("packer", PACKERS)
def test_a_good_archive_arrives_with_usual_modes(tmp_path: Path, packer: str) -> None:
    into = tmp_path / "in"
    unpack(put(tmp_path, PACKERS[packer](GOOD)), into, strip=1)
    assert (into / "deep/text").read_bytes() == b"words\n" * 20_000
    assert {path.name: path.stat().st_mode & 0o7777 for path in into.iterdir() if path.is_file()} == {
        "run": 0o755,
        "link": 0o644,
        "same": 0o644,
    }
    assert (into / "run").stat().st_mtime == 1_000_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "in"]


HOSTILE = {
    "climbs": (member("top/../../x"), "leads out"),
    "absolute": (member("/etc/x"), "leads out"),
    "control": (member("top/a\nb"), "control characters"),
    "long": (member("top/" + "a/" * 600), "too long"),
    "link up": (member("top/l", kind=tarfile.SYMTYPE, link="../../x"), "links out"),
    "link absolute": (member("top/l", kind=tarfile.SYMTYPE, link="/etc/passwd"), "links out"),
    "through a link": (
        member("top/l", kind=tarfile.SYMTYPE, link=".") + member("top/l/x", b"x"),
        "lies below l, which is no folder",
    ),
    "a chain of links": (
        member("top/d/", kind=tarfile.DIRTYPE)
        + member("top/a/b/l", kind=tarfile.SYMTYPE, link="../../d")
        + member("top/m", kind=tarfile.SYMTYPE, link="a/b/l/../.."),
        "links out",
    ),
    "hard link up": (member("top/h", kind=tarfile.LNKTYPE, link="../../etc/passwd"), "leads out"),
    "hard link to nothing": (member("top/h", kind=tarfile.LNKTYPE, link="top/none"), "no file before it"),
    "hard link to a link": (
        member("top/l", kind=tarfile.SYMTYPE, link="x") + member("top/h", kind=tarfile.LNKTYPE, link="top/l"),
        "no file before it",
    ),
    "device": (member("top/d", kind=tarfile.CHRTYPE), "a device or a pipe"),
    "pipe": (member("top/p", kind=tarfile.FIFOTYPE), "a device or a pipe"),
    "file over folder": (member("top/d/x", b"x") + member("top/d", b"x"), "the place of a folder"),
    "folder over file": (member("top/d", b"x") + member("top/d/", kind=tarfile.DIRTYPE), "no folder"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_leads_out_is_refused_and_nothing_is_kept(tmp_path: Path, kind: str) -> None:
    members, says = HOSTILE[kind]
    room = tmp_path / "room"
    room.mkdir()
    with pytest.raises(BadInput, match=says):
        unpack(put(tmp_path, tar(member("top/first", b"x"), members)), room / "in", strip=1)
    assert list(room.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "room"]


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path: Path, packer: str, share: float) -> None:
    data = PACKERS[packer](GOOD)
    with pytest.raises(BadInput, match="damaged, truncated or no archive"):
        unpack(put(tmp_path, data[: int(len(data) * share)]), tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_an_archive_that_ends_between_two_members_is_refused(tmp_path: Path) -> None:
    data = tar(member("a", b"x" * 512), member("b", b"y" * 512))
    with pytest.raises(BadInput, match="the end is missing"):
        unpack(put(tmp_path, data[:1024]), tmp_path / "in")


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    data = bytearray(tar(member("a", b"x" * 512), member("b", b"y" * 512)))
    data[1024 + 148 : 1024 + 154] = b"777777"  # its checksum
    with pytest.raises(BadInput, match="the end is missing"):
        unpack(put(tmp_path, bytes(data)), tmp_path / "in")


@pytest.mark.parametrize("packer", ["gz", "xz", "zst"])
def test_a_flipped_bit_is_noticed(tmp_path: Path, packer: str) -> None:
    data = bytearray(PACKERS[packer](GOOD))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(BadInput):
        unpack(put(tmp_path, bytes(data)), tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_bomb_is_stopped_early(tmp_path: Path) -> None:
    data = gzip.compress(tar(member("zeros", bytes(20 << 20))))
    limits = Limits(ratio_from_bytes=1 << 20)
    with pytest.raises(BadInput, match="a decompression bomb"):
        unpack(put(tmp_path, data), tmp_path / "in", limits=limits)
    unpack(put(tmp_path, data), tmp_path / "in", limits=Limits())
    assert (tmp_path / "in" / "zeros").stat().st_size == 20 << 20


@pytest.mark.parametrize(("limits", "says"), [(Limits(total_bytes=1 << 16), "bomb"), (Limits(members=3), "one more")])
def test_size_and_number_are_bounded(tmp_path: Path, limits: Limits, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        unpack(put(tmp_path, GOOD), tmp_path / "in", limits=limits)
    assert not (tmp_path / "in").exists()


def test_excluded_folders_take_their_content_along(tmp_path: Path) -> None:
    unpack(put(tmp_path, GOOD), tmp_path / "in", strip=1, exclude=("*/deep", "*/same"))
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["link", "run"]


def test_links_of_a_package_count_from_its_top(tmp_path: Path) -> None:
    data = tar(member("usr/a", b"x"), member("usr/share/l", kind=tarfile.SYMTYPE, link="/usr/a"))
    unpack(put(tmp_path, data), tmp_path / "in", root_links=True)
    assert (tmp_path / "in/usr/share/l").readlink() == Path("../a")


@pytest.mark.parametrize("data", [b"", b"words", b"!<arch>\nwords", b"!<arch>\n", bytes(10)])
def test_what_is_no_archive_is_said(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadInput, match="archive: damaged, truncated or no archive"):
        unpack(put(tmp_path, data), tmp_path / "in")
