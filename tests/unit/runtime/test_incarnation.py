"""F9: a replica that was put back from a snapshot is not attached before a person has decided about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hapair import cli, handlers, incarnation, r0
from hapair.actions import Action, Kind, Verdict
from hapair.executor import Executor
from hapair.fence.base import Found, Reading, Writing, Written
from hapair.fence.site import SiteStore, fence_of
from hapair.fencing import Busy
from hapair.guards import Guards
from hapair.incarnation import MARK, Incarnation, Local, Unjudged, Unknown, mark, successor, unjudged
from hapair.lock import Claim
from hapair.services import Services

from .conftest import Host
from .fakes import Machine
from .replica import DISKLESS, away, before_drbd, count, decide, judge, marked, on_disk, stored
from .test_agent import Running


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
    return before_drbd(n1, tmp_path, monkeypatch)


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """Where the store keeps the incarnation of n1."""
    return tmp_path / "store/locks/example-r0.n1.incarnation"


@pytest.mark.spawns
def test_each_attach_is_counted_on_the_disk_and_in_the_store(n1: Host, machine: Machine, there: Path) -> None:
    machine.program("sync", f"#!/bin/sh\necho $* >> {machine.state}/sync.log\n")
    for number in (1, 2, 3):
        assert count(n1) == ("", "")
        assert on_disk(machine) == marked(number)
        assert json.loads(there.read_text())["incarnation"] == number
        assert machine.told("sync") == [f"{machine.state}/meta"] * number, "it is on the disk, not in its cache"


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
    assert "does not know yet of this attach, incarnation 10 (F9): no reply" in remark
    assert on_disk(machine) == marked(10)
    n1.together()
    with pytest.raises(Unknown, match="no reply"):
        judge(n1)
    assert n1.paths.unjudged("r0").exists()
    monkeypatch.undo()
    assert judge(n1) == ""
    assert json.loads(there.read_text())["incarnation"] == 10
    assert not n1.paths.unjudged("r0").exists()


@pytest.mark.spawns
@pytest.mark.parametrize(
    "body",
    [
        None,
        "no JSON",
        '{"format": 2, "node": "n1", "incarnation": 9}',
        '{"format": 1, "node": "n2", "incarnation": 9}',
    ],
)
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
    assert "not counted, and nothing is claimed" in remark
    assert on_disk(machine) == marked(3)
    assert unjudged(n1.paths, "r0") == Unjudged((Local(3, False),))
    n1.together()
    assert "put back" in Guards(n1.paths, "r0", 0).claim()


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
    n1.together()
    assert "before anybody could read its incarnation: `drbdadm down r0`" in judge(n1)
    assert "put back" in Guards(n1.paths, "r0", 0).claim()


def test_a_mark_that_cannot_be_read_is_one(n1: Host) -> None:
    mark(n1.paths, "r0", Unjudged((Local(3, False),)))
    for text in ("", "[]", '{"replica": [[3]], "why": ""}', '{"replica": []}'):
        n1.paths.unjudged("r0").write_text(text)
        assert unjudged(n1.paths, "r0") == Unjudged(())


@pytest.mark.spawns
def test_a_disk_that_is_there_and_cannot_be_read_is_not_attached(n1: Host, machine: Machine, there: Path) -> None:
    """A busy machine, or a drbdmeta that works on it already: the lock would let an old replica serve."""
    stored(there, 9)
    machine.meta(marked(3))
    machine.program("drbdmeta", "#!/bin/sh\necho 'exclusive open failed' >&2; exit 20\n")
    assert "exclusive open failed" in count(n1)[0]


@pytest.mark.spawns
@pytest.mark.parametrize("number", [2**32 - 1, 2**40, -1, 9.5, True, float("inf")])
def test_a_number_that_cannot_be_one_is_no_answer(n1: Host, machine: Machine, there: Path, number: float) -> None:
    there.write_text(json.dumps({"format": 1, "node": "n1", "incarnation": number}))
    machine.meta(marked(3))
    assert "nothing is claimed" in count(n1)[1]
    assert decide(n1, "--trust", "--reason", "x") == 1
    assert on_disk(machine) == marked(3)


@pytest.mark.spawns
def test_a_store_that_knows_nothing_of_a_marked_replica_must_have_the_lock(
    n1: Host, machine: Machine, there: Path
) -> None:
    """Another server may answer 404 in the store's place; a store that lost only this object goes on."""
    machine.meta(marked(8))
    lock = there.with_name("example-r0")
    kept = lock.read_bytes()
    lock.unlink()
    assert "is it the right one?" in count(n1)[1]
    assert on_disk(machine) == marked(8)
    lock.write_bytes(kept)
    assert count(n1) == ("", "")
    assert unjudged(n1.paths, "r0") is None, "it is judged by now"
    assert json.loads(there.read_text())["incarnation"] == 9


@pytest.mark.spawns
@pytest.mark.parametrize("number", [3, 8])
@pytest.mark.parametrize("down", [False, True])
def test_a_judgement_upon_an_old_answer_is_taken_back(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch, number: int, *, down: bool
) -> None:
    """A cache told of the copy's number; the conditional write finds out, and the disk must not keep that of the try.

    After 8 that one is 9, which the store has already, of another write. And the store may be away right after it.
    """
    stored(there, 8)
    machine.meta(marked(8))
    assert count(n1) == ("", "")
    machine.meta(marked(number))
    old = json.dumps({"format": 1, "node": "n1", "incarnation": number}).encode()
    reads = iter([Reading(Found.OBJECT, old, '"old"'), *([Reading(Found.UNAVAILABLE, text="away")] * 2 * down)])
    real = SiteStore.read
    monkeypatch.setattr(SiteStore, "read", lambda self, *what: next(reads, None) or real(self, *what))
    refused, remark = count(n1)
    assert on_disk(machine) == marked(number)
    assert json.loads(there.read_text())["incarnation"] == 9
    if down:
        assert "nothing is claimed" in remark
        n1.together()
        refused = judge(n1)
    assert f"incarnation {number}, the store has 9" in refused


