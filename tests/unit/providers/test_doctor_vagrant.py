"""Each check of what virtual machines need: good, a warning or bad, with its cure."""

from __future__ import annotations

import grp
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from lab import paths
from lab.providers import box, doctor, doctor_vagrant, installed, kvm
from lab.providers.doctor import Finding, Grade
from lab.providers.installed import Found
from lab.providers.kvm import Outcome, Verdict

Usage = namedtuple("Usage", "total used free")
GOOD = Verdict(Outcome.USABLE, "a guest boots the lab's kernel")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good machine of Debian without a box; its folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "vagrant"))
    monkeypatch.setattr(installed, "OS_RELEASE", tmp_path / "os-release")
    (tmp_path / "os-release").write_text("ID=debian\n")
    monkeypatch.setattr(installed, "find", lambda: Found("2.3.4", "0.11.2"))
    monkeypatch.setattr(kvm, "DEVICE", Path(os.devnull))
    monkeypatch.setattr(kvm, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu vmx\n")
    monkeypatch.setattr(doctor_vagrant, "SYSTEM_SOCKET", tmp_path / "socket")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, 64 << 30))
    lacks(monkeypatch)
    return tmp_path


def lacks(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Let every program be installed but these."""
    monkeypatch.setattr(shutil, "which", lambda name, **_more: None if name in missing else f"/bin/{name}")


def examine(*, wanted: bool = True) -> dict[str, Finding]:
    return {finding.subject: finding for finding in doctor_vagrant.examine(wanted=wanted)}


@pytest.mark.usefixtures("host")
def test_a_good_machine_is_good() -> None:
    findings = examine()
    assert {finding.grade for finding in findings.values()} == {Grade.GOOD}, findings
    assert not any(finding.cure for finding in findings.values())
    assert "about 1 min" in findings["box"].text
    assert "shows once there is a box" in findings["kvm"].text


@pytest.mark.usefixtures("host")
def test_what_is_missing_fails_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find", lambda: Found("2.2.19", ""))
    lacks(monkeypatch, "virsh", "qemu-img")
    bad = examine()
    assert [bad[name].grade for name in ("vagrant", "vagrant-libvirt", "libvirt and QEMU")] == [Grade.BAD] * 3
    assert bad["vagrant"].text == "vagrant 2.2.19 is too old, 2.3 is needed"
    assert bad["vagrant-libvirt"].cure == "apt-get install vagrant-libvirt"
    assert bad["libvirt and QEMU"].cure == "apt-get install libvirt-clients qemu-utils"
    assert Grade.BAD not in {finding.grade for finding in examine(wanted=False).values()}


def test_ubuntu_gets_the_ways_of_ubuntu(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (host / "os-release").write_text('ID=ubuntu\nVERSION_ID="24.04"\n')
    monkeypatch.setattr(installed, "find", lambda: Found("", ""))
    findings = examine()
    assert "HashiCorp" in findings["vagrant"].cure
    assert "vagrant plugin install vagrant-libvirt" in findings["vagrant-libvirt"].cure


def test_old_boxes_are_named_with_the_command_that_removes_them(host: Path) -> None:
    version = box.version("debian-12")
    for name in (version, "1.0.7"):
        (host / "vagrant/boxes/hapair-VAGRANTSLASH-debian-12" / name).mkdir(parents=True)
    found = examine()["box"]
    assert found.grade is Grade.WORSE
    assert found.text.endswith("Vagrant holds old ones: hapair/debian-12 1.0.7")
    assert found.cure.startswith("vagrant box remove hapair/debian-12 --box-version 1.0.7;")


def test_present_boxes_are_good() -> None:
    found = doctor_vagrant.boxes({"a/b": ["1.1.2"]}, {"a/b": "1.1.2", "a/c": "1.1.3"}, ["a/b"])
    assert (found.grade, found.text) == (Grade.GOOD, "in the cache: a/b 1.1.2")


@pytest.mark.usefixtures("host")
def test_a_box_that_the_site_names_is_looked_for_in_vagrant() -> None:
    found = doctor_vagrant.added("debian/bookworm64", "", Grade.BAD)
    assert (found.grade, found.subject) == (Grade.BAD, "box")
    assert "does not have the box debian/bookworm64" in found.text and "vagrant box add" in found.cure
    named = list(doctor_vagrant.examine(wanted=True, named="debian/bookworm64"))
    assert [finding for finding in named if finding.subject == "box"] == [found]


@pytest.mark.parametrize(
    ("verdict", "grade", "text"),
    [
        (GOOD, Grade.GOOD, "a guest boots the lab's kernel"),
        (Verdict(Outcome.HANGS, "no progress", "cure"), Grade.WORSE, "no progress; virtual machines would be emulated"),
    ],
)
def test_kvm_is_tried_with_the_boxs_kernel(
    host: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict, grade: Grade, text: str
) -> None:
    made = box.Box(host, "hapair/debian-12", "1.1.1", "disk", "kernel")
    asked: list[tuple[Path, str]] = []
    monkeypatch.setattr(box, "cached", lambda release: release == "debian-12")
    monkeypatch.setattr(box, "find", lambda _: made)

    def probe(kernel: Path, digest: str) -> Verdict:
        asked.append((kernel, digest))
        return verdict

    monkeypatch.setattr(kvm, "probe", probe)
    found = examine()["kvm"]
    assert (found.grade, found.text, found.cure) == (grade, text, verdict.cure)
    assert asked == [(host / "vmlinuz", "kernel")]


def test_kvm_that_is_missing_is_a_warning(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", host / "kvm")
    found = examine()["kvm"]
    assert found.grade is Grade.WORSE
    assert "modprobe kvm_intel" in found.cure


@pytest.mark.parametrize(
    ("cpuinfo", "nested"),
    [("flags : fpu vmx hypervisor\n", True), ("flags : fpu vmx\n", False), ("model name : hypervisor\n", False)],
)
def test_a_virtual_machine_is_told(cpuinfo: str, nested: bool) -> None:
    assert ("nested" in doctor_vagrant.nesting(cpuinfo)) == nested


@pytest.mark.parametrize(
    ("members", "in_session", "grade", "cure"),
    [
        ([], True, Grade.GOOD, ""),
        (["ann"], False, Grade.WORSE, "log in again"),
        (["bob"], False, Grade.WORSE, "as root: usermod -aG libvirt ann; then log in again"),
    ],
)
def test_membership(members: list[str], in_session: bool, grade: Grade, cure: str) -> None:
    found = doctor_vagrant.membership("ann", members, in_session=in_session)
    assert (found.grade, found.cure) == (grade, cure)


def test_the_group_matters_where_the_host_has_a_daemon(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [])
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("grp.getgrnam", lambda _: grp.struct_group(("libvirt", "x", 7, ["bob"])))
    assert examine()["group libvirt"].grade is Grade.GOOD
    with monkeypatch.context() as closed:
        closed.setattr(Path, "exists", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert doctor_vagrant._group().grade is Grade.GOOD
    (host / "socket").touch()
    assert "usermod -aG libvirt ann" in examine()["group libvirt"].cure


@pytest.mark.usefixtures("host")
def test_too_little_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, 1 << 30))
    assert examine()["disk"].grade is Grade.BAD
    assert "XDG_STATE_HOME" in examine()["disk"].cure


def test_the_checks_leave_nothing_behind(host: Path) -> None:
    before = sorted(host.rglob("*"))
    examine()
    assert sorted(host.rglob("*")) == before
    assert not paths.cache().exists()


def test_ubuntus_restriction_of_user_namespaces(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    assert not doctor.restricted(switch)
    switch.write_text("0\n")
    assert not doctor.restricted(switch)
    switch.write_text("1\n")
    assert doctor.restricted(switch)
