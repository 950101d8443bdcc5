"""F8: `drbd-fence steal`, through real HTTP, with fake DRBD and with the agent."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from hapair import fence_cli, override, proc, r0
from hapair.fence.site import fence_of
from hapair.fencing import Fence, Held, no_guard
from hapair.incarnation import Local, Unjudged, mark
from hapair.lock import LockRecord, LockState

from .conftest import Host


@pytest.fixture
def stolen_from(n1: Host, n2: Host) -> LockRecord:
    """n1 owns the lock and is gone; n2 is alone and Secondary. Returns the lock as it stands."""
    lock = fence_of(n1.config, "r0", n1.paths)
    lock.create(no_guard)
    record = lock.take().record
    n2.alone("Secondary", "Consistent")
    assert record is not None
    return record


@pytest.fixture
def promoted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the agent and of drbdadm, in order."""
    told: list[str] = []

    def ask(name: str, argv: list[str], paths: object) -> int:
        del paths
        told.append(f"{name} {' '.join(argv)}")
        return 0

    def run(argv: list[str], limit_s: float) -> proc.Completed:
        del limit_s
        told.append(" ".join(argv))
        return proc.Completed(0, "")

    monkeypatch.setattr(r0, "main", ask)
    monkeypatch.setattr(proc, "run", run)
    return told


def steal(host: Host, *more: str, epoch: int = 2, owner: str = "n1") -> int:
    words = ["steal", "r0", "--epoch", str(epoch), "--owner", owner, "--reason", "n1 burnt down", *more]
    return fence_cli.main(words, host.paths)


def lock_of(host: Host) -> LockRecord:
    record = fence_of(host.config, "r0", host.paths).read().record
    assert record is not None
    return record


