"""The agent as a whole: fake DRBD and systemd, the real store, sockets, threads and commands."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hapair import cli, fence_cli, handlers, proc, r0, rules, server
from hapair.actions import Action, Kind
from hapair.agent import Agent
from hapair.agent import main as agent_main
from hapair.fence.site import fence_of
from hapair.fencing import no_guard
from hapair.lock import LockRecord, LockState

from lab.deadline import Deadline, wait_until

from .conftest import Host
from .fakes import CUT, RECONNECTED, Machine

pytestmark = pytest.mark.spawns


class Running:
    """A node whose agent runs in a thread."""

    def __init__(self, host: Host, machine: Machine) -> None:
        self.host, self.machine = host, machine
        self.agent = Agent(host.config, host.paths)
        self.thread = threading.Thread(target=self.agent.run)
        self.thread.start()

    def stop(self) -> None:
        self.agent.stop()
        self.thread.join()

    def status(self) -> dict[str, object]:
        reply = next(server.ask(self.host.paths.socket, {"op": "status"}, 5.0))
        status: dict[str, object] = reply["status"]["resources"]["r0"]
        return status

    def until(self, what: str, probe: Callable[[], object]) -> None:
        wait_until(what, lambda: probe() or None, Deadline.after(10), pause_s=0.02)

    def until_serving(self) -> None:
        self.until("the socket is there", self.host.paths.socket.exists)
        self.until("it serves", lambda: self.status()["lxd_active"] and self.status()["role"] == "Primary")

    def lock(self) -> LockRecord:
        record = fence_of(self.host.config, "r0", self.host.paths).read().record
        assert record is not None
        return record


@pytest.fixture
def machine(n1: Host, n2: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Node n1 with DRBD and systemd of its own, a lock in the store, and a peer that has told what it runs."""
    made = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    n2.tell(tmp_path / "store")
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


def test_it_comes_up_promotes_and_serves(running: Running) -> None:
    assert running.machine.told("drbdadm") == ["adjust r0", "primary r0"]
    assert [line for line in running.machine.told("systemctl") if line.startswith("start")] == [
        "start r0.mount",
        "start r0lxd.service",
    ]
    assert (running.lock().state, running.lock().owner, running.lock().epoch) == (LockState.SHARED, "uuid-n1", 2)
    running.agent.log.drain(5.0)
    rules = [(line["rule"], line["action"], line["outcome"]) for line in running.host.decisions()]
    assert ("F6", "record the promotion", "done") in rules
    assert rules.index(("F6", "record the promotion", "done")) < rules.index(("F6", "drbdadm primary", "done"))


