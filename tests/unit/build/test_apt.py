"""The machine's apt settings, in both formats, and what a package of another suite is asked with."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lab.build import apt
from lab.build.apt import Mirror
from lab.build.spec import AptPackage, DebSource, GoDeps
from tests.fakes.programs import Fakes
from tests.unit.build.conftest import Shown

LINES = """\
# deb http://commented.example/debian bookworm main
deb http://one.example/debian/ bookworm main contrib
deb [arch=amd64 signed-by=/keys/two.gpg] https://two.example/debian bookworm-updates main # the second
deb-src http://source.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
"""

DEB822 = """\
Types: deb deb-src
# a comment inside a stanza
URIs: http://three.example/debian http://four.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/three.gpg

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm

types: deb
uris: http://security.example/debian-security
suites: bookworm-security
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_one_line_entries() -> None:
    assert list(apt.parse_lines(LINES)) == [
        Mirror("http://one.example/debian"),
        Mirror("https://two.example/debian", "/keys/two.gpg"),
    ]


def test_deb822_stanzas() -> None:
    found = list(apt.parse_deb822(DEB822))
    assert [mirror.uri for mirror in found] == [
        "http://three.example/debian",
        "http://four.example/debian",
        "http://security.example/debian-security",
    ]
    assert found[0].signed_by == "/keys/three.gpg"
    assert found[2].signed_by.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc")


