"""The Vagrant box: what its version depends on, what goes in, how it is built and packed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from lab import log, paths
from lab.errors import BadInput, HostLacks
from lab.proc import CommandFailed
from lab.providers import bootstrap, box, image
from tests.fakes.programs import Fakes

# What the hooks of the real mmdebstrap would write, into the descriptors that its arguments name.
FILL = r"""
fd() { printf '%s' "$1" | sed 's#.*/proc/self/fd/\([0-9]*\).*#\1#'; }
for word in "$@"; do case $word in
*dpkg-query*) echo 'lxd=5.0' > "/proc/self/fd/$(fd "$word")" ;;
*boot/vmlinuz*) printf 'a kernel' > "/proc/self/fd/$(fd "$word")" ;;
*boot/initrd.img*) printf 'an initrd' > "/proc/self/fd/$(fd "$word")" ;;
*mke2fs*) printf 'a root' 1<> "/proc/self/fd/$(fd "$word")" ;;
*tar-in*) word=${word#--customize-hook=tar-in } && cp "${word% /}" "$OUT" ;;
esac; done
"""
KEYGEN = 'for file; do :; done; (umask 077; echo private > "$file"); echo "ssh-ed25519 AAAA hapair" > "$file.pub"'
CONVERT = 'cp "$6" "$7"'
DEBIAN = "Debian|Debian|bookworm|main|http://a.test/debian/\n"
UBUNTU = "Ubuntu|Ubuntu|noble|main|http://b.test/ubuntu/\nUbuntu|Ubuntu|noble|universe|http://b.test/ubuntu/\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the box's sources, to be changed at will."""
    return Path(shutil.copytree(image.SOURCE, tmp_path / "source", symlinks=True))


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A machine of Debian whose every program of the build is a fake, and whose cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(bootstrap, "SHARED_MEMORY", tmp_path / "shared")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "shared"))
    monkeypatch.setattr(box, "DISK_GB", 0)  # reading and hashing holes takes long
    for name in ("mke2fs", "apt-config"):
        fakes.add(name)
    fakes.add("apt-get", prints=DEBIAN)
    fakes.add("unshare", script='[ "$2" = true ] || { shift; exec "$@"; }')
    fakes.add("mmdebstrap", script=FILL.replace("$OUT", str(tmp_path / "overlay.tar")))
    fakes.add("ssh-keygen", script=KEYGEN)
    fakes.add("qemu-img", script=CONVERT)
    return fakes


def leftovers() -> list[str]:
    """Everything that builds left in the cache and in the temporary folder, but for lock files."""
    found = [*(paths.cache() / "boxes").glob("*"), *(paths.cache().parent.parent / "shared").glob("*")]
    return [path.name for path in found if path.suffix != ".lock"]


