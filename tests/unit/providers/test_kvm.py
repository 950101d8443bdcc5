"""Every outcome of the attempt to use KVM, told apart, with its cure."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest

from lab.errors import HostLacks
from lab.providers import kvm
from lab.providers.kvm import Outcome
from tests.fakes.programs import Fakes

QEMU = "qemu-system-x86_64"
PANIC = "[    0.000000] Linux version 6.1.0\n[    0.9] Kernel panic - not syncing: VFS\n"
KERNEL = Path("/a/kernel")


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A machine with a device that this user may open, an empty cache, and a QEMU that boots."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kvm, "DEVICE", Path(os.devnull))
    monkeypatch.setattr(kvm, "BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("first\n")
    fakes.add(QEMU, prints=PANIC)
    return fakes


@pytest.mark.spawns
def test_a_guest_that_panics_as_it_must_is_a_good_one(host: Fakes) -> None:
    verdict = kvm.probe(KERNEL, "digest")
    assert verdict.usable and not verdict.cure
    (call,) = host.calls(QEMU)
    assert call[call.index("-accel") + 1] == "kvm"
    assert call[call.index("-kernel") + 1] == str(KERNEL)
    assert "-no-reboot" in call and "panic=-1" in call[call.index("-append") + 1]


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("prints", "script", "said"),
    [
        ("", "echo 'error: failed to set MSR 0x48e' >&2; kill -ABRT $$", "failed to set MSR"),
        ("", "echo 'failed to initialize kvm: Permission denied' >&2; exit 1", "failed to initialize kvm"),
        ("", "exit 0", "without a word"),
        (PANIC, "exit 1", "without a word"),
    ],
)
def test_a_guest_that_ends_at_once(host: Fakes, prints: str, script: str, said: str) -> None:
    host.add(QEMU, prints=prints, script=script)
    verdict = kvm.probe(KERNEL, "digest")
    assert verdict.outcome is Outcome.ABORTS
    assert said in verdict.text
    assert "--provider uml" in verdict.cure


@pytest.mark.spawns
def test_a_guest_that_hangs_is_ended(host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "LIMIT_S", 0.3)
    host.add(QEMU, prints="Linux version 6.1.0\n", script="exec sleep 60")
    verdict = kvm.probe(KERNEL, "digest")
    assert verdict.outcome is Outcome.HANGS
    assert "0.3 s" in verdict.text and "nested" in verdict.cure


@pytest.mark.spawns
def test_the_time_scale_stretches_the_limit(host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "LIMIT_S", 0.1)
    host.add(QEMU, prints=PANIC, delay_s=0.5)
    assert kvm.probe(KERNEL, "digest").outcome is Outcome.HANGS
    monkeypatch.setenv("HAPAIR_TIME_SCALE", "100")
    assert kvm.probe(KERNEL, "digest").usable


@pytest.mark.spawns
@pytest.mark.parametrize("change", ["nothing", "kernel", "boot", "qemu", "cache"])
def test_asks_once_until_something_changes(host: Fakes, tmp_path: Path, change: str) -> None:
    host.add(QEMU, code=1)
    first = kvm.probe(KERNEL, "digest")
    if change == "boot":
        (tmp_path / "boot_id").write_text("second\n")
    elif change == "qemu":
        os.utime(host.folder / QEMU, (1, 1))
    elif change == "cache":
        (tmp_path / "cache/hapair/kvm.json").write_text("{}")
    assert kvm.probe(KERNEL, "other" if change == "kernel" else "digest") == first
    assert len(host.calls(QEMU)) == (1 if change == "nothing" else 2)


def test_no_qemu(host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    with pytest.raises(HostLacks, match="qemu-system-x86_64 is not installed") as caught:
        kvm.probe(KERNEL, "digest")
    assert "qemu-system-x86" in caught.value.hint
    assert host.calls() == []


@pytest.mark.parametrize(
    ("cpuinfo", "told"),
    [
        ("flags : fpu vmx sse2\n", ("there is no", "modprobe kvm_intel")),
        ("flags : fpu svm\n", ("there is no", "modprobe kvm_amd")),
        ("flags : fpu sse2 svm_lock\n", ("offers no virtualisation", "nested virtualisation")),
        ("", ("offers no virtualisation", "firmware")),
    ],
)
def test_no_device(
    host: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, told: tuple[str, str]
) -> None:
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    monkeypatch.setattr(kvm, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    verdict = kvm.probe(KERNEL, "digest")
    assert verdict.outcome is Outcome.MISSING
    assert told[0] in verdict.text and told[1] in verdict.cure
    assert host.calls() == []


def test_a_file_is_no_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kvm").touch()
    monkeypatch.setattr(kvm, "DEVICE", tmp_path / "kvm")
    verdict = kvm.access()
    assert verdict is not None
    assert verdict.outcome is Outcome.MISSING


GROUP = stat.S_IFCHR | 0o660


@pytest.mark.parametrize(
    ("group", "members", "mode", "text", "cure"),
    [
        ("kvm", [], GROUP, "ann is not in the group kvm", "usermod -aG kvm ann; then log in again"),
        ("kvm", ["bob"], GROUP, "not in the group", "usermod"),
        ("kvm", ["bob", "ann"], GROUP, "not when this session began", "log in again"),
        ("kvm", ["ann"], stat.S_IFCHR | 0o600, "for root alone", "chmod 660"),
        ("root", [], GROUP, "for root alone", "chgrp kvm"),
    ],
)
def test_a_device_that_this_user_may_not_open(group: str, members: list[str], mode: int, text: str, cure: str) -> None:
    verdict = kvm.forbidden("ann", group, members, mode)
    assert verdict.outcome is Outcome.FORBIDDEN
    assert text in verdict.text and cure in verdict.cure
    assert (verdict.cure == "log in again") == ("session" in verdict.text)


def test_membership_is_looked_up_by_the_device_s_group(host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = grp.struct_group(("kvm", "x", 0, ["ann"]))
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("grp.getgrgid", lambda _: entry)
    verdict = kvm.probe(KERNEL, "digest")
    assert (verdict.outcome, verdict.cure) == (Outcome.FORBIDDEN, "log in again")
    assert host.calls() == []
