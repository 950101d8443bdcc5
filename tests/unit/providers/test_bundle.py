"""Bundles: round trips, and every way in which one can be bad; a bad one leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab import log, paths
from lab.errors import BadInput, HostLacks
from lab.providers import bundle
from lab.providers.image import IMAGE
from lab.providers.plan import Artifacts

KERNEL = b"\x7fELF" + bytes(range(256)) * 20
SIZE_BYTES = 3 << 20
ISLANDS = {0: b"superblock", 700_000: b"x" * 70_000, SIZE_BYTES - 3: b"end"}
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept() -> list[str]:
    """What the cache holds of bundles, but for lock files."""
    return [path.name for path in (paths.cache() / "bundles").glob("*") if path.suffix != ".lock"]


@pytest.fixture
def made(tmp_path: Path) -> Artifacts:
    """A kernel, and an image that is mostly holes."""
    kernel, image = tmp_path / "kernel", tmp_path / "image"
    kernel.write_bytes(KERNEL)
    kernel.chmod(0o755)
    with image.open("wb") as file:
        for offset, data in ISLANDS.items():
            file.seek(offset)
            file.write(data)
    return Artifacts(kernel, sha256(kernel), image, sha256(image))


@pytest.fixture
def packed(made: Artifacts, tmp_path: Path) -> Path:
    """A good bundle, with one more file in it."""
    (tmp_path / "seed").write_text("more")
    bundle.pack(made, tmp_path / "good.bundle", log.silent(), {"n1.cow": tmp_path / "seed"})
    return tmp_path / "good.bundle"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(place: Path | str) -> bundle.Bundle:
    return bundle.unpack(str(place), log.silent())


def test_a_round_trip_gives_the_same_files(made: Artifacts, packed: Path) -> None:
    opened = unpack(packed)
    assert opened.artifacts.digests == made.digests
    assert opened.artifacts.kernel.read_bytes() == KERNEL
    assert os.access(opened.artifacts.kernel, os.X_OK)
    assert opened.artifacts.image.read_bytes() == made.image.read_bytes()
    assert opened.artifacts.image.stat().st_mode & 0o777 == 0o444
    assert opened.artifacts.image.stat().st_blocks * 512 < SIZE_BYTES // 2
    assert {name: path.read_text() for name, path in opened.extra.items()} == {"n1.cow": "more"}
    assert bundle.open_bundle(str(packed), log.silent()) == opened.artifacts


def test_an_address_is_as_good_as_a_file(made: Artifacts, packed: Path) -> None:
    assert unpack(packed.as_uri()).artifacts.digests == made.digests


def test_the_same_files_make_the_same_bytes(made: Artifacts, packed: Path, tmp_path: Path) -> None:
    os.utime(made.image, (1, 1))
    made.kernel.chmod(0o700)
    bundle.pack(made, tmp_path / "again", log.silent(), {"n1.cow": tmp_path / "seed"})
    assert (tmp_path / "again").read_bytes() == packed.read_bytes()
    assert packed.stat().st_size < 100_000


@pytest.mark.parametrize("data", [b"", b"\0", bytes(200_000), b"x" * bundle.BLOCK_BYTES, bytes(65536) + b"x"])
def test_every_kind_of_image_survives(made: Artifacts, tmp_path: Path, data: bytes) -> None:
    made.image.write_bytes(data)
    bundle.pack(made, tmp_path / "b", log.silent())
    assert unpack(tmp_path / "b").artifacts.image.read_bytes() == data


def test_a_known_bundle_is_not_unpacked_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = unpack(packed)
    monkeypatch.setattr(bundle._Archive, "unpack", lambda *_: pytest.fail("unpacked again"))
    assert unpack(packed) == first


def test_what_was_unpacked_is_checked_on_use(packed: Path) -> None:
    kernel = unpack(packed).artifacts.kernel
    kernel.chmod(0o755)
    kernel.write_bytes(KERNEL[:-1] + b"X")
    with pytest.raises(HostLacks, match="linux: SHA-256 is") as caught:
        unpack(packed)
    assert f"remove {kernel.parent}" in caught.value.hint


def test_every_cut_is_noticed_and_nothing_is_kept(packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
    end = members[-1].offset_data + members[-1].size
    middles = [member.offset_data + member.size // 2 for member in members]
    short = tmp_path / "short"
    for length in {0, 1, 511, 512, 513, *middles, *(member.offset for member in members), end - 9, end - 1}:
        short.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="short"):
            unpack(short)
        assert kept() == []


def test_a_flipped_byte_is_noticed_or_harmless(made: Artifacts, packed: Path, tmp_path: Path) -> None:
    whole = packed.read_bytes()
    bent = tmp_path / "bent"
    refused = 0
    for position in range(0, len(whole), 97):
        bent.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            opened = unpack(bent)
        except BadInput:
            refused += 1
            continue
        shutil.rmtree(opened.artifacts.kernel.parent)  # a known bundle would not be read
        # Padding, or a field of a header that has no meaning here: what came out is right all the same.
        assert opened.artifacts.digests == made.digests
    assert refused > 20


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return info, data


def archive(path: Path, *members: Member) -> Path:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def manifest(change: Callable[[dict[str, Any]], object] = lambda _: None, **more: str) -> Member:
    """A right manifest of a kernel b"k" and an image b"i", changed, and sealed."""
    files = {
        name: {"size_bytes": 1, "sha256": hashlib.sha256(data).hexdigest(), "executable": False, "data": [[0, 1]]}
        for name, data in {"linux": b"k", IMAGE: b"i"}.items()
    }
    value = {"version": bundle.VERSION, "files": files, **more}
    change(value)
    text = json.dumps(value).encode()
    return member("manifest.json", f"{hashlib.sha256(text).hexdigest()}\n".encode() + text + b"\n")


LINUX = member("linux.gz", gzip.compress(b"k"))
ROOT = member(f"{IMAGE}.gz", gzip.compress(b"i"))


def both(change: Callable[[dict[str, Any]], object]) -> list[Member]:
    return [manifest(change), LINUX, ROOT]


def rename(value: dict[str, Any], name: str) -> None:
    value["files"][name] = value["files"].pop("linux")


BAD: dict[str, tuple[list[Member], str]] = {
    "no manifest": ([LINUX, ROOT], "does not begin with a manifest"),
    "manifest is a link": ([member("manifest.json", kind=tarfile.SYMTYPE, target="/etc/passwd")], "no plain file"),
    "manifest is huge": ([member("manifest.json", bytes(bundle.MANIFEST_LIMIT_BYTES + 1))], "does not begin with"),
    "manifest without seal": ([member("manifest.json", b"{}\n")], "was changed"),
    "seal of another": ([member("manifest.json", b"0" * 64 + b"\n{}\n"), LINUX, ROOT], "was changed"),
    "no JSON": ([member("manifest.json", hashlib.sha256(b"{").hexdigest().encode() + b"\n{\n")], "not one of this"),
    "unknown key": ([manifest(more="x"), LINUX, ROOT], "not one of this version"),
    "later version": (both(lambda value: value.update(version=2)), "version 2 of the format"),
    "no kernel": (both(lambda value: value["files"].pop("linux")), "its manifest names"),
    "name goes up": (both(lambda value: rename(value, "../linux")), "its manifest names"),
    "absolute name": (both(lambda value: rename(value, "/linux")), "its manifest names"),
    "hidden name": (both(lambda value: rename(value, ".linux")), "its manifest names"),
    "names its own record": (
        both(lambda value: value["files"].update({"manifest.json": value["files"]["linux"]})),
        "its manifest names",
    ),
    "missing member": ([manifest(), LINUX], r"root\.ext4 is missing"),
    "surplus member": ([manifest(), LINUX, ROOT, member("x.gz", gzip.compress(b""))], "'x.gz', which its manifest"),
    "member twice": ([manifest(), LINUX, LINUX, ROOT], "'linux.gz', which its manifest does not name"),
    "member goes up": ([manifest(), member("../linux.gz", gzip.compress(b"k")), ROOT], "which its manifest does not"),
    "absolute member": ([manifest(), member("/linux.gz", gzip.compress(b"k")), ROOT], "which its manifest does not"),
    "symbolic link": ([manifest(), member("linux.gz", kind=tarfile.SYMTYPE, target="/bin/sh"), ROOT], "no plain file"),
    "hard link": ([manifest(), member("linux.gz", kind=tarfile.LNKTYPE, target=f"{IMAGE}.gz")], "no plain file"),
    "block device": ([manifest(), member("linux.gz", kind=tarfile.BLKTYPE), ROOT], "no plain file"),
    "character device": ([manifest(), member("linux.gz", kind=tarfile.CHRTYPE), ROOT], "no plain file"),
    "pipe": ([manifest(), member("linux.gz", kind=tarfile.FIFOTYPE), ROOT], "no plain file"),
    "folder": ([manifest(), member("linux.gz", kind=tarfile.DIRTYPE), ROOT], "no plain file"),
    "sparse": ([manifest(), member("linux.gz", kind=tarfile.GNUTYPE_SPARSE), ROOT], "linux.gz|whole bundle"),
    "wrong digest": ([manifest(), member("linux.gz", gzip.compress(b"K")), ROOT], "linux has SHA-256"),
    "too long": ([manifest(), member("linux.gz", gzip.compress(b"k" * 99)), ROOT], "longer than its manifest"),
    "too short": ([manifest(), member("linux.gz", gzip.compress(b"")), ROOT], "linux ends early"),
    "not gzip": ([manifest(), member("linux.gz", b"k"), ROOT], "not a whole bundle"),
    "gzip cut": ([manifest(), member("linux.gz", gzip.compress(b"k")[:-4]), ROOT], "not a whole bundle"),
    "data past the end": (both(lambda value: value["files"]["linux"].update(data=[[1, 1]])), "past its end"),
    "data twice": (both(lambda value: value["files"]["linux"].update(data=[[0, 1], [0, 1]])), "overlap"),
    "negative size": (both(lambda value: value["files"]["linux"].update(size_bytes=-1)), "not one of this version"),
    "endless size": (both(lambda value: value["files"]["linux"].update(size_bytes=1 << 60)), "not one of this version"),
}


def test_the_stand_in_for_bad_bundles_is_good_itself(tmp_path: Path) -> None:
    assert unpack(archive(tmp_path / "b", manifest(), LINUX, ROOT)).artifacts.image.read_bytes() == b"i"


@pytest.mark.parametrize(("members", "message"), BAD.values(), ids=BAD)
def test_a_bad_bundle_is_refused_and_nothing_is_kept(tmp_path: Path, members: list[Member], message: str) -> None:
    bad = archive(tmp_path / "bad", *members)
    with pytest.raises(BadInput, match=message) as caught:
        unpack(bad)
    assert str(bad) in caught.value.message
    assert caught.value.hint
    assert kept() == []
    assert {path.name for path in tmp_path.iterdir()} <= {"bad", "cache"}


@pytest.mark.parametrize("data", [b"", b"<html>no such page</html>" * 99, bytes(4096), gzip.compress(b"x", mtime=0)])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(BadInput, match="other"):
        unpack(tmp_path / "other")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="none: No such file"):
        unpack(tmp_path / "none")
    with pytest.raises(BadInput, match="not an https, http or file address"):
        unpack("ftp://host.test/bundle")


def test_a_disk_that_is_too_small_is_found_first(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10})())
    with pytest.raises(HostLacks, match="0 MiB are free"):
        unpack(packed)
    assert kept() == []


def test_an_interrupt_while_unpacking_keeps_nothing(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_step: object, text: str) -> None:
        if text == IMAGE:
            raise KeyboardInterrupt

    monkeypatch.setattr("lab.log.Step.note", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(packed)
    assert kept() == []


def test_an_interrupt_while_packing_keeps_the_old_file(
    made: Artifacts, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = packed.read_bytes(), sorted(packed.parent.iterdir())

    def interrupt(_step: object, text: str) -> None:
        if text == IMAGE:
            raise KeyboardInterrupt

    monkeypatch.setattr("lab.log.Step.note", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bundle.pack(made, packed, log.silent())
    assert (packed.read_bytes(), sorted(packed.parent.iterdir())) == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "linux", IMAGE, "manifest.json", "a b"])
def test_a_name_that_no_bundle_may_have_is_refused(made: Artifacts, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name"):
        bundle.pack(made, tmp_path / "b", log.silent(), {name: made.kernel})
    assert not (tmp_path / "b").exists()


def test_a_place_that_cannot_be_written_is_named(made: Artifacts, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file or directory"):
        bundle.pack(made, tmp_path / "none" / "b", log.silent())
