"""Boxes of somebody else's: which one is taken, what is put into its machine, and what is kept.

The machine is a fake here: QEMU, ssh and apt are programs that log their calls and say what the real ones said.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import log
from lab.errors import HapairError, HostLacks
from lab.providers import conversion, debs, foreign, image
from lab.providers.box import Box
from tests.fakes.programs import Fakes

NAME = "debian/bookworm64"
INFO = '{"format": "qcow2", "virtual-size": 8589934593}'
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'
UBUNTU = 'PRETTY_NAME="Ubuntu 24.04 LTS"\nID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n'
FEDORA = 'PRETTY_NAME="Fedora Linux 40"\nID=fedora\nVERSION_CODENAME=""\n'
MINT = 'PRETTY_NAME="Linux Mint 22"\nID=linuxmint\nID_LIKE=ubuntu\nVERSION_CODENAME=wilma\n'
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
# What the machine says: the last argument of ssh is the command.
SSH = r"""
for command; do :; done
case $command in
*poweroff*) touch "$OFF"; exit 255 ;;
*'uname -r'*) printf '6.1.0-32-amd64\namd64\n'; cat "$RELEASE" ;;
*dpkg/status*) echo 'Package: sudo' ;;
*modprobe*) [ -e "$NO_DRBD" ] && { echo 'modprobe: FATAL: Module drbd not found' >&2; exit 1; }; echo 8.4.11 ;;
esac
"""
APT = r"""
for word; do case $word in
Dir::Cache=*) cache=${word#Dir::Cache=} ;;
Dir::State::status=*) cp "${word#Dir::State::status=}" "$SEEN" ;;
install) touch "$cache/archives/drbd-utils_9_amd64.deb" "$cache/archives/lxd_5_amd64.deb" ;;
esac; done
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> Path:
    """A Vagrant home with the well-known key and no box."""
    folder = tmp_path / "vagrant.d"
    (folder / "boxes").mkdir(parents=True)
    (folder / "insecure_private_key").write_text(KEY)
    monkeypatch.setenv("VAGRANT_HOME", str(folder))
    fakes.add("qemu-img", prints=INFO, script='[ "$1" != convert ] || { for last; do :; done; echo made > "$last"; }')
    return folder


def add(home: Path, version: str = "12.1", provider: str = "libvirt", below: str = "") -> Path:
    """Lay a box out as Vagrant does."""
    folder = home / "boxes" / NAME.replace("/", "-VAGRANTSLASH-") / version / below / provider
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"provider": provider, "format": "qcow2", "virtual_size": 8}))
    (folder / "box.img").write_text("a disk")
    return folder


@pytest.mark.spawns
def test_the_newest_version_for_libvirt_is_taken(home: Path) -> None:
    add(home, "9.2")
    newest = add(home, "12.20250126.1", below="amd64")
    add(home, "13.1", provider="virtualbox")
    found = foreign.find(NAME)
    assert (found.version, found.disk) == ("12.20250126.1", newest / "box.img")
    assert foreign.find(NAME, "9.2").version == "9.2"


@pytest.mark.parametrize(
    ("version", "message", "hint"),
    [
        ("", "does not have the box debian/bookworm64", "vagrant box add debian/bookworm64 --provider libvirt"),
        (
            "7.0",
            "in version 7.0, only in 9.2",
            "vagrant box add debian/bookworm64 --provider libvirt --box-version 7.0",
        ),
    ],
)
def test_a_box_that_is_not_there_comes_with_the_command_that_gets_it(
    home: Path, version: str, message: str, hint: str
) -> None:
    if version:
        add(home, "9.2")
    with pytest.raises(HostLacks, match=message) as caught:
        foreign.find(NAME, version)
    assert caught.value.hint == hint


def test_a_box_for_another_provider_only_is_told_by_that_provider(home: Path) -> None:
    add(home, provider="virtualbox")
    with pytest.raises(HostLacks, match="is for virtualbox, not for libvirt") as caught:
        foreign.find(NAME)
    assert "vagrant box add debian/bookworm64 --provider libvirt" in caught.value.hint
    assert "vagrant mutate debian/bookworm64 libvirt" in caught.value.hint


def unreadable(folder: Path, _: Fakes) -> None:
    (folder / "metadata.json").write_text("{")


