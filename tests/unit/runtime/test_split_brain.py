"""Guided recovery from a split brain: the lock decides who may be the victim, and the copy comes first."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hapair import cli, proc, split_brain
from hapair.events import out_of_sync_kib
from hapair.fence.site import fence_of
from hapair.fencing import no_guard

from .conftest import Host

APART = (
    "version: 8.4.11\n"
    " 1: cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate C r-----\n"
    "    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:7\n"
    " 0: cs:StandAlone ro:{role}/Unknown ds:UpToDate/DUnknown   r-----\n"
    "    ns:0 nr:0 dw:12 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:1204\n"
)
SUPER = "superblock: bytenr=65536\nchunk_root_generation\t5\ngeneration\t\t42\nroot\t\t30408704\n"


class Disk:
    """The victim's backing device (a file), and what drbdadm was told."""

    def __init__(self, folder: Path) -> None:
        self.device = folder / "backing"
        self.device.write_bytes(b"\0" * (3 << 20) + b"discarded writes" + b"\0" * 5000)
        self.told: list[str] = []
        self.fails = ""

    def run(self, argv: list[str], limit_s: float, env: object = None) -> proc.Completed:
        del limit_s, env
        words = " ".join(argv)
        if argv[1] == "sh-ll-dev":
            return proc.Completed(0, f"{self.device}\n")
        if argv[1] == "get-gi":
            return proc.Completed(0, "AAAA:BBBB:CCCC:DDDD:1:1:0:1:0:0\n")
        if argv[0] == "btrfs":
            return proc.Completed(0, SUPER)
        self.told.append(words)
        return proc.Completed(11, "no") if self.fails and self.fails in words else proc.Completed(0, "")


