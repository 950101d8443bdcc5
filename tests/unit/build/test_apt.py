"""The machine's apt settings, in both formats, and what a package of another suite is asked with."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lab.build import apt
from lab.build.apt import Mirror
from lab.build.spec import AptPackage
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