def two_disks(folder: Path, _: Fakes) -> None:
    (folder / "metadata.json").write_text('{"disks": [{"path": "box.img"}, {"path": "more.img"}]}')


def elsewhere(folder: Path, _: Fakes) -> None:
    (folder.parent.parent / "box.img").write_text("another's disk")
    (folder / "metadata.json").write_text('{"disks": [{"path": "../../box.img"}]}')


def backed(_: Path, fakes: Fakes) -> None:
    fakes.add("qemu-img", prints='{"format": "qcow2", "backing-filename": "/etc/shadow"}')


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("spoil", "why"),
    [(unreadable, "cannot be read"), (two_disks, "2 disks"), (elsewhere, "is not there"), (backed, "stand alone")],
)
def test_a_box_that_no_node_can_be_made_of(
    home: Path, fakes: Fakes, spoil: Callable[[Path, Fakes], None], why: str
) -> None:
    spoil(add(home), fakes)
    with pytest.raises(HostLacks, match=why):
        foreign.find(NAME)


@pytest.mark.spawns
def test_the_key_and_the_user_in_a_box_go_before_vagrants_own(home: Path) -> None:
    folder = add(home)
    known = foreign.find(NAME).login
    assert (known.user, known.keys) == ("vagrant", (home / "insecure_private_key",))
    (folder / "some_key").write_text(KEY)
    (folder / "Vagrantfile").write_text('Vagrant.configure("2") do |config|\n  config.ssh.username = "admin"\nend\n')
    own = foreign.find(NAME).login
    assert (own.user, own.keys) == ("admin", (folder / "some_key",))


@pytest.mark.spawns
def test_a_vagrant_that_was_never_started_has_no_key(home: Path) -> None:
    add(home)
    (home / "insecure_private_key").unlink()
    with pytest.raises(HostLacks, match="lacks insecure_private_key"):
        foreign.find(NAME)


def test_a_machine_gets_what_the_labs_own_boxes_have_less_what_it_keeps() -> None:
    found = {str(entry.path): entry for entry in foreign.entries(public_key="a key")}
    assert found["usr/lib/hapair-lab/control.py"].executable and found["usr/lib/hapair-lab/init"].executable
    assert b"/dev/virtio-ports/hapair.control" in found["etc/systemd/system/hapair-control.service"].data
    assert found["usr/share/hapair-lab/authorized_keys"].data == b"a key"
    for unit in ("lxd.service", "networking.service", "getty.target", "tmp.mount"):
        assert found[f"etc/systemd/system/{unit}"].target == "/dev/null"
    assert "etc/fstab" not in found


def test_whatever_a_machine_keeps_would_have_been_replaced(tmp_path: Path) -> None:
    source = Path(shutil.copytree(image.SOURCE, tmp_path / "source", symlinks=True))
    kept = image.words(source / "foreign" / "kept")
    (source / "foreign" / "kept").write_text("")
    found = {word for entry in foreign.entries(source) for word in (str(entry.path), entry.path.name)}
    assert kept and set(kept) <= found


CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "the box's disk": lambda _, box: (box / "box.img").write_text("another disk"),
    "a package of all nodes": lambda top, _: (top / "packages").write_text("strace\n"),
    "what is left out": lambda top, _: (top / "excluded").write_text("path-exclude=/x\n"),
    "the common last step": lambda top, _: (top / "finish").write_text("#!/bin/sh\n"),
    "the last step": lambda top, _: (top / "foreign/finish").write_text("#!/bin/sh\n"),
    "how packages are installed": lambda top, _: (top / "foreign/install").write_text("#!/bin/sh\n"),
    "the first program": lambda top, _: (top / "foreign/init").write_text("#!/bin/sh\n"),
    "what is kept": lambda top, _: (top / "foreign/kept").write_text("etc/hosts\n"),
    "a mask": lambda top, _: (top / "foreign/masked").write_text("cron.service\n"),
    "the Vagrantfile": lambda top, _: (top / "foreign/Vagrantfile").write_text("#\n"),
}