@pytest.mark.spawns
def test_a_write_whose_reply_was_lost_counts(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(there, 9)
    machine.meta(marked(9))
    real = SiteStore.write

    def lost(self: SiteStore, *what: Any) -> Writing:
        real(self, *what)
        return Writing(Written.UNCLEAR, "no reply")

    monkeypatch.setattr(SiteStore, "write", lost)
    assert count(n1) == ("", "")
    assert unjudged(n1.paths, "r0") is None


@pytest.mark.spawns
@pytest.mark.usefixtures("machine")
def test_only_an_attach_counts(n1: Host, there: Path) -> None:
    stored(there, 9)
    n1.together()
    assert count(n1) == ("", "")
    n1.paths.proc_drbd.write_text(DISKLESS)
    assert "F9" in count(n1)[0]


def executor_of(host: Host) -> Executor:
    return Executor(
        "r0",
        fence_of(host.config, "r0", host.paths),
        Guards(host.paths, "r0", 0),
        Services(host.config.resources["r0"], host.paths),
        paths=host.paths,
        claim=Claim,
        incarnation=Incarnation(host.config, "r0", host.paths),
    )


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("kind", [Kind.TAKE_SOLO, Kind.RECORD_PROMOTION])
def test_what_nobody_has_judged_yet_is_judged_before_it_claims(n1: Host, there: Path, kind: Kind) -> None:
    """The store has just come back: the answer that the policy goes by is the former one."""
    stored(there, 9)
    n1.together()
    executor, action = executor_of(n1), Action(kind, "F6", "", 5.0)
    mark(n1.paths, "r0", Unjudged((Local(9, False),)))
    assert executor.run(action).verdict is Verdict.DONE
    mark(n1.paths, "r0", Unjudged((Local(3, False),)))
    outcome = executor.run(action)
    assert outcome.verdict is Verdict.UNAVAILABLE
    assert "incarnation 3, the store has 9" in outcome.text


def test_nobody_else_touches_the_meta_data_meanwhile(n1: Host) -> None:
    one, other = (Incarnation(n1.config, "r0", n1.paths) for _ in range(2))
    with one.alone(), pytest.raises(Busy), other.alone():
        pytest.fail("both are alone")
    with other.alone():
        assert n1.paths.attaching("r0").exists()


@pytest.mark.spawns
def test_nothing_is_attached_while_another_program_is_at_it(n1: Host, machine: Machine, there: Path) -> None:
    up = Action(Kind.UP, "up", "", 5.0)
    with Incarnation(n1.config, "r0", n1.paths).alone():
        outcome = executor_of(n1).run(up)
    assert outcome.verdict is Verdict.FAILED
    assert "works on the meta-data" in outcome.text
    assert (machine.told("drbdadm"), machine.told("drbdmeta")) == ([], [])
    there.write_text("no JSON")
    outcome = executor_of(n1).run(up)
    assert (outcome.verdict, "not counted" in outcome.text) == (Verdict.DONE, True), "it is told, and goes on"


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


@pytest.mark.spawns
def test_the_agent_judges_later_what_it_attached_without_the_store(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is SHARED when the store is back, and says nothing against this node."""
    stored(there, 9)
    machine.meta(marked(3))
    gone = away(monkeypatch)
    running = Running(n1, machine)
    try:
        running.until("it is attached", lambda: "adjust r0" in machine.told("drbdadm"))
        machine.cut()
        running.until("it waits", lambda: running.status()["unjudged"])
        gone.undo()
        running.until("it says why", lambda: "incarnation 3, the store has 9" in str(running.status()["waiting"]))
        assert running.status()["rule"] == "F9"
        assert handlers.ask_agent("r0", str(n1.paths.socket)) not in (3, 4, 7)
        machine.say("change device name:r0 volume:0 minor:0 disk:Diskless\n")
        running.until("there is nothing to judge", lambda: not running.status()["unjudged"])
        running.agent.log.drain(5.0)
    finally:
        gone.undo()
        running.stop()
    assert "primary r0" not in machine.told("drbdadm")
    assert sum(line["action"] == "judge the replica" for line in n1.decisions()) <= 2, "told once each"


@pytest.mark.spawns
def test_a_node_that_leaves_while_it_comes_up_is_down_afterwards(
    n1: Host, machine: Machine, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incarnation, "STORE_S", 1.0)
    gone = away(monkeypatch)
    running = Running(n1, machine)
    try:
        running.until("the socket is there", n1.paths.socket.exists)
        running.until("it waits for the store", lambda: "control" in str(running.status()["busy"]))
        assert cli.main(["leave"], n1.paths) == 0
    finally:
        gone.undo()
        running.stop()
    assert machine.told("drbdadm")[-1] == "down r0"
    assert not there.exists()


@pytest.mark.spawns
def test_primary_is_refused_with_the_reason(
    n1: Host, machine: Machine, there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(there, 9)
    machine.meta(marked(3))
    running = Running(n1, machine)
    try:
        running.until("the socket is there", n1.paths.socket.exists)
        running.until("it says why", lambda: "F9" in str(running.status()["waiting"]))
        assert r0.main("r0", ["primary"], n1.paths) == 1
    finally:
        running.stop()
    complaints = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert "incarnation 3, the store has 9" in "".join(complaints), "the command says so, not only the agent's log"
