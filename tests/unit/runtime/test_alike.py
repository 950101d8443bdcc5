"""F11: what the peer could not go on with is not handed to it, and an older LXD never opens newer databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hapair import alike, lock, memory, proc, r0
from hapair.actions import Action, Kind, Outcome, Verdict
from hapair.fence.site import fence_of
from hapair.fencing import Held, no_guard
from hapair.lock import Claim, LockState

from .conftest import Host
from .fakes import Machine
from .test_agent import Running

OLD, NEW, NEWER = "local 42, global 60", "local 42, global 61", "local 43, global 60"


@pytest.fixture
def machine(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Node n1 with programs of its own, and a lock in the store; n2 shares the programs."""
    made = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setattr(alike, "PEER_S", 0.3)
    monkeypatch.setattr(alike, "PAUSE_S", 0.05)
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    return made


@pytest.fixture
def running(n1: Host, machine: Machine) -> Iterator[Running]:
    """The agent, serving."""
    made = Running(n1, machine)
    try:
        made.until_serving()
        yield made
    finally:
        made.stop()


# --- the facts ---


@pytest.mark.parametrize("filler", [0, 1, alike.CHUNK_BYTES - 700, alike.CHUNK_BYTES - 40, 3 * alike.CHUNK_BYTES])
def test_the_schemas_stand_in_the_program_wherever_a_read_cuts_it(tmp_path: Path, filler: int) -> None:
    program = tmp_path / "lxd"
    text = "INSERT INTO schema (version, updated_at) VALUES ({}, strftime"
    # The local version is the higher one, as it was in LXD 3.0: the order of the numbers tells nothing.
    local = f"CREATE TABLE raft_nodes ({' ' * 200}); {text.format(42)}"
    world = f"CREATE TABLE nodes (); {text.format(14)}{' ' * 5000}{text.format(33)}"
    for whole in (local + " " * 5000 + world, world + " " * 5000 + local):
        program.write_text("x" * filler + whole)
        assert alike.schema(program) == "local 42, global 33"


@pytest.mark.parametrize(
    "text", ["", "INSERT INTO schema (version, updated_at) VALUES (60, ", "#!/bin/sh\nexec snap run lxd"]
)
def test_a_program_that_shows_no_schemas_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "lxd").write_text(text)
    assert [alike.schema(tmp_path / "lxd"), alike.schema(tmp_path / "gone"), alike.schema(None)] == ["", "", ""]


def test_only_roots_lines_are_compared(n1: Host) -> None:
    (n1.paths.root / "etc/subuid").write_text("eva:1:2\nroot:1000000:65536\nrooter:7:7\nroot:5000000:10\n")
    assert alike.id_maps(n1.paths) == "subuid 1000000:65536 5000000:10, subgid none"


