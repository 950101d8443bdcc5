"""Sources: every place is told, what does not match is not kept, a local file is marked."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lab.build import apt, engine, fetch, spec
from lab.build.spec import AptPackage, Place, Source
from lab.errors import BadInput, HostLacks
from tests.unit.build.conftest import Shown, Toy


def toy_source() -> Source:
    return spec.load("toy")[0].sources["toy"]


def test_every_place_tried_is_listed(toy: Toy, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrors = [apt.Mirror("http://one.example"), apt.Mirror("http://two.example")]

    def refuse(package: AptPackage, mirror: apt.Mirror, folder: Path, **_: object) -> tuple[Path, str]:
        raise apt.NotThere(f"no {package.suite} for {folder.is_dir()} at {mirror.uri[7:10]}")

    monkeypatch.setattr(apt, "mirrors", lambda: mirrors)
    monkeypatch.setattr(apt, "download", refuse)
    source = Source(
        places=(
            Place(apt=AptPackage(suite="backports", package="linux-source")),
            Place(file="nowhere.tar"),
        )
    )
    with pytest.raises(HostLacks) as caught:
        fetch.fetch("toy", "linux", source, scratch=tmp_path, step=shown)
    assert caught.value.message.splitlines() == [
        "no place has the source 'linux' of toy; tried:",
        "  - apt package linux-source of backports at http://one.example: no backports for True at one",
        "  - apt package linux-source of backports at http://two.example: no backports for True at two",
        "  - file nowhere.tar: no such file",
    ]
    assert "--source linux=FILE" in caught.value.hint
    assert caught.value.exit_code == 3
    assert toy.kept("sources") == []


def test_a_machine_without_archives_says_so(tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", list)
    source = Source(places=(Place(apt=AptPackage(suite="s", package="p")),))
    with pytest.raises(HostLacks, match=r"apt package p of s: (this machine's apt settings|apt-get is not installed)"):
        fetch.fetch("toy", "linux", source, scratch=tmp_path, step=shown)


@pytest.mark.spawns
def test_a_checksum_mismatch_names_both_hashes_and_keeps_nothing(toy: Toy, shown: Shown) -> None:
    wanted = "0" * 64
    toy.edit("strip: 1", f"sha256: '{wanted}'")
    with pytest.raises(HostLacks) as caught:
        engine.ensure("toy", shown)
    assert wanted in caught.value.message
    assert hashlib.sha256(toy.archive.read_bytes()).hexdigest() in caught.value.message
    assert (toy.kept("sources"), toy.kept("artifacts"), toy.kept("scratch")) == ([], [], [])


def test_a_wrong_size_is_named(toy: Toy, tmp_path: Path, shown: Shown) -> None:
    toy.edit("strip: 1", "size_bytes: 7")
    with pytest.raises(HostLacks, match=r"size is \d+ bytes, must be 7"):
        fetch.fetch("toy", "toy", toy_source(), scratch=tmp_path, step=shown)


def test_a_pinned_checksum_vouches_for_a_local_file(toy: Toy, tmp_path: Path) -> None:
    toy.edit("strip: 1", f"sha256: {hashlib.sha256(toy.archive.read_bytes()).hexdigest()}")
    assert fetch.adopt("toy", toy_source(), toy.archive, tmp_path).verified == "sha256"


def test_what_a_source_flag_gave_is_remembered_and_marked(toy: Toy, tmp_path: Path) -> None:
    given = fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    assert given.verified == ""
    assert fetch.recorded("toy", toy_source()) == given
    assert fetch.have("toy", toy_source(), given)


def test_a_kept_source_that_changed_is_fetched_again(toy: Toy, tmp_path: Path) -> None:
    given = fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    kept = fetch.shelf("toy", toy_source()) / given.file
    kept.write_bytes(kept.read_bytes()[::-1])
    assert fetch.have("toy", toy_source(), given) is None


def test_a_damaged_record_counts_as_none(toy: Toy, tmp_path: Path) -> None:
    fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    (fetch.shelf("toy", toy_source()) / fetch.RECORD).write_text('{"name": "toy"')
    assert fetch.recorded("toy", toy_source()) is None


def test_a_source_that_is_not_there_is_bad_input(toy: Toy, shown: Shown) -> None:
    with pytest.raises(BadInput, match="no such file"):
        engine.ensure("toy", shown, sources={"toy": toy.folder / "none.tar"})
    with pytest.raises(BadInput, match="toy has no source 'linux'"):
        engine.ensure("toy", shown, sources={"linux": toy.archive})