def test_mirrors_are_unique_signed_and_not_for_security(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(
        "deb http://security.example/debian-security s main\ndeb http://one.example/debian b main\n"
    )
    (parts / "again.list").write_text("deb http://one.example/debian/ b-updates main\n")
    (parts / "more.sources").write_text(DEB822)
    (parts / "off.sources.disabled").write_text("Types: deb\nURIs: http://disabled.example\nSuites: b\n")
    keyring = tmp_path / "keyring.gpg"
    keyring.touch()
    assert [(mirror.uri, mirror.signed_by) for mirror in apt.mirrors(tmp_path, (keyring,))] == [
        ("http://one.example/debian", str(keyring)),
        ("http://three.example/debian", "/keys/three.gpg"),
        ("http://four.example/debian", "/keys/three.gpg"),
    ]


def test_without_settings_mmdebstraps_own_mirror_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/usr/bin/perl\nmy $mirror    = 'http://builtin.example/debian';\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt.mirrors(tmp_path / "none", ()) == [Mirror("http://builtin.example/debian")]


def test_a_machine_that_names_no_archive_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt.mirrors(tmp_path, ()) == []


APT_GET = """\
case "$*" in
  *update*) cat "${0%/*}/../room/apt/sources.list.d/private.sources" >"${0%/*}/seen" ;;
  *download*) touch linux-source_1%3a7.2-1_all.deb ;;
esac
"""


@pytest.mark.spawns
def test_a_package_comes_through_a_private_root(fakes: Fakes, tmp_path: Path, shown: Shown) -> None:
    fakes.add("apt-get", script=APT_GET)
    room = tmp_path / "room"
    room.mkdir()
    wanted = AptPackage(suite="backports", package="linux-source")
    file, version = apt.download(wanted, Mirror("http://one.example/debian", "/k.gpg"), room, step=shown)
    assert (file.parent, version) == (room, "1:7.2-1")
    assert (tmp_path / "fakes" / "seen").read_text() == (
        "Types: deb\nURIs: http://one.example/debian\nSuites: backports\nComponents: main\nSigned-By: /k.gpg\n"
    )


@pytest.mark.spawns
def test_apts_own_words_say_why_a_place_fails(fakes: Fakes, tmp_path: Path, shown: Shown) -> None:
    fakes.add("apt-get", prints="Hit: something\nE: no Release file\n", code=100)
    wanted = AptPackage(suite="backports", package="linux-source")
    with pytest.raises(apt.NotThere) as caught:
        apt.download(wanted, Mirror("http://one.example/debian"), tmp_path, step=shown, stop=threading.Event())
    assert caught.value.message == "E: no Release file"


URIS = """\
NOTICE: something
'http://one.example/pool/t/toy/toy_1.0-2%2bb1.dsc' toy_1.0-2+b1.dsc 4006 SHA256:{0}
'http://one.example/pool/t/toy/toy_1.0.orig.tar.gz' toy_1.0.orig.tar.gz 7 SHA256:{0}
'http://one.example/pool/t/toy/toy_1.0.orig.tar.gz.asc' toy_1.0.orig.tar.gz.asc 7 SHA256:{0}
'http://one.example/pool/t/toy/toy_1.0-2%2bb1.debian.tar.xz' toy_1.0-2+b1.debian.tar.xz 7 SHA256:{0}
""".format("a" * 64)
SOURCE = """\
case "$*" in
  *update*) cat "${0%/*}/../room/apt/sources.list.d/private.sources" >"${0%/*}/seen" ;;
  *--print-uris*) cat "${0%/*}/uris" ;;
esac
"""


@pytest.mark.spawns
@pytest.mark.parametrize("file", [None, "toy_1.0-2+b1.debian.tar.xz"])
def test_a_file_of_a_source_package_comes_by_the_signed_index(
    fakes: Fakes, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    (fakes.folder / "uris").write_text(URIS)
    fakes.add("apt-get", script=SOURCE)
    fakes.add("apt-helper", script='for word; do target=$last last=$word; done; touch "$target"')
    monkeypatch.setattr(apt, "HELPER", str(fakes.folder / "apt-helper"))
    room = tmp_path / "room"
    room.mkdir()
    wanted = DebSource(suite="bookworm", package="toy", version="1.0-2+b1", file=file)
    found = apt.source(wanted, Mirror("http://one.example/debian"), room, step=shown)
    assert found == (room / (file or "toy_1.0.orig.tar.gz"), "1.0-2+b1")
    assert "Types: deb-src\n" in (fakes.folder / "seen").read_text()
    assert any(call[-1] == "toy=1.0-2+b1" for call in fakes.calls("apt-get"))
    assert fakes.calls("apt-helper")[0][-1] == f"SHA256:{'a' * 64}"


@pytest.mark.spawns
def test_a_source_package_without_the_file_says_what_it_has(fakes: Fakes, tmp_path: Path, shown: Shown) -> None:
    (fakes.folder / "uris").write_text(URIS)
    fakes.add("apt-get", script='case "$*" in *--print-uris*) cat "${0%/*}/uris" ;; esac')
    wanted = DebSource(suite="bookworm", package="toy", file="toy_2.0.orig.tar.gz")
    with pytest.raises(apt.NotThere, match=r"its index lists toy_1\.0-2\+b1\.dsc, toy_1\.0\.orig\.tar\.gz, "):
        apt.source(wanted, Mirror("http://one.example/debian"), tmp_path, step=shown)


@pytest.mark.spawns
def test_packages_bring_along_what_they_need_of_the_same_kind(fakes: Fakes, tmp_path: Path, shown: Shown) -> None:
    names = ("golang-x-dev_1%3a2+b_all.deb", "libc6_2_amd64.deb")
    lines = [f"'http://one.example/{name}' {name} 7 SHA256:{'b' * 64}" for name in names]
    (fakes.folder / "uris").write_text("\n".join(lines))
    fakes.add("apt-get", script='case "$*" in *--print-uris*) cat "${0%/*}/uris" ;; esac')
    apt.closure(GoDeps(suite="s", packages=("golang-x-dev",)), Mirror("http://one.example"), tmp_path, step=shown)
    assert fakes.calls("apt-get")[-1][-2:] == ["download", "golang-x-dev=1:2+b"]
    with pytest.raises(apt.NotThere, match=r"none of the packages is called rust-\*"):
        wanted = GoDeps(suite="s", packages=("golang-y-dev",), only="rust-*")
        apt.closure(wanted, Mirror("http://one.example"), tmp_path, step=shown)
