"""F9: a replica that was put back from a snapshot is not attached before a person has decided about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hapair import cli, incarnation, proc, restored_replica
from hapair.fence.base import Found, Reading, Writing, Written
from hapair.fence.site import SiteStore, fence_of
from hapair.fencing import no_guard
from hapair.incarnation import MARK, Incarnation, InUse, Local, successor

from .conftest import Host
from .fakes import Machine
from .test_agent import Running

DRBD_EMPTY = "version: 8.4.11\n"
DISKLESS = "version: 8.4.11\n 0: cs:WFConnection ro:Secondary/Unknown ds:Diskless/DUnknown C r-----\n"


def marked(number: int) -> int:
    return MARK << 32 | number


@pytest.mark.parametrize(
    ("replica", "stored", "number"),
    [
        ([Local(0, False)], 0, 1),
        ([Local(5, False)], 5, 6),
        ([Local(6, False)], 5, 7),
        ([Local(0, True)], 5, 6),
        ([Local(5, True)], 9, 10),
        ([Local(4, False)], 5, None),
        ([Local(0, False)], 1, None),
        ([Local(7, False), Local(4, False)], 5, None),
        ([Local(5, False), Local(0, True)], 5, 6),
        ([Local(0, True), Local(9, False)], 5, 10),
    ],
)
def test_only_a_replica_that_was_attached_last_or_is_new_goes_on(
    replica: list[Local], stored: int, number: int | None
) -> None:
    assert successor(tuple(replica), stored) == number


@pytest.fixture
def machine(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Node n1 before DRBD knows the resource; a lock in the store."""
    made = Machine(n1, tmp_path)
    n1.paths.proc_drbd.write_text(DRBD_EMPTY)
    monkeypatch.setattr(proc, "PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setattr(incarnation, "STORE_S", 0.0)
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    return made


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where the store keeps the incarnation of n1."""
    return tmp_path / "store/locks/example-r0.n1.incarnation"


def stored(there: Path, number: int) -> None:
    there.write_text(json.dumps({"format": 1, "node": "n1", "incarnation": number}))


def on_disk(machine: Machine) -> int:
    return int((machine.state / "meta").read_text().split()[0], 16)


def count(host: Host) -> tuple[str, str]:
    return Incarnation(host.config, "r0", host.paths).count()


@pytest.mark.spawns
def test_each_attach_is_counted_on_the_disk_and_in_the_store(n1: Host, machine: Machine, there: Path) -> None:
    for number in (1, 2, 3):
        assert count(n1) == ("", "")
        assert on_disk(machine) == marked(number)
        assert json.loads(there.read_text())["incarnation"] == number


@pytest.mark.spawns
@pytest.mark.parametrize("uuid", [marked(8), 0x0123456789ABCDEF, 0])
def test_an_older_replica_is_refused_with_both_numbers_and_the_cure(
    n1: Host, machine: Machine, there: Path, uuid: int
) -> None:
    stored(there, 9)
    machine.meta(uuid)
    refused, _ = count(n1)
    for piece in ("F9", f"incarnation {uuid & 0xFF if uuid >> 32 == MARK else 0}, the store has 9", "--discard"):
        assert piece in refused
    assert on_disk(machine) == uuid
    assert json.loads(there.read_text())["incarnation"] == 9


@pytest.mark.spawns
def test_new_meta_data_are_counted_on(n1: Host, machine: Machine, there: Path) -> None:
    stored(there, 9)
    machine.meta(0x0123456789ABCDEF, incarnation.JUST_CREATED)
    assert count(n1) == ("", "")
    assert on_disk(machine) == marked(10)


@pytest.mark.spawns
def test_a_write_that_broke_off_after_the_disk_is_no_trouble(n1: Host, machine: Machine, there: Path) -> None:
    stored(there, 9)
    machine.meta(marked(12))
    assert count(n1) == ("", "")
    assert json.loads(there.read_text())["incarnation"] == 13


@pytest.mark.spawns
def test_the_disk_is_ahead_of_a_store_that_did_not_take_it(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(there, 9)
    machine.meta(marked(9))
    monkeypatch.setattr(SiteStore, "write", lambda *_: Writing(Written.UNCLEAR, "no reply"))
    refused, remark = count(n1)
    assert refused == ""
    assert "does not know of this attach, incarnation 10 (F9): no reply" in remark
    assert on_disk(machine) == marked(10)


@pytest.mark.spawns
@pytest.mark.parametrize("body", [None, "no JSON", '{"format": 2, "node": "n1", "incarnation": 9}'])
def test_without_the_store_nothing_is_counted_and_nothing_refused(
    n1: Host, machine: Machine, there: Path, body: str | None
) -> None:
    machine.meta(marked(3))
    if body is None:
        text = n1.paths.config.read_text()
        n1.paths.config.write_text(text.replace(n1.config.store.url, "http://127.0.0.1:1"))
    else:
        there.write_text(body)
    refused, remark = count(n1)
    assert refused == ""
    assert "not counted (F9)" in remark
    assert on_disk(machine) == marked(3)


@pytest.mark.spawns
def test_at_boot_the_store_is_waited_for(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent may be there before the network is: a node that was put back must not slip through."""
    stored(there, 9)
    machine.meta(marked(3))
    monkeypatch.setattr(incarnation, "STORE_S", 10.0)
    monkeypatch.setattr(incarnation, "PAUSE_S", 0.0)
    reads = iter([Reading(Found.UNAVAILABLE, text="network is unreachable")] * 3)
    real = SiteStore.read
    monkeypatch.setattr(SiteStore, "read", lambda self, *what: next(reads, None) or real(self, *what))
    assert "the store has 9" in count(n1)[0]


@pytest.mark.spawns
def test_a_disk_that_cannot_be_read_is_left_to_drbd(n1: Host, machine: Machine, there: Path) -> None:
    (machine.state / "meta").unlink()
    refused, remark = count(n1)
    assert refused == ""
    assert "No such file" in remark
    assert not there.exists()


@pytest.mark.spawns
@pytest.mark.usefixtures("machine")
def test_only_an_attach_counts(n1: Host, there: Path) -> None:
    stored(there, 9)
    n1.together()
    assert count(n1) == ("", "")
    n1.paths.proc_drbd.write_text(DISKLESS)
    assert "F9" in count(n1)[0]


def test_nobody_else_touches_the_meta_data_meanwhile(n1: Host) -> None:
    one, other = (Incarnation(n1.config, "r0", n1.paths) for _ in range(2))
    with one.alone(), pytest.raises(InUse), other.alone():
        pytest.fail("both are alone")
    with other.alone():
        assert n1.paths.attaching("r0").exists()


# --- the agent ---


@pytest.mark.spawns
def test_the_agent_says_why_it_does_not_attach_and_attaches_once_cured(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapair.memory.RETRY_S", 0.1)
    stored(there, 9)
    machine.meta(marked(8))
    running = Running(n1, machine)
    try:
        running.until("the socket is there", n1.paths.socket.exists)
        running.until("it says why", lambda: "incarnation 8, the store has 9" in str(running.status()["waiting"]))
        since = running.status()["since_s"]
        running.until("it has tried again", lambda: float(str(running.status()["since_s"])) > float(str(since)) + 0.5)
        assert machine.told("drbdadm") == []
        machine.meta(marked(9))
        running.until("it comes up", lambda: "adjust r0" in machine.told("drbdadm"))
        running.until("the event came", lambda: running.status()["known"])
        running.agent.log.drain(5.0)
    finally:
        running.stop()
    refusals = [line for line in n1.decisions() if line["outcome"] == "failed" and "F9" in str(line["why"])]
    assert len(refusals) == 1, "the same refusal is told once, however often it was tried"


# --- what a person decides ---


def decide(host: Host, *words: str, confirm: str = "r0") -> int:
    return cli.main(["restored-replica", "r0", *words, "--confirm", confirm], host.paths)


@pytest.mark.spawns
def test_discarded_it_is_new_and_known(
    n1: Host, machine: Machine, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    machine.meta(marked(3))
    assert decide(n1, "--discard") == 0
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
    assert decide(n1, "--trust", "--reason", "n2 burnt down") == 0
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