@pytest.mark.spawns
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_input_makes_another_box(home: Path, tmp_path: Path, change: Callable[[Path, Path], object]) -> None:
    source, folder = Path(shutil.copytree(image.SOURCE, tmp_path / "source", symlinks=True)), add(home)
    before = foreign._inputs(foreign.find(NAME), source)
    change(source, folder)
    assert foreign._inputs(foreign.find(NAME), source) != before


@pytest.mark.parametrize(
    ("release", "suite", "components"), [(DEBIAN, "bookworm", ("main",)), (UBUNTU, "noble", ("main", "universe"))]
)
def test_apt_is_told_the_machines_release(release: str, suite: str, components: tuple[str, ...]) -> None:
    machine = debs.target(release, "amd64", b"")
    assert (machine.suite, machine.components) == (suite, components)


@pytest.mark.parametrize(
    ("release", "architecture", "why"),
    [
        (FEDORA, "amd64", "it is Fedora Linux 40"),
        (MINT, "amd64", "it is Linux Mint 22"),
        ("", "amd64", "of an unknown system"),
        (DEBIAN, "arm64", "for arm64"),
    ],
)
def test_other_systems_are_refused_by_name(release: str, architecture: str, why: str) -> None:
    with pytest.raises(HostLacks, match=why):
        debs.target(release, architecture, b"")


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("failing", "error", "message"),
    [
        ("update", HostLacks, "no archive of Debian bookworm answers: E: Failed to fetch"),
        ("install", HapairError, "cannot add the packages of a node to it: E: Failed to fetch"),
    ],
)
def test_what_apt_complains_of_is_told(
    tmp_path: Path, fakes: Fakes, failing: str, error: type[HapairError], message: str
) -> None:
    rows = "Debian|Debian|bookworm|main|http://a.test/debian/\n"
    script = (
        f'for word; do case $word in indextargets) printf "{rows}" ;; {failing}) echo "E: Failed to fetch"; exit 9;; '
    )
    fakes.add("apt-get", script=script + "esac; done")
    with pytest.raises(error, match=message):
        debs.download(["lxd"], debs.target(DEBIAN, "amd64", b""), tmp_path)


@pytest.mark.spawns
def test_a_release_that_this_machines_apt_does_not_know(tmp_path: Path, fakes: Fakes) -> None:
    fakes.add("apt-get", prints="Debian|Debian|bookworm|main|http://a.test/debian/\n")
    with pytest.raises(HostLacks, match="knows no archive of Ubuntu noble"):
        debs.download(["lxd"], debs.target(UBUNTU, "amd64", b""), tmp_path)