@pytest.mark.usefixtures("stolen_from")
def test_an_owner_that_is_gone_is_overridden(n2: Host, promoted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert steal(n2, "--confirm", "r0") == 0
    record = lock_of(n2)
    assert (record.state, record.owner, record.epoch) == (LockState.SOLO, "uuid-n2", 4)
    assert [(one.state, one.owner, one.writer) for one in record.history[-2:]] == [
        (LockState.SOLO, "uuid-n1", "uuid-n1"),
        (LockState.STEALING, "uuid-n1", "uuid-n2"),
    ]
    assert record.reason == "n1 burnt down"
    assert promoted == ["r0 primary"], "a Consistent replica needs no force"
    assert "waits 1.2 s" in capsys.readouterr().out
    assert [line["rule"] for line in n2.decisions()] == ["F8", "F8"]


@pytest.mark.usefixtures("stolen_from")
def test_force_is_the_last_step_and_only_for_a_replica_that_is_behind(n2: Host, promoted: list[str]) -> None:
    n2.alone("Secondary", "Outdated")
    assert steal(n2, "--confirm", "r0", "--powered-off-proof", "plug pulled by Eva") == 0
    assert promoted == ["drbdadm primary --force r0", "r0 primary"]
    assert lock_of(n2).reason == "n1 burnt down; powered off: plug pulled by Eva"


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_with_proof_of_power_off_nobody_waits(n2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        pytest.fail(f"waited {seconds} s")

    monkeypatch.setattr(override, "sleep", sleep)
    assert steal(n2, "--confirm", "r0", "--powered-off-proof", "plug pulled") == 0


@pytest.mark.usefixtures("stolen_from")
@pytest.mark.parametrize(
    ("epoch", "owner", "said"),
    [(1, "n1", "not epoch 1 of n1"), (2, "n2", "not epoch 2 of n2"), (2, "n9", "the nodes are n1 and n2")],
)
def test_epoch_and_owner_must_be_those_of_the_lock(
    n2: Host, epoch: int, owner: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lock_of(n2)
    assert steal(n2, "--confirm", "r0", epoch=epoch, owner=owner) == (2 if owner == "n9" else 1)
    assert said in capsys.readouterr().err
    assert lock_of(n2) == before


@pytest.mark.usefixtures("stolen_from")
@pytest.mark.parametrize("typed", ["", "r1\n", "yes\n"])
def test_the_resource_must_be_typed_again(n2: Host, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert steal(n2) == 2
    assert lock_of(n2).state is LockState.SOLO


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_the_resource_typed_again_is_enough(n2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO("r0\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert steal(n2) == 0


@pytest.mark.usefixtures("stolen_from")
def test_a_script_must_confirm_and_give_a_reason(n2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("r0\n"))
    assert steal(n2) == 2
    assert steal(n2, "--confirm", "r1") == 2
    assert steal(n2, "--confirm", "r0", "--reason", "  ") == 2
    assert lock_of(n2).state is LockState.SOLO


@pytest.mark.usefixtures("stolen_from")
@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("connected", "n1 is connected, so it lives"),
        ("primary", "Primary already"),
        ("Inconsistent", "not whole (Inconsistent)"),
        ("Diskless", "not whole (Diskless)"),
        ("tombstone", "this disk failed once"),
        ("unjudged", "F9: the store has not answered yet"),
        ("put back", "F9: older than the one attached last"),
        ("no module", "start hapair-agent first"),
    ],
)
def test_what_may_not_be_overridden(n2: Host, state: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if state == "connected":
        n2.together()
    elif state == "primary":
        n2.alone("Primary")
    elif state == "tombstone":
        n2.paths.tombstone("r0").write_text("")
    elif state == "unjudged":
        mark(n2.paths, "r0", Unjudged((Local(3, False),)))
    elif state == "put back":
        mark(n2.paths, "r0", Unjudged((Local(3, False),), "F9: older than the one attached last"))
    elif state == "no module":
        n2.paths.proc_drbd.unlink()
    else:
        n2.alone("Secondary", state)
    assert steal(n2, "--confirm", "r0") == 1
    assert said in capsys.readouterr().err
    assert lock_of(n2).state is LockState.SOLO, "nothing was touched"


def test_a_free_lock_is_not_stolen(n1: Host, n2: Host, capsys: pytest.CaptureFixture[str]) -> None:
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    n2.alone("Secondary")
    assert steal(n2, "--confirm", "r0", epoch=1) == 1
    assert "`r0 primary` is enough" in capsys.readouterr().err


@pytest.mark.usefixtures("stolen_from", "promoted")
@pytest.mark.parametrize("epoch", [2, 7])
def test_with_nothing_to_undo_nothing_is_advised(n2: Host, epoch: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = lock_of(n2)
    assert steal(n2, "--confirm", "r0", "--undo", epoch=epoch) == 1
    assert capsys.readouterr().err == "there is no override to undo: the lock is SOLO of n1, epoch 2\n"
    assert lock_of(n2) == before


@pytest.mark.usefixtures("stolen_from")
def test_an_override_without_a_past_is_not_undone(n2: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = tmp_path / "store/locks/example-r0"
    stored.write_text(json.dumps({**json.loads(stored.read_text()), "state": "STEALING", "history": []}))
    assert steal(n2, "--confirm", "r0", "--undo") == 1
    assert "its history does not tell what it was before" in capsys.readouterr().err


class Interrupted(Exception):
    """The process dies at this point."""


def broken_off(host: Host, monkeypatch: pytest.MonkeyPatch) -> LockRecord:
    """Begin an override and die while waiting."""
    with monkeypatch.context() as patched:

        def die(seconds: float) -> None:
            raise Interrupted(str(seconds))

        patched.setattr(override, "sleep", die)
        with pytest.raises(Interrupted):
            steal(host, "--confirm", "r0")
    record = lock_of(host)
    assert record.state is LockState.STEALING
    return record


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_between_the_steps_nobody_can_take_the_lock(n1: Host, n2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(n2, monkeypatch)
    for host in (n1, n2):
        made = fence_of(host.config, "r0", host.paths)
        for answer in (made.take(), made.record_promotion(), made.release(no_guard), made.hand_over(no_guard)):
            assert answer.held is Held.REFUSED
    assert steal(n2, "--confirm", "r0", epoch=3) == 0, "taken up again"
    assert lock_of(n2).owner == "uuid-n2"


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_an_override_that_broke_off_is_undone(n1: Host, n2: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    broken_off(n2, monkeypatch)
    assert steal(n2, "--confirm", "r0", "--undo", epoch=2) == 1, "not that version"
    assert steal(n2, "--confirm", "r0", "--undo", epoch=3) == 0
    assert (lock_of(n1).state, lock_of(n1).owner) == (LockState.SOLO, "uuid-n1")
    assert fence_of(n1.config, "r0", n1.paths).take().held is Held.HELD
    assert steal(n2, "--confirm", "r0", "--undo", epoch=5) == 1, "there is none any more"


@pytest.mark.usefixtures("stolen_from")
def test_an_override_that_broke_off_before_the_promotion_is_taken_up(n2: Host, promoted: list[str]) -> None:
    n2.alone("Secondary", "Outdated")
    assert steal(n2, "--confirm", "r0") == 0
    promoted.clear()
    assert steal(n2, "--confirm", "r0", epoch=4) == 0
    assert promoted == ["drbdadm primary --force r0", "r0 primary"]
    assert lock_of(n2).epoch == 5, "a fresh write confirms it"


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_a_peer_that_comes_back_during_the_wait_stops_it(n2: Host, capsys: pytest.CaptureFixture[str]) -> None:
    timer = threading.Timer(0.4, n2.together)
    timer.start()
    assert steal(n2, "--confirm", "r0") == 1
    timer.join()
    assert lock_of(n2).state is LockState.STEALING
    said = capsys.readouterr().err
    assert "n1 is connected" in said
    assert "--epoch 3 --owner n1" in said


@pytest.mark.usefixtures("stolen_from", "promoted")
def test_ctrl_c_says_how_to_go_on(
    n2: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt(str(seconds))

    monkeypatch.setattr(override, "sleep", interrupt)
    assert steal(n2, "--confirm", "r0") == 130
    assert "--undo" in capsys.readouterr().err


def test_a_lost_store_during_the_override_is_told(
    stolen_from: LockRecord, n2: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store/locks/example-r0").write_text(json.dumps({"format": 9}))
    assert steal(n2, "--confirm", "r0", epoch=stolen_from.epoch) == 1
    assert "format 9" in capsys.readouterr().err


def test_only_the_own_override_is_ended(stolen_from: LockRecord, n1: Host, n2: Host) -> None:
    """Two people steal at once: the one whose STEALING was overwritten gets nothing."""
    mine: Fence = fence_of(n2.config, "r0", n2.paths)
    first = mine.begin_override(stolen_from.epoch, "uuid-n1", no_guard, "one")
    assert first.record is not None
    theirs = fence_of(n1.config, "r0", n1.paths)
    second = theirs.begin_override(first.record.epoch, "uuid-n1", no_guard, "two")
    assert second.record is not None
    assert mine.end_override(first.record, no_guard, "one").held is Held.REFUSED
    assert theirs.end_override(second.record, no_guard, "two").held is Held.HELD
