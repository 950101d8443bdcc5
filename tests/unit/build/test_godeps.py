"""Packages that are extracted and never installed: fetched once, checked, shared by builds that cannot write there."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from lab.build import apt, godeps
from lab.build.fetch import NoPlace
from lab.build.spec import GoDeps
from lab.errors import BadInput
from tests.unit.build.conftest import Shown

WANTED = GoDeps(suite="s", packages=("golang-x-dev",))


def deb(files: dict[str, str], links: dict[str, str]) -> bytes:
    """Return a .deb with these files and links."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
        for name, target in links.items():
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    parts = {"debian-binary": b"2.0\n", "data.tar.gz": data.getvalue()}
    members = (
        f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n".encode() + part + b"\n" * (len(part) % 2)
        for name, part in parts.items()
    )
    return b"!<arch>\n" + b"".join(members)


DEBS = {
    "golang-x-dev_1%3a2.0_all.deb": deb(
        {
            "usr/share/gocode/src/github.com/x/y/a.go": "package y",
            "usr/share/gocode/src/github.com/x/y/z/b.go": "package z",
        },
        {"usr/share/doc/x": "/usr/share/gocode"},
    ),
    "golang-w-dev_3_all.deb": deb({"usr/share/gocode/src/gopkg.in/w.v1/w.go": "package w"}, {}),
}


@pytest.fixture
def known(tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> godeps.Packages:
    def closure(_wanted: GoDeps, _mirror: apt.Mirror, folder: Path, **_: object) -> None:
        for name, data in DEBS.items():
            (folder / name).write_bytes(data)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(apt, "mirrors", lambda: [apt.Mirror("http://one.example")])
    monkeypatch.setattr(apt, "closure", closure)
    monkeypatch.setattr("lab.build.godeps.shutil.which", str)
    return godeps.fetch("toy", WANTED, scratch=tmp_path, step=shown)


def test_what_came_is_recorded_with_versions_digests_and_import_paths(known: godeps.Packages) -> None:
    assert godeps.recorded(WANTED) == known
    assert known["golang-x-dev"]["version"] == "1:2.0"
    assert known["golang-x-dev"]["paths"] == ["github.com/x/y"]
    assert known["golang-w-dev"]["paths"] == ["gopkg.in/w.v1"]
    assert godeps.have(WANTED, known)


def test_a_changed_package_is_fetched_again(known: godeps.Packages) -> None:
    file = godeps.shelf(WANTED) / known["golang-w-dev"]["file"]
    file.write_bytes(file.read_bytes() + b"!")
    assert not godeps.have(WANTED, known)


def test_packages_are_extracted_into_one_root_once(known: godeps.Packages) -> None:
    godeps.extract(WANTED, known)
    root = godeps.extracted(known)
    src = root / "usr/share/gocode/src"
    assert (src / "github.com/x/y/z/b.go").read_text() == "package z"
    assert (src / "gopkg.in/w.v1/w.go").is_file()
    assert (root / "usr/share/doc/x").readlink() == Path("../gocode")
    first = root.stat().st_ino
    godeps.extract(WANTED, known)
    assert root.stat().st_ino == first
    assert [path.name for path in root.parent.iterdir()] == [root.name]


def test_a_damaged_package_leaves_no_half_root(known: godeps.Packages) -> None:
    file = godeps.shelf(WANTED) / known["golang-x-dev"]["file"]
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadInput, match="golang-x-dev"):
        godeps.extract(WANTED, known)
    assert list(godeps.extracted(known).parent.iterdir()) == []


def test_archives_that_have_nothing_are_listed(tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise apt.NotThere("no such suite")

    monkeypatch.setattr(apt, "mirrors", lambda: [apt.Mirror("http://one.example")])
    monkeypatch.setattr(apt, "closure", refuse)
    monkeypatch.setattr("lab.build.godeps.shutil.which", str)
    with pytest.raises(NoPlace, match=r"Go packages of toy; tried:\n  - s at http://one\.example: no such suite"):
        godeps.fetch("toy", WANTED, scratch=tmp_path, step=shown)
