"""Which Vagrant and which plugin are there, and how to get them on each distribution."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lab.errors import HostLacks
from lab.providers import installed
from lab.providers.installed import Distribution, Found
from tests.fakes.programs import Fakes

DEBIAN = Distribution("debian", (), "12")
UBUNTU = Distribution("ubuntu", ("debian",), "24.04")
DPKG = "installed vagrant 2.3.4+dfsg-1+deb12u1\ninstalled vagrant-libvirt 0.11.2-1\n"


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A machine of Debian with Vagrant and its plugin from the archive, and a user who never ran it."""
    for name in ("sh", "basename", "sleep"):
        (fakes.folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(fakes.folder))
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    monkeypatch.setattr(installed, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(installed, "OWN_RUBY", tmp_path / "opt")
    (tmp_path / "os-release").write_text('ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n')
    (tmp_path / "vagrant").mkdir()
    fakes.add("vagrant", prints="Vagrant 2.4.9\n")
    fakes.add("dpkg-query", prints=DPKG)
    return fakes


def plug(host: Fakes, text: str) -> None:
    (host.folder.parent / "vagrant/plugins.json").write_text(text)


GEM = json.dumps({"version": "1", "installed": {"vagrant-libvirt": {"installed_gem_version": "0.12.2"}}})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n', DEBIAN),
        ("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n# ID=fedora\nHOME_URL='https://x/?a=b'\n", UBUNTU),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', Distribution("linuxmint", ("ubuntu", "debian"), "")),
        ("", Distribution("", (), "")),
        ("nonsense\n\n", Distribution("", (), "")),
    ],
)
def test_reads_os_release(text: str, found: Distribution) -> None:
    assert installed.distribution(text) == found
    assert found.ubuntu == (found.id in ("ubuntu", "linuxmint"))


@pytest.mark.parametrize(
    ("what", "at", "words"),
    [
        ("vagrant", DEBIAN, "apt-get install vagrant"),
        ("vagrant-libvirt", DEBIAN, "apt-get install vagrant-libvirt"),
        ("vagrant", UBUNTU, "HashiCorp's archive"),
        ("vagrant-libvirt", UBUNTU, "libvirt-dev make ruby-dev, then: vagrant plugin install vagrant-libvirt"),
    ],
)
def test_cures_are_those_of_the_distribution(what: str, at: Distribution, words: str) -> None:
    assert words in installed.cure(what, at)


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("2.3.4+dfsg-1", (2, 3, 4)), ("1:2.4.1-1", (2, 4, 1)), ("0.12.2", (0, 12, 2)), ("", ()), ("none", ())],
)
def test_versions_begin_with_numbers(version: str, numbers: tuple[int, ...]) -> None:
    assert installed.numbers(version) == numbers


@pytest.mark.parametrize(
    ("what", "version", "lack"),
    [
        ("vagrant", "2.3.4+dfsg-1", ""),
        ("vagrant", "2.10.0", ""),
        ("vagrant", "2.2.19+dfsg-1", "too old, 2.3 is needed"),
        ("vagrant", "", "is not installed"),
        ("vagrant-libvirt", "0.11.2-1", ""),
        ("vagrant-libvirt", "0.7.0", "too old, 0.11 is needed"),
    ],
)
def test_what_is_too_old(what: str, version: str, lack: str) -> None:
    assert bool(installed.lacking(what, version)) == bool(lack)
    assert lack in installed.lacking(what, version)


@pytest.mark.spawns
def test_asks_dpkg_and_never_vagrant(host: Fakes) -> None:
    assert installed.check() == Found("2.3.4+dfsg-1+deb12u1", "0.11.2-1")
    assert host.calls("vagrant") == []


@pytest.mark.spawns
def test_a_vagrant_without_package_is_asked_itself(host: Fakes) -> None:
    host.add("dpkg-query", prints="not-installed vagrant 2.0\n", code=1)
    plug(host, GEM)
    assert installed.check() == Found("2.4.9", "0.12.2")


@pytest.mark.spawns
def test_nothing_is_there(host: Fakes) -> None:
    (host.folder / "vagrant").unlink()
    assert installed.find() == Found("", "")
    with pytest.raises(HostLacks, match="vagrant is not installed") as caught:
        installed.check()
    assert "HashiCorp" in caught.value.hint


@pytest.mark.spawns
def test_hashicorps_vagrant_does_not_see_debians_plugin(host: Fakes, tmp_path: Path) -> None:
    (tmp_path / "opt/bin").mkdir(parents=True)
    (host.folder / "vagrant").rename(tmp_path / "opt/bin/vagrant")
    (host.folder / "vagrant").symlink_to(tmp_path / "opt/bin/vagrant")
    with pytest.raises(HostLacks, match="vagrant-libvirt is not installed") as caught:
        installed.check()
    assert "vagrant plugin install" in caught.value.hint
    plug(host, GEM)
    assert installed.check().plugin == "0.12.2"


@pytest.mark.spawns
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"installed": {"vagrant-libvirt": []}}', '{"installed": null}'])
def test_a_list_of_plugins_that_is_none_counts_as_empty(host: Fakes, text: str) -> None:
    plug(host, text)
    assert installed.find().plugin == "0.11.2-1"


@pytest.mark.usefixtures("host")
def test_finds_the_added_boxes_in_order(tmp_path: Path) -> None:
    assert installed.boxes("hapair/debian-12") == []
    for version in ("1.1.9", "1.1.10", "1.0.99"):
        (tmp_path / "vagrant/boxes/hapair-VAGRANTSLASH-debian-12" / version).mkdir(parents=True)
    (tmp_path / "vagrant/boxes/hapair-VAGRANTSLASH-debian-12/metadata_url").touch()
    assert installed.boxes("hapair/debian-12") == ["1.0.99", "1.1.9", "1.1.10"]