CHANGES: dict[str, Callable[[Path], object]] = {
    "a package of all nodes": lambda top: (top / "packages").write_text("strace\n"),
    "a package of the box": lambda top: (top / "box/packages").write_text("strace\n"),
    "a mask of the box": lambda top: (top / "box/masked").write_text("cron.service\n"),
    "an exclusion": lambda top: (top / "box/excluded").write_text("path-exclude=/usr/share/perl/*\n"),
    "the common last step": lambda top: (top / "finish").write_text("#!/bin/sh\n"),
    "the last step of the box": lambda top: (top / "box/finish").write_text("#!/bin/sh\n"),
    "the initrd": lambda top: (top / "box/initrd-init").write_text("#!/bin/sh\n"),
    "a file of the box": lambda top: (top / "box/root/etc/fstab").write_text("\n"),
    "the control agent": lambda top: (top / "control.py").write_text("#!/usr/bin/python3\n"),
    "the Vagrantfile": lambda top: (top / "box/Vagrantfile").write_text("#\n"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_input_gives_another_box_and_version(source: Path, change: Callable[[Path], object]) -> None:
    before = box.key("debian-12", source), box.version("debian-12", source)
    change(source)
    assert box.key("debian-12", source) != before[0]
    assert box.version("debian-12", source) != before[1]


def test_each_release_is_a_box_of_its_own() -> None:
    assert len({box.key(release, image.SOURCE) for release in box.RELEASES}) == len(box.RELEASES) == 3


def test_a_newer_builder_makes_a_higher_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbers() -> list[int]:
        return [int(part) for part in box.version().split(".")]

    before = numbers()
    monkeypatch.setattr(box, "BUILDER", box.BUILDER + 1)
    assert numbers() > before


def test_what_only_a_box_has_leaves_the_root_image_alone(source: Path) -> None:
    before = image.key(source)
    shutil.rmtree(source / "box")
    assert image.key(source) == before


def test_a_release_that_there_is_not() -> None:
    with pytest.raises(BadInput, match="no box of 'debian-7'") as caught:
        box.ensure(log.silent(), "debian-7")
    assert "debian-12, debian-13, ubuntu-24.04" in caught.value.hint


def test_files_of_the_box_take_the_place_of_those_of_the_root_image() -> None:
    found = {str(entry.path): entry for entry in box._entries(image.SOURCE, "a key")}
    assert b"/dev/vda" in found["etc/fstab"].data
    assert b"/dev/virtio-ports/hapair.control" in found["etc/systemd/system/hapair-control.service"].data
    assert found["usr/share/hapair-lab/authorized_keys"].data == b"a key"
    assert found["etc/systemd/system/lxd.service"].target == "/dev/null"
    # Masked, they would keep a user, lxcfs or Vagrant out.
    for unit in ("ssh.service", "lxcfs.service", "qemu-guest-agent.service", "sys-fs-fuse-connections.mount"):
        assert PurePosixPath("etc/systemd/system", unit) not in {
            entry.path for entry in found.values() if entry.target == "/dev/null"
        }


def test_the_vagrantfile_names_the_files_and_the_root_disk_of_the_box() -> None:
    vagrantfile = (image.SOURCE / "box" / "Vagrantfile").read_text()
    assert "root=/dev/vda rw" in vagrantfile
    for name in (box.KERNEL, box.INITRD, box.KEY):
        assert f'File.join(__dir__, "{name}")' in vagrantfile


@pytest.mark.spawns
def test_builds_once_and_keeps(source: Path, host: Fakes, tmp_path: Path) -> None:
    assert not box.cached("debian-12", source)
    made = box.ensure(log.silent(), "debian-12", source)
    assert made.name == "hapair/debian-12"
    assert made.version == box.version("debian-12", source)
    assert made.image.read_bytes() == b"a root"
    assert (made.kernel.read_bytes(), made.initrd.read_bytes()) == (b"a kernel", b"an initrd")
    assert made.key.stat().st_mode & 0o777 == 0o400
    assert json.loads((made.folder / "metadata.json").read_text())["provider"] == "libvirt"
    assert json.loads((made.folder / "manifest.json").read_text())["packages"] == {"lxd": "5.0"}
    assert not list(made.folder.glob("raw*")) + list(made.folder.glob("*.pub"))
    with tarfile.open(tmp_path / "overlay.tar") as tar:
        keys = tar.extractfile("usr/share/hapair-lab/authorized_keys")
        assert keys is not None
        assert keys.read() == b"ssh-ed25519 AAAA hapair\n"
    assert box.ensure(log.silent(), "debian-12", source) == made
    assert len(host.calls("mmdebstrap")) == 1
    assert box.cached("debian-12", source)
    (call,) = host.calls("mmdebstrap")
    (include,) = [word for word in call if word.startswith("--include=")]
    assert {"lxd", "openssh-server", "qemu-guest-agent", "linux-image-cloud-amd64"} <= set(include[10:].split(","))


@pytest.mark.spawns
def test_an_old_box_in_the_cache_is_not_the_present_one(source: Path, host: Fakes) -> None:
    box.ensure(log.silent(), "debian-12", source)
    (source / "box/packages").write_text("strace\n")
    assert not box.cached("debian-12", source)
    box.ensure(log.silent(), "debian-12", source)
    assert len(host.calls("mmdebstrap")) == 2


@pytest.mark.spawns
@pytest.mark.usefixtures("host")
def test_packs_a_box_that_vagrant_takes(source: Path) -> None:
    made = box.ensure(log.silent(), "debian-12", source)
    catalog = box.pack(made, log.silent())
    (known,) = json.loads(catalog.read_text())["versions"]
    (provider,) = known["providers"]
    file = Path(provider["url"].removeprefix("file://"))
    assert known["version"] == made.version
    assert provider["checksum"] == hashlib.sha256(file.read_bytes()).hexdigest()
    with tarfile.open(file) as tar:
        modes = {member.name: member.mode for member in tar.getmembers()}
        assert {member.uid for member in tar.getmembers()} == {0}
    assert modes.pop("vagrant_key") == 0o600
    assert modes == dict.fromkeys(["metadata.json", "Vagrantfile", "vmlinuz", "initrd.img", "box.img"], 0o644)
    file.unlink()
    assert box.pack(made, log.silent()) == catalog
    assert file.exists()


@pytest.mark.spawns
def test_a_build_that_fails_leaves_nothing(source: Path, host: Fakes) -> None:
    host.add("qemu-img", prints="no room", code=1)
    with pytest.raises(CommandFailed, match="no room"):
        box.ensure(log.silent(), "debian-12", source)
    assert leftovers() == []


@pytest.mark.spawns
def test_ubuntu_needs_an_archive_of_ubuntu(source: Path, host: Fakes) -> None:
    with pytest.raises(HostLacks, match="no archive of Ubuntu") as caught:
        box.ensure(log.silent(), "ubuntu-24.04", source)
    assert "lab.box --release debian-12" in caught.value.hint
    assert host.calls("mmdebstrap") == []
    host.add("apt-get", prints=UBUNTU)
    box.ensure(log.silent(), "ubuntu-24.04", source)
    (call,) = host.calls("mmdebstrap")
    assert call[-2:] == ["-", "deb http://b.test/ubuntu/ noble main universe"]
    assert "lxd" not in next(word for word in call if word.startswith("--include="))[10:].split(",")


@pytest.mark.parametrize("program", ["mmdebstrap", "qemu-img", "ssh-keygen"])
def test_a_missing_program_is_named(source: Path, host: Fakes, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    real = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, **more: None if name == program else real(name, **more))
    with pytest.raises(HostLacks, match=f"{program} is not installed"):
        box.ensure(log.silent(), "debian-12", source)
    assert host.calls() == []
    assert leftovers() == []


def test_the_overlay_has_every_file_once() -> None:
    with tarfile.open(fileobj=io.BytesIO(box._recipe("debian-13", image.SOURCE, "key").overlay)) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