@pytest.fixture
def host(home: Path, fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a box in its Vagrant, on which QEMU, ssh and apt are fakes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("lab.providers.bootstrap.mirrors", lambda *_: ["deb http://a.test/debian bookworm main"])
    state = tmp_path / "state"
    state.mkdir()
    (state / "release").write_text(DEBIAN)
    places = {"$OFF": "off", "$RELEASE": "release", "$NO_DRBD": "no-drbd", "$SEEN": "status"}
    ssh, apt = SSH, APT
    for name, file in places.items():
        ssh, apt = (text.replace(name, str(state / file)) for text in (ssh, apt))
    fakes.add("ssh", script=ssh)
    fakes.add("apt-get", script=apt)
    fakes.add("scp", script=f'for source; do case $source in *.tar) cp "$source" {state}/load.tar; esac; done')
    fakes.add("setpriv", script='shift 3; exec "$@"')
    fakes.add("qemu-system-x86_64", script=f"until [ -e {state}/off ]; do sleep 0.05; done")
    fakes.add(
        "ssh-keygen", script='for file; do :; done; (umask 077; echo k > "$file"); echo "ssh-ed25519 A" > "$file.pub"'
    )
    add(home)
    return state


def made() -> Box:
    return foreign.ensure(foreign.find(NAME), log.silent(), lambda: False)


@pytest.mark.spawns
def test_a_box_is_made_once_of_a_running_machine_and_kept(host: Path, fakes: Fakes) -> None:
    box = made()
    assert (box.name, box.version, box.suite, box.direct) == (NAME, "12.1", "bookworm", False)
    assert box.image.read_text() == "made\n" and box.key.stat().st_mode & 0o777 == 0o400
    assert json.loads((box.folder / "metadata.json").read_text())["virtual_size"] == 9  # GiB, rounded up
    manifest = json.loads((box.folder / "manifest.json").read_text())
    assert (manifest["installed"], manifest["kernel"]) == (["drbd-utils", "lxd"], "6.1.0-32-amd64")
    assert (host / "status").read_text() == "Package: sudo\n", "apt asks what this machine lacks, not ours"
    with tarfile.open(host / "load.tar") as tar:
        assert {"install", "finish", "overlay.tar", "packages/lxd_5_amd64.deb"} <= set(tar.getnames())
    assert sorted(path.name for path in box.folder.iterdir()) == [
        "Vagrantfile", "box.img", "manifest.json", "metadata.json", "vagrant_key",
    ]  # fmt: skip
    (off,) = (call for call in fakes.calls("ssh") if "poweroff" in call[-1])
    assert off.count("-i") == 2, "the machine takes the new key only by now"
    before = len(fakes.calls("ssh"))
    assert made() == box and len(fakes.calls("ssh")) == before


@pytest.mark.spawns
def test_a_kernel_without_drbd_is_named(host: Path, fakes: Fakes) -> None:
    (host / "no-drbd").touch()
    with pytest.raises(HostLacks, match=r"debian/bookworm64 12\.1: its kernel 6\.1\.0-32-amd64 lacks .*drbd not found"):
        made()
    assert not fakes.calls("scp"), "nothing was put into it"


@pytest.mark.spawns
def test_another_system_ends_it_before_anything_is_downloaded(host: Path, fakes: Fakes) -> None:
    (host / "release").write_text(FEDORA)
    with pytest.raises(HostLacks, match="it is Fedora Linux 40; nodes are made of Debian or Ubuntu"):
        made()
    assert not fakes.calls("apt-get")


@pytest.mark.spawns
@pytest.mark.usefixtures("host")
def test_a_key_that_is_refused_and_a_qemu_that_ends_are_told_at_once(fakes: Fakes) -> None:
    fakes.add("ssh", script="echo 'vagrant@127.0.0.1: Permission denied (publickey).' >&2; exit 255")
    with pytest.raises(HapairError, match="its sshd refuses vagrant"):
        made()
    fakes.add("ssh", script="echo 'Connection refused' >&2; exit 255")
    fakes.add("qemu-system-x86_64", script="echo 'Could not set up host forwarding rule' >&2; exit 1")
    with pytest.raises(HapairError, match=r"QEMU ended before .*: Could not set up host forwarding rule"):
        made()


@pytest.mark.spawns
def test_a_machine_that_does_not_answer_is_ended(host: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "BOOT_S", 0.2)
    fakes.add("ssh", script="echo 'Connection refused' >&2; exit 255")
    fakes.add("qemu-system-x86_64", script=f"echo $$ > {host}/pid; exec sleep 60")
    with pytest.raises(HapairError, match=r"was not reached by ssh in 0\.2 s \(Connection refused\)"):
        made()
    with pytest.raises(ProcessLookupError):
        os.kill(int((host / "pid").read_text()), 0)


@pytest.mark.spawns
def test_the_machine_reaches_nothing_and_is_reached_on_loopback_only(fakes: Fakes, tmp_path: Path) -> None:
    for name in ("setpriv", "qemu-system-x86_64"):
        fakes.add(name)
    words = conversion.qemu(tmp_path / "a,b.qcow2", tmp_path / "console", 4567, kvm=False)
    assert "user,id=mgmt,restrict=on,hostfwd=tcp:127.0.0.1:4567-:22" in words
    assert any(word.startswith(f"file={tmp_path}/a,,b.qcow2,") for word in words)
    assert "-cx16" in words[words.index("-cpu") + 1] and words[words.index("-accel") + 1] == "tcg"


@pytest.mark.spawns
@pytest.mark.parametrize(("name", "lacks"), [("ubuntu", True), ("debian", False)])
def test_ubuntu_is_not_asked_for_lxd(host: Path, fakes: Fakes, name: str, lacks: bool) -> None:
    (host / "release").write_text(UBUNTU if name == "ubuntu" else DEBIAN)
    made()
    (asked,) = (call for call in fakes.calls("apt-get") if "install" in call)
    assert ("lxd" not in asked) is lacks and "drbd-utils" in asked