def test_secondary_and_primary_by_hand(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    paths = running.host.paths
    assert r0.main("r0", ["secondary"], paths) == 0
    assert "secondary done" in capsys.readouterr().out
    assert running.machine.told("drbdadm")[-1] == "secondary r0"
    assert running.status()["held"] is True
    assert not running.status()["mounted"]
    assert r0.main("r0", ["suspend"], paths) == 1
    assert "not Primary" in capsys.readouterr().err
    assert r0.main("r0", ["primary"], paths) == 0
    assert running.status()["lxd_active"] is True


def test_lxd_that_does_not_stop_is_killed_and_told(running: Running) -> None:
    """It leaves no failed unit behind: nobody could tell that from one that ended by itself."""
    (running.machine.state / "hangs-r0lxd.service").write_text("")
    assert r0.main("r0", ["secondary"], running.host.paths) == 0
    calls = running.machine.told("systemctl")
    killed = calls.index("kill --signal=SIGKILL r0lxd.service")
    assert "reset-failed r0lxd.service" in calls[killed:]
    assert "r0lxd.service was killed: it did not stop within" in running.host.paths.decisions.read_text()


def test_neither_the_watch_of_the_lock_nor_a_judgement_waits_for_drbd(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F8, F9: a command of DRBD's may hang; what the store says must be known all the same."""
    unit = running.agent.units["r0"]
    begun: dict[str, tuple[Action, ...]] = {}
    for name in ("control", "serving", "watching"):
        monkeypatch.setattr(getattr(unit, name), "start_list", partial(begun.__setitem__, name))
    kinds = (Kind.WATCH_LOCK, Kind.JUDGE, Kind.TAKE_SOLO, Kind.PROMOTE, Kind.START)
    unit.dispatch(tuple(Action(kind, "F8", "", 1.0) for kind in kinds))
    assert {name: [action.kind for action in actions] for name, actions in begun.items()} == {
        "watching": [Kind.WATCH_LOCK, Kind.JUDGE],
        "control": [Kind.TAKE_SOLO, Kind.PROMOTE],
        "serving": [Kind.START],
    }


def test_suspend_stops_the_services_and_stays_primary(running: Running) -> None:
    assert r0.main("r0", ["suspend"], running.host.paths) == 0
    status = running.status()
    assert (status["role"], status["mounted"], status["paused"]) == ("Primary", False, True)
    assert "secondary r0" not in running.machine.told("drbdadm")


def test_primary_is_refused_while_the_peer_serves(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    r0.main("r0", ["secondary"], running.host.paths)
    running.machine.say("change connection name:r0 peer-node-id:0 conn-name:peer role:Primary\n")
    running.until("the peer serves", lambda: running.status()["peer_role"] == "Primary")
    assert r0.main("r0", ["primary"], running.host.paths) == 1
    assert "n2 is Primary" in capsys.readouterr().err


def test_primary_is_refused_at_once_with_a_disk_that_failed(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    r0.main("r0", ["secondary"], running.host.paths)
    running.host.paths.tombstone("r0").write_text("")
    assert r0.main("r0", ["primary"], running.host.paths) == 1
    told = capsys.readouterr().err
    assert "never claims until the tombstone is cleared" in told
    assert "gave up after" not in told


def test_a_connection_between_two_losses_is_not_missed(running: Running) -> None:
    """All three are in one batch of lines: T_grace counts from the second loss."""
    running.machine.cut()
    unit = running.agent.units["r0"]
    running.until("the peer is lost", lambda: unit.memory.lost_at is not None)
    first = unit.memory.lost_at
    assert first is not None
    running.machine.say(RECONNECTED + CUT)
    running.until("T_grace begins anew", lambda: (unit.memory.lost_at or 0.0) > first)


def test_fence_peer_through_the_agent(running: Running) -> None:
    running.machine.cut()
    assert handlers.ask_agent("r0", str(running.host.paths.socket)) == 4
    assert (running.lock().state, running.lock().owner) == (LockState.SOLO, "uuid-n1")
    assert not running.host.removed


def test_a_cut_without_a_store_removes_the_node(running: Running, tmp_path: Path) -> None:
    (tmp_path / "store/locks/example-r0").unlink()
    running.machine.cut()
    running.until("the node removes itself", lambda: running.host.removed)
    running.agent.log.drain(5.0)
    assert any(line["action"] == "remove this node" and line["rule"] == "F10" for line in running.host.decisions())


def test_a_failed_handler_is_made_good(running: Running) -> None:
    """F2: the lock is won, so I/O goes on by resume-io."""
    running.machine.cut()
    running.machine.say(
        "call helper name:r0 peer-node-id:0 conn-name:peer helper:fence-peer\n"
        "response helper name:r0 peer-node-id:0 conn-name:peer helper:fence-peer status:256\n"
    )
    running.until("I/O goes on", lambda: "resume-io r0" in running.machine.told("drbdadm"))
    assert running.lock().state is LockState.SOLO
    assert not running.host.removed


def test_a_lost_event_stream_is_dumped_again(running: Running) -> None:
    """The stream ends while the peer goes away: the new dump tells."""
    running.host.together("Primary")
    dump = (
        "exists resource name:r0 role:Primary suspended:no\n"
        "exists connection name:r0 peer-node-id:0 conn-name:peer connection:Connected role:Secondary\n"
        "exists device name:r0 volume:0 minor:0 disk:UpToDate\n"
        "exists peer-device name:r0 volume:0 replication:SyncSource peer-disk:Inconsistent\n"
        "exists -\n"
    )
    fresh = running.machine.state / "fresh"
    fresh.write_text(dump)
    running.machine.program("drbdsetup", f"#!/bin/sh\nexec tail -n +1 -F {fresh}\n")
    running.machine.say("this is no event\n")
    running.until("SOLO was taken", lambda: running.lock().state is LockState.SOLO)
    assert running.status()["volumes"] == [
        {"volume": 0, "disk": "UpToDate", "peer_disk": "Inconsistent", "replication": "SyncSource"}
    ]


def test_a_late_decision_is_measured_and_told(running: Running) -> None:
    long_ago = datetime.fromtimestamp(time.time() - 1.5, UTC).isoformat(timespec="microseconds")
    running.machine.say(f"{long_ago} change resource name:r0 suspended:no\n")

    def late() -> list[Any]:
        return [line for line in running.host.decisions() if line["outcome"] == "late" and line["rule"] == "events"]

    running.until("it is told", late)
    told = re.fullmatch(
        r"(\d+) ms after DRBD told the event: (\d+) until it was read, (\d+) at work, (\d+) held up", late()[0]["why"]
    )
    assert told, late()
    whole, arriving, working, held = map(int, told.groups())
    assert whole == pytest.approx(arriving + working + held, abs=2) and arriving >= 1500 > working
    reply = next(server.ask(running.host.paths.socket, {"op": "status"}, 5.0))
    lag = reply["status"]["event_to_decision_ms"]
    assert 1500 <= lag["worst"] < 60_000 and lag["last"] <= lag["worst"] and 1 <= lag["late"] <= lag["decided"]


def test_without_a_stream_proc_drbd_is_read(running: Running) -> None:
    running.machine.program("drbdsetup", "#!/bin/sh\nexit 1\n")
    running.machine.say("this is no event\n")
    running.host.alone("Primary")
    running.until("SOLO was taken", lambda: running.lock().state is LockState.SOLO)


def test_services_that_do_not_start_are_tried_again(
    n1: Host, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hapair.memory.RETRY_S", 0.2)
    (machine.state / "fail-r0lxd.service").write_text("")
    made = Running(n1, machine)
    try:
        made.until("it tried", lambda: "start r0lxd.service" in machine.told("systemctl"))
        (machine.state / "fail-r0lxd.service").unlink()
        made.until_serving()
    finally:
        made.stop()
    again = ["reset-failed r0lxd.service", "start r0lxd.service"]
    calls = [call for call in machine.told("systemctl") if call in again]
    assert calls == 2 * again, "systemd starts nothing that has failed too often"


def test_a_demotion_that_fails_removes_the_node(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "DRBD_LIMIT_S", 1.0)
    (running.machine.state / "fail-secondary").write_text("")
    threading.Thread(target=r0.main, args=("r0", ["secondary"], running.host.paths), daemon=True).start()
    wait_until("the node removes itself", lambda: running.host.removed or None, Deadline.after(25))
    assert running.machine.told("drbdadm").count("secondary r0") > 1


def test_leaving_hands_the_lock_to_a_serving_peer(running: Running) -> None:
    r0.main("r0", ["secondary"], running.host.paths)
    running.machine.say("change connection name:r0 peer-node-id:0 conn-name:peer role:Primary\n")
    running.host.together("Secondary")
    running.until("the agent knows that the peer serves", lambda: running.status()["peer_role"] == "Primary")
    assert cli.main(["leave"], running.host.paths) == 0
    assert running.machine.told("drbdadm")[-1] == "down r0"
    assert (running.lock().state, running.lock().owner, running.lock().writer) == (LockState.SOLO, "uuid-n2", "uuid-n1")
    assert running.machine.told("drbdadm").count("adjust r0") == 1, "it stays down"


def test_leaving_goes_before_any_other_request(running: Running) -> None:
    """The peer does not take over, so the first request waits; the shutdown does not wait for it."""
    (running.machine.state / "fail-r0.mount").write_text("")
    r0.main("r0", ["suspend"], running.host.paths)
    asked = threading.Thread(target=r0.main, args=("r0", ["primary"], running.host.paths))
    asked.start()
    running.until("the request is there", lambda: running.status()["request"] == "primary")
    running.machine.say("change connection name:r0 peer-node-id:0 conn-name:peer connection:Connecting\n")
    assert cli.main(["leave"], running.host.paths) == 0
    asked.join()
    assert running.machine.told("drbdadm")[-3:] == ["secondary r0", "disconnect --force r0", "down r0"]


def test_a_bug_in_an_action_does_not_stop_the_lane(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> tuple[bool, str]:
        raise RuntimeError("a bug")

    monkeypatch.setattr("hapair.memory.RETRY_S", 0.2)
    r0.main("r0", ["suspend"], running.host.paths)
    asked = threading.Thread(target=r0.main, args=("r0", ["primary"], running.host.paths))
    with monkeypatch.context() as patched:
        patched.setattr(running.agent.units["r0"].services, "start", broken)
        asked.start()
        running.until("it failed", lambda: "a bug" in str(running.status()["waiting"]))
    asked.join()
    assert running.status()["lxd_active"] is True


def test_leaving_without_an_agent(n1: Host, machine: Machine) -> None:
    machine.say(
        "create resource name:r0 role:Secondary suspended:no\n"
        "create device name:r0 volume:0 minor:0 disk:UpToDate\n"
        "create connection name:r0 peer-node-id:0 conn-name:peer connection:Connecting role:Unknown\n"
    )
    assert cli.main(["leave"], n1.paths) == 0
    assert machine.told("drbdadm") == ["disconnect --force r0", "down r0"]


def test_status_for_people_and_for_programs(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"], running.host.paths) == 0
    assert "r0: Primary, Connected, peer Secondary" in capsys.readouterr().out
    assert cli.main(["status", "--json"], running.host.paths) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["self_removal"] is True
    assert status["resources"]["r0"]["lock"]["state"] == "SHARED"
    assert r0.main("r0", ["status"], running.host.paths) == 0


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"op": "fence-peer", "resource": "r9"}, "no such resource"),
        ({"op": "dance", "resource": "r0"}, "no such request"),
        ({}, "no such resource"),
    ],
)
def test_bad_questions_are_answered(running: Running, question: dict[str, object], answer: str) -> None:
    reply = next(server.ask(running.host.paths.socket, question, 5.0))
    assert reply["ok"] is False
    assert answer in reply["text"]


def test_without_an_agent_commands_say_so(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status"], n1.paths) == 1
    assert r0.main("r0", ["primary"], n1.paths) == 1
    assert capsys.readouterr().err.count("the agent does not answer") == 2


def test_drbd_fence_words_and_exit_codes(n1: Host, n2: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert fence_cli.main(["lock", "r0"], n1.paths) == 1, "not set up"
    n1.alone()
    assert fence_cli.main(["init", "r0"], n1.paths) == 1, "not connected"
    n1.together()
    assert fence_cli.main(["init", "r0"], n1.paths) == 0
    assert fence_cli.main(["init", "r0"], n1.paths) == 1, "there already"
    assert fence_cli.main(["lock", "r0"], n1.paths) == 0
    assert fence_cli.main(["lock", "r0"], n1.paths) == 0, "already held"
    assert fence_cli.main(["lock", "r0"], n2.paths) == 1, "held by n1"
    assert fence_cli.main(["unlock", "r0"], n2.paths) == 1, "not the owner"
    n1.alone()
    assert fence_cli.main(["unlock", "r0"], n1.paths) == 1, "not connected"
    n1.together()
    assert fence_cli.main(["unlock", "r0"], n1.paths) == 0
    capsys.readouterr()
    assert fence_cli.main(["status", "r0", "--json"], n2.paths) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "SHARED"


@pytest.mark.parametrize("argv", [[], ["lock"], ["seize", "r0"], ["lock", "r9"]])
def test_drbd_fence_bad_input(n1: Host, argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert fence_cli.main(argv, n1.paths) == 2
    assert capsys.readouterr().err


def test_a_tombstone_is_cleared_only_when_both_are_up_to_date(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["clear-tombstone", "r0"], n1.paths) == 0
    n1.paths.tombstone("r0").write_text("")
    n1.alone()
    assert cli.main(["clear-tombstone", "r0"], n1.paths) == 1
    n1.together()
    assert cli.main(["clear-tombstone", "r0"], n1.paths) == 0
    assert not n1.paths.tombstone("r0").exists()
    assert cli.main(["clear-tombstone", "r9"], n1.paths) == 2
    assert capsys.readouterr().err


def test_lxc_words_get_the_resources_lxd(n1: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[list[str], dict[str, str]]] = []

    def become(argv: list[str], env: dict[str, str]) -> None:
        called.append((argv, env))

    monkeypatch.setattr(proc, "replace_self", become)
    for words in (["lxc", "list"], ["list"], ["lxd", "--version"], ["init", "--dump"], ["enter", "c1"]):
        assert r0.main("r0", words, n1.paths) == 0
    assert [argv[:2] for argv, _ in called] == [
        ["lxc", "list"],
        ["lxc", "list"],
        ["lxd", "--version"],
        ["lxd", "init"],
        ["lxc", "exec"],
    ]
    assert all(env == {"LXD_DIR": "/r0/lxd"} for _, env in called)


@pytest.mark.parametrize(
    ("name", "argv", "code"), [("r0", [], 2), ("r0", ["--help"], 0), ("r9", ["list"], 2), ("r0", ["enter"], 2)]
)
def test_r0_usage(n1: Host, name: str, argv: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert r0.main(name, argv, n1.paths) == code
    assert capsys.readouterr().err


@pytest.mark.parametrize("listen", ["8440", "127.0.0.1:", "x"])
def test_store_wants_an_address(tmp_path: Path, listen: str) -> None:
    assert cli.main(["store", "--listen", listen, "--folder", str(tmp_path)]) == 2


def test_a_bad_configuration_is_told(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    n1.paths.config.unlink()
    assert cli.main(["status"], n1.paths) == 2
    assert r0.main("r0", ["list"], n1.paths) == 2
    assert fence_cli.main(["status", "r0"], n1.paths) == 2
    assert capsys.readouterr().err.count("deploy the host files") == 3


@pytest.mark.parametrize(("what", "said"), [("configuration", "hapair.json: "), ("credentials", "nothing was started")])
def test_an_agent_that_needs_a_person_is_not_started_again_at_once(
    n1: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, said: str
) -> None:
    """systemd starts it anew as soon as it has ended; a person does not wait."""
    n1.paths.proc_drbd.write_text("version: 8.4.11\n")
    text = n1.paths.config.read_text() if what == "credentials" else ""
    n1.paths.config.write_text(text.replace('"credentials": ""', '"credentials": "/nonexistent"'))
    for socket, pause_s in (("", 60.0), ("/nonexistent/notify", 0.2)):
        monkeypatch.setattr(cli, "BAD_INPUT_PAUSE_S", pause_s)
        if socket:
            monkeypatch.setenv("NOTIFY_SOCKET", socket)
        began = time.monotonic()
        assert cli.main(["agent"], n1.paths) == 2
        took_s = time.monotonic() - began
        assert took_s >= pause_s if socket else took_s < pause_s
    assert capsys.readouterr().err.count(said) == 2


@pytest.mark.usefixtures("machine")
@pytest.mark.skipif(os.geteuid() != 0, reason="real-time scheduling is for root only")
def test_the_deciding_thread_and_drbds_events_are_real_time_and_no_other(n1: Host) -> None:
    process = multiprocessing.get_context("fork").Process(target=agent_main, args=(n1.config, n1.paths))
    process.start()
    try:
        wait_until("the socket is there", lambda: n1.paths.socket.exists() or None, Deadline.after(10))
        next(server.ask(n1.paths.socket, {"op": "status"}, 5.0))
        assert process.pid is not None
        threads = [int(task.name) for task in Path(f"/proc/{process.pid}/task").iterdir()]
        assert len(threads) > 4
        real_time = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        assert [thread for thread in threads if os.sched_getscheduler(thread) == real_time] == [process.pid]
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        assert [os.sched_getscheduler(child) for child in children] == [real_time]
    finally:
        process.terminate()
        process.join(10)
    assert process.exitcode == 0
