"""F9: what a person decides about a replica that was put back from a snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapair import restored_replica
from hapair.fence.site import fence_of
from hapair.incarnation import Incarnation, Local, Unjudged, mark, unjudged

from .conftest import Host
from .fakes import Machine
from .replica import DISKLESS, DRBD_EMPTY, before_drbd, count, decide, marked, on_disk, stored


@pytest.fixture
def machine(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return before_drbd(n1, tmp_path, monkeypatch)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where the store keeps the incarnation of n1."""
    return tmp_path / "store/locks/example-r0.n1.incarnation"


@pytest.mark.spawns
def test_what_cannot_be_done_is_told(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    machine.meta(marked(3))
    monkeypatch.setattr(restored_replica, "typed", interrupted)
    assert decide(n1, "--discard") == 130
    monkeypatch.undo()
    n1.paths.run.rename(n1.paths.run.with_name("elsewhere"))
    n1.paths.run.write_text("in the way")
    assert decide(n1, "--discard") == 1
    assert "not done" in capsys.readouterr().err


def interrupted(*_: object) -> bool:
    raise KeyboardInterrupt


@pytest.mark.spawns
def test_discarded_it_is_new_and_known(
    n1: Host, machine: Machine, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    machine.meta(marked(3))
    mark(n1.paths, "r0", Unjudged((Local(3, False),)))
    assert decide(n1, "--discard") == 0
    assert unjudged(n1.paths, "r0") is None
    assert "is lost" in capsys.readouterr().out
    assert machine.told("drbdadm") == ["create-md --force r0"]
    assert on_disk(machine) == marked(9)
    assert (n1.decisions()[-1]["rule"], n1.decisions()[-1]["action"]) == ("F9", "discard the replica")
    assert count(n1) == ("", "")
    assert on_disk(machine) == marked(10)


@pytest.mark.spawns
def test_trusted_it_counts_as_the_last_one(n1: Host, machine: Machine, there: Path) -> None:
    stored(there, 9)
    machine.meta(marked(3))
    mark(n1.paths, "r0", Unjudged((Local(3, False),)))
    assert decide(n1, "--trust", "--reason", "n2 burnt down") == 0
    assert unjudged(n1.paths, "r0") is None
    assert on_disk(machine) == marked(9)
    last = n1.decisions()[-1]
    assert (last["rule"], last["outcome"], last["why"]) == ("F9", "incarnation 3 counts as 9", "n2 burnt down")
    assert count(n1) == ("", "")


@pytest.mark.spawns
def test_what_need_not_be_trusted_is_not_touched(
    n1: Host, machine: Machine, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    machine.meta(marked(9))
    assert decide(n1, "--trust", "--reason", "x") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert machine.told("drbdmeta") == []


@pytest.mark.spawns
@pytest.mark.parametrize("words", [["--discard"], ["--trust", "--reason", "x"]])
def test_what_is_attached_or_not_confirmed_stays(
    n1: Host, machine: Machine, there: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restored_replica, "IN_USE_S", 0.1)
    stored(there, 9)
    machine.meta(marked(3))
    assert decide(n1, *words, confirm="n1") == 2
    n1.together()
    assert decide(n1, *words) == 1
    n1.paths.proc_drbd.write_text(DRBD_EMPTY)
    with Incarnation(n1.config, "r0", n1.paths).alone():
        assert decide(n1, *words) == 1
    assert (machine.told("drbdadm"), machine.told("drbdmeta")) == ([], [])


@pytest.mark.spawns
@pytest.mark.parametrize("words", [["--discard"], ["--trust", "--reason", "x"]])
def test_what_is_attached_while_a_person_types_stays(
    n1: Host, machine: Machine, there: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(there, 9)
    machine.meta(marked(3))

    def meanwhile(*_: object) -> bool:
        n1.together()
        return True

    monkeypatch.setattr(restored_replica, "typed", meanwhile)
    assert decide(n1, *words) == 1
    assert (machine.told("drbdadm"), machine.told("drbdmeta")) == ([], [])


@pytest.mark.spawns
@pytest.mark.usefixtures("machine")
def test_a_disk_that_is_made_anew_below_drbd_is_attached_by_hand(
    n1: Host, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    n1.paths.proc_drbd.write_text(DISKLESS)
    assert decide(n1, "--discard") == 0
    assert "`drbdadm attach r0` attaches it" in capsys.readouterr().out
    n1.paths.proc_drbd.write_text(DRBD_EMPTY)
    assert decide(n1, "--discard") == 0
    assert "the agent attaches it" in capsys.readouterr().out


@pytest.mark.spawns
def test_the_only_replica_with_every_write_is_not_discarded(
    n1: Host, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    fence_of(n1.config, "r0", n1.paths).take()
    assert decide(n1, "--discard") == 1
    assert "drbd-fence steal" in capsys.readouterr().err
    assert machine.told("drbdadm") == []


@pytest.mark.spawns
def test_nothing_is_trusted_without_a_reason_or_the_store(n1: Host, machine: Machine, there: Path) -> None:
    machine.meta(marked(3))
    assert decide(n1, "--trust") == 2
    there.write_text("no JSON")
    assert decide(n1, "--trust", "--reason", "x") == 1
    assert on_disk(machine) == marked(3)