@pytest.mark.spawns
def test_liblxc_is_found_through_the_loader_and_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No liblxc is needed for that: a small library of the same name and answer stands in for it."""
    source = tmp_path / "liblxc.c"
    source.write_text('const char *lxc_get_version(void) { return "4.0.6"; }\n')
    monkeypatch.setattr(proc, "PATH", "/usr/bin:/bin")
    library = tmp_path / "liblxc.so.1"
    made = proc.run(["gcc", "-shared", "-Wl,-soname,liblxc.so.1", "-o", str(library), str(source)], 30)
    assert made.ok, made.output
    (tmp_path / "lxd.c").write_text("const char *lxc_get_version(void); int main() { return !lxc_get_version(); }\n")
    lxd = tmp_path / "lxd"
    run_path = f"-Wl,-rpath,{tmp_path}"
    made = proc.run(["gcc", "-o", str(lxd), str(tmp_path / "lxd.c"), str(library), run_path], 30)
    assert made.ok, made.output
    assert alike.library(lxd) == library
    assert alike.liblxc(library) == "4.0.6"
    assert alike.library(tmp_path / "lxd.c") is None
    assert alike.liblxc(tmp_path / "lxd.c") == alike.UNKNOWN


# --- the switchover by hand ---


@pytest.mark.spawns
def test_a_switchover_to_a_node_with_another_id_map_is_refused_before_anything_is_stopped(
    running: Running, n2: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (n2.paths.root / "etc/subuid").write_text("root:2000000:65536\n")
    n2.tell(tmp_path / "store")
    before = running.machine.told("systemctl")
    assert r0.main("r0", ["secondary"], running.host.paths) == 1
    said = capsys.readouterr().err
    assert "id maps: subuid none, subgid none on n1, subuid 2000000:65536, subgid none on n2" in said
    assert "nothing was stopped" in said
    assert "schema" not in said.partition("nothing was stopped")[0]
    asked_to_stop = [line for line in running.machine.told("systemctl")[len(before) :] if line.startswith("stop")]
    assert asked_to_stop == []
    assert running.status()["role"] == "Primary"
    assert r0.main("r0", ["secondary", "--anyway"], running.host.paths) == 0


@pytest.mark.spawns
def test_a_change_here_counts_before_the_agent_has_told_it(
    running: Running, n2: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n2.tell(tmp_path / "store")
    running.machine.lxd(world=61)
    assert r0.main("r0", ["secondary"], running.host.paths) == 1
    assert f"LXD schema: {NEW} on n1, {OLD} on n2" in capsys.readouterr().err
    running.machine.lxd()
    assert r0.main("r0", ["secondary"], running.host.paths) == 0


@pytest.mark.spawns
@pytest.mark.parametrize(
    ("told", "why"),
    [
        (None, "nobody knows what n2 runs: its agent has told nothing"),
        ("<html>", "the store holds something else (JSONDecodeError)"),
        ("[" * 9000, "the store holds something else (RecursionError)"),
        ('{"format": 2, "node": "n2", "facts": {}}', "install one hapair on both"),
        ('{"format": 1, "node": "n1", "facts": {}}', "install one hapair on both"),
        ('{"format": 1, "node": "n2", "facts": 7}', "the store holds something else (TypeError)"),
        ('{"format": 1, "node": "n2", "facts": {}}', "liblxc: unknown on n1, unknown on n2"),
    ],
)
def test_what_the_peer_has_not_told_is_no_yes(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: str | None, why: str
) -> None:
    if told is not None:
        (tmp_path / "store/locks/example-r0.n2").write_text(told)
    assert r0.main("r0", ["secondary"], running.host.paths) == 1
    assert why in capsys.readouterr().err
    assert running.status()["lxd_active"] is True


@pytest.mark.spawns
def test_the_agent_tells_its_facts_again_when_a_file_changes(running: Running, tmp_path: Path) -> None:
    there = tmp_path / "store/locks/example-r0.n1"
    running.until("it has told", there.exists)
    assert json.loads(there.read_bytes())["facts"]["LXD schema"] == OLD
    running.machine.lxd(world=61)
    running.machine.say("change resource name:r0 suspended:no\n")
    running.until("it has told again", lambda: json.loads(there.read_bytes())["facts"]["LXD schema"] == NEW)


@pytest.mark.spawns
def test_a_new_agent_knows_what_was_found_in_this_boot(n1: Host, machine: Machine) -> None:
    """It may start in the middle of a takeover, where every second counts."""
    machine.program("ldd", f'#!/bin/sh\necho "$*" >> {machine.state}/ldd.log\n')
    found = [alike.gather(n1.config, "r0", n1.paths) for _ in range(2)]
    assert found[0] == found[1]
    assert len(machine.told("ldd")) == 1
    for changes in (machine.lxd, lambda: (n1.paths.root / "etc/subgid").write_text("root:9:65536\n")):
        looks = len(machine.told("ldd"))
        changes()
        alike.gather(n1.config, "r0", n1.paths)
        assert len(machine.told("ldd")) == looks + 1
    n1.paths.alike("r0").write_text("{")
    assert alike.gather(n1.config, "r0", n1.paths).facts["id maps"].endswith("subgid 9:65536")
    machine.program("systemctl", "#!/bin/sh\necho '{ path=/elsewhere/lxd ; }'\n")
    assert alike.gather(n1.config, "r0", n1.paths).schema == "", "another program is another matter"


@pytest.mark.spawns
def test_with_nobody_to_take_over_nothing_is_compared(running: Running) -> None:
    running.machine.cut()
    running.until("SOLO was taken", lambda: running.lock().state is LockState.SOLO)
    running.machine.say("change resource name:r0 suspended:no\n")
    assert r0.main("r0", ["secondary"], running.host.paths) == 0


# --- a takeover by itself ---


@pytest.mark.parametrize(
    ("one", "other", "ahead"),
    [
        (NEW, OLD, True),
        (NEWER, OLD, True),
        (OLD, NEW, False),
        (OLD, OLD, False),
        (NEW, "", False),
        ("", OLD, False),
        ("local 43, global 9", NEW, True),
        ("sixty", OLD, False),
    ],
)
def test_which_databases_are_ahead(one: str, other: str, ahead: bool) -> None:
    assert lock.ahead(one, other) is ahead


def test_an_older_lxd_gets_no_lock_for_a_promotion(n1: Host, n2: Host) -> None:
    newer, older = (fence_of(host.config, "r0", host.paths) for host in (n1, n2))
    newer.create(no_guard)
    promoted = newer.record_promotion(Claim(NEW))
    assert promoted.record is not None
    assert promoted.record.schema == NEW
    for answer in (older.take(claim=Claim(OLD)), older.record_promotion(Claim(OLD))):
        assert answer.held is Held.REFUSED
        assert f"F11: an LXD of schema {NEW} served last, and this node's has {OLD}" in answer.text
        assert answer.record == promoted.record, "nothing was written"
    taken = older.take()
    assert taken.record is not None
    assert (taken.held, taken.record.schema) == (Held.HELD, NEW), "who serves already is not asked, and tells nothing"
    assert older.release(no_guard).held is Held.HELD
    insisted = older.take(claim=Claim(OLD, anyway=True))
    assert insisted.record is not None
    assert (insisted.held, insisted.record.schema) == (Held.HELD, OLD)


def test_a_handed_over_lock_is_refused_to_an_older_lxd_too(n1: Host, n2: Host) -> None:
    newer, older = (fence_of(host.config, "r0", host.paths) for host in (n1, n2))
    newer.create(no_guard)
    newer.record_promotion(Claim(NEW))
    assert newer.hand_over(no_guard).held is Held.HELD
    answer = older.take(claim=Claim(OLD))
    assert (answer.held, "served last" in answer.text) == (Held.REFUSED, True)
    assert "SOLO of this node" in older.release(no_guard).text, "that refusal has nothing to do with LXD"


def test_a_refusal_that_a_person_must_mend_is_told_and_not_repeated_in_haste(n1: Host) -> None:
    fence = fence_of(n1.config, "r0", n1.paths)
    fence.create(no_guard)
    fence.record_promotion(Claim(NEW))
    site = n1.config.settings("r0")
    for kind in (Kind.TAKE_SOLO, Kind.RECORD_PROMOTION):
        answer = fence.take(claim=Claim(OLD))
        outcome = Outcome(Action(kind, "F6", "", 1.0), Verdict.REFUSED, 5.0, answer.text, answer.record)
        after = memory.answered(memory.begin(0.0), outcome, site, 5.0)
        assert after.trouble == answer.text
        assert after.retry_at == 5.0 + site.times.watch_s


@pytest.mark.spawns
def test_the_agent_serves_newer_databases_only_when_a_person_insists(
    n1: Host, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    fence_of(n1.config, "r0", n1.paths).record_promotion(Claim(NEW))
    running = Running(n1, machine)
    try:
        running.until("the socket is there", n1.paths.socket.exists)
        running.until("it refuses", lambda: f"an LXD of schema {NEW} served last" in str(running.status()["waiting"]))
        assert "primary r0" not in machine.told("drbdadm")
        assert [line for line in machine.told("systemctl") if line.startswith("start")] == []
        assert r0.main("r0", ["primary", "--anyway"], n1.paths) == 0
        assert running.status()["lxd_active"] is True
        assert running.lock().schema == OLD
    finally:
        running.stop()
    assert "primary done" in capsys.readouterr().out