@pytest.fixture
def disk(tmp_path: Path, n1: Host, n2: Host, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """n2 has the lock, n1 has writes of its own: n1 is the victim that the lock allows."""
    lock = fence_of(n1.config, "r0", n1.paths)
    lock.create(no_guard)
    fence_of(n2.config, "r0", n2.paths).take()
    for host in (n1, n2):
        host.paths.proc_drbd.write_text(APART.format(role="Secondary"))
        host.paths.run.mkdir(parents=True, exist_ok=True)
        host.paths.split_brain("r0").write_text("")
    made = Disk(tmp_path)
    monkeypatch.setattr(proc, "run", made.run)
    return made


def recover(host: Host, *more: str, victim: str = "n1") -> int:
    return cli.main(["recover-split-brain", "r0", "--victim", victim, *more], host.paths)


def copies(host: Host) -> list[Path]:
    return sorted((host.paths.state / "discarded").glob("*"))


def test_a_dry_run_shows_what_would_be_lost_and_changes_nothing(
    n1: Host, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recover(n1, "--dry-run") == 0
    said = capsys.readouterr().out
    for piece in ("1204 KiB", "AAAA:BBBB", "transaction of the file system: 42", "all of this is discarded"):
        assert piece in said
    assert disk.told == []
    assert n1.paths.split_brain("r0").exists()
    assert not copies(n1)


def test_the_victim_is_saved_before_it_gives_in(n1: Host, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    assert recover(n1, "--confirm", "n1") == 0
    (copy,) = copies(n1)
    assert copy.read_bytes() == disk.device.read_bytes()
    assert copy.stat().st_mode & 0o077 == 0, "it holds everything that the containers hold"
    assert copy.stat().st_blocks * 512 < copy.stat().st_size, "zeros take no room"
    assert disk.told == ["drbdadm connect --discard-my-data r0"]
    assert not n1.paths.split_brain("r0").exists()
    assert "run the same command there" in capsys.readouterr().out
    assert n1.decisions()[-1]["rule"] == "F12"


def test_the_other_node_only_connects(n2: Host, disk: Disk) -> None:
    assert recover(n2, "--confirm", "n1") == 0
    assert disk.told == ["drbdadm connect r0"]
    assert not copies(n2)
    assert not n2.paths.split_brain("r0").exists()


def test_a_connection_that_is_tried_is_ended_first(n1: Host, disk: Disk) -> None:
    n1.paths.proc_drbd.write_text(APART.format(role="Secondary").replace("StandAlone", "WFConnection"))
    assert recover(n1, "--confirm", "n1") == 0
    assert disk.told == ["drbdadm disconnect r0", "drbdadm connect --discard-my-data r0"]


def test_without_a_copy_nothing_is_discarded(n1: Host, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    (n1.paths.state / "discarded").write_text("a file where a folder should be")
    assert recover(n1, "--confirm", "n1") == 1
    disk.device.unlink()
    assert recover(n1, "--confirm", "n1", "--save", str(n1.paths.state / "elsewhere")) == 1
    assert capsys.readouterr().err.count("not saved, so nothing is discarded") == 2
    assert disk.told == []
    assert n1.paths.split_brain("r0").exists()


def test_a_full_disk_leaves_no_half_copy(n1: Host, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_brain, "SPARE_BYTES", 1 << 60)
    assert recover(n1, "--confirm", "n1") == 1
    assert not copies(n1)
    assert disk.told == []


@pytest.mark.parametrize("victim_is_confirmed", ["n2", "r0", "yes"])
def test_the_victims_name_must_be_typed(n1: Host, disk: Disk, victim_is_confirmed: str) -> None:
    assert recover(n1, "--confirm", victim_is_confirmed) == 2
    assert recover(n1) == 2, "nobody can be asked here"
    assert disk.told == []


def refused(host: Host, capsys: pytest.CaptureFixture[str], victim: str = "n1") -> str:
    assert recover(host, "--confirm", victim, victim=victim) == 1
    assert not copies(host)
    return capsys.readouterr().err


def test_the_lock_protects_its_owner(n1: Host, n2: Host, disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    for host in (n1, n2):
        assert "only n2 has every acknowledged write (epoch 2)" in refused(host, capsys, "n2")
    assert disk.told == []


@pytest.mark.usefixtures("disk")
def test_an_unknown_lock_and_an_override_stop_it(n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "store/locks/example-r0"
    fields = json.loads(stored.read_text())
    stored.write_text(json.dumps({**fields, "state": "STEALING"}))
    assert "an override is in progress" in refused(n1, capsys)
    stored.unlink()
    assert "nobody knows which replica is current" in refused(n1, capsys)


@pytest.mark.usefixtures("disk")
def test_drbds_state_may_stand_in_the_way(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    n1.paths.proc_drbd.write_text(APART.format(role="Primary"))
    assert "the victim is Primary: `r0 secondary` first" in refused(n1, capsys)
    n1.together()
    assert "nothing to recover" in refused(n1, capsys)
    n1.paths.proc_drbd.unlink()
    assert "start hapair-agent first" in refused(n1, capsys)


def test_a_connect_that_fails_keeps_the_mark(n1: Host, n2: Host, disk: Disk) -> None:
    disk.fails = "connect"
    assert recover(n1, "--confirm", "n1") == 1
    assert recover(n2, "--confirm", "n1") == 1
    assert n1.paths.split_brain("r0").exists()
    assert n2.paths.split_brain("r0").exists()


def test_the_mark_goes_when_the_replicas_have_met(n1: Host, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim's command once more, after both sides were run: they meet while it saves."""
    real = split_brain.save

    def meanwhile(device: Path, target: Path) -> int:
        n1.together()
        return real(device, target)

    monkeypatch.setattr(split_brain, "save", meanwhile)
    assert recover(n1, "--confirm", "n1") == 1
    assert not n1.paths.split_brain("r0").exists()
    n1.paths.split_brain("r0").write_text("")
    assert recover(n1, "--dry-run") == 1
    assert n1.paths.split_brain("r0").exists(), "a dry run changes nothing"
    assert recover(n1, "--confirm", "n1") == 1
    assert not n1.paths.split_brain("r0").exists(), "refused at once, and what a former command left is gone"
    assert disk.told == []


@pytest.mark.parametrize("trouble", ["save", "connect"])
def test_a_mark_of_its_own_goes_when_it_gives_up(n1: Host, disk: Disk, trouble: str) -> None:
    n1.paths.split_brain("r0").unlink()
    disk.fails = trouble
    if trouble == "save":
        disk.device.unlink()
    assert recover(n1, "--confirm", "n1") == 1
    assert not n1.paths.split_brain("r0").exists()


@pytest.mark.usefixtures("disk")
def test_a_split_brain_that_is_found_meanwhile_stays_marked(n1: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = n1.paths.split_brain("r0")
    mark.unlink()

    def meanwhile(device: Path, target: Path) -> int:
        assert mark.exists(), "the agent is kept from connecting"
        mark.write_text("")
        raise OSError(f"{device}: read error, so no {target}")

    monkeypatch.setattr(split_brain, "save", meanwhile)
    assert recover(n1, "--confirm", "n1") == 1
    assert mark.exists()


@pytest.mark.usefixtures("disk")
def test_a_refused_dry_run_says_nothing_of_discarding(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    n1.together()
    assert recover(n1, "--dry-run") == 1
    assert "discarded" not in capsys.readouterr().out


@pytest.mark.usefixtures("disk")
def test_bad_input(n1: Host) -> None:
    assert recover(n1, victim="n7") == 2
    assert cli.main(["recover-split-brain", "r9", "--victim", "n1"], n1.paths) == 2


def test_out_of_sync_is_the_minors_own() -> None:
    assert out_of_sync_kib(APART, 0) == 1204
    assert out_of_sync_kib(APART, 1) == 7
    assert out_of_sync_kib(APART, 2) is None


def test_a_copy_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "device"
    source.write_bytes(b"x" * (2 << 20))

    def broken(fd: int, count: int, offset: int) -> bytes:
        if offset:
            raise OSError("read error")
        return b"x" * count if fd >= 0 else b""

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="read error"):
        split_brain.save(source, tmp_path / "copies/r0.img")
    assert list((tmp_path / "copies").iterdir()) == []
