"""Following nodes across reboots, and what becomes of their lines. The nodes are fakes."""

from __future__ import annotations

import queue
from pathlib import Path

import pytest

from lab.deadline import Deadline, wait_until
from lab.errors import BadInput
from lab.scenario.clocks import Clocks
from lab.scenario.follow import Follower
from lab.scenario.history import Event, History
from lab.scenario.invariants import HARMLESS_CAUSE
from lab.scenario.recorder import Recorder, as_event, parse_events2, parse_kernel
from tests.unit.scenario.fakes import FakeLab, FakeNode

ROLE = "2026-01-01T00:00:01.500000+00:00 change resource name:r0 role:Primary suspended:no"


def feed(node: FakeNode, stream: str, *lines: str | None) -> None:
    for line in lines:
        node.streams.setdefault(stream, queue.Queue()).put(None if line is None else line.encode())


class TestLines:
    def test_a_change_of_role(self) -> None:
        event = parse_events2(ROLE, "n2")
        assert event
        assert (event.t, event.source, event.kind) == (1767225601.5, "n2", "drbd")
        assert (event.text("change"), event.text("object"), event.text("role")) == ("change", "resource", "Primary")

    def test_a_helpers_answer(self) -> None:
        line = "2026-01-01T00:00:01+00:00 response helper name:r0 peer-node-id:0 helper:fence-peer status:1024"
        event = parse_events2(line, "n1")
        assert event and event.number("status") == 1024 and event.text("helper") == "fence-peer"

    def test_an_address_keeps_its_colons(self) -> None:
        line = "2026-01-01T00:00:01+00:00 exists path name:r0 local:ipv4:198.51.100.1:7788 established:yes"
        event = parse_events2(line, "n1")
        assert event and event.text("local") == "ipv4:198.51.100.1:7788"

    @pytest.mark.parametrize("line", ["", "2026-01-01T00:00:01+00:00 exists -", "not a time change resource", "x"])
    def test_lines_that_say_nothing(self, line: str) -> None:
        assert parse_events2(line, "n1") is None

    @pytest.mark.parametrize(
        ("text", "bug"),
        [
            ("drbd r0: Split-Brain detected but unresolved, dropping connection!", False),
            ("WARNING: CPU: 0 PID: 1 at kernel/x.c:1", True),
            ("BTRFS error (device drbd0): bdev /dev/drbd0 errs: wr 1", True),
        ],
    )
    def test_a_kernel_line_that_matters(self, text: str, bug: bool) -> None:
        event = parse_kernel(f"1767225601.25 n1 kernel: {text}".encode(), "n1")
        assert event and event.t == 1767225601.25 and event.text("text") == text and event.flag("bug") is bug

    def test_the_cause_of_the_one_harmless_warning_is_kept_and_is_no_complaint(self) -> None:
        event = parse_kernel(b"1.5 n2 kernel:  drbd_uuid_new_current+0xc0/0x100 [drbd]", "n2")
        assert event and HARMLESS_CAUSE in event.text("text") and not event.flag("bug")

    @pytest.mark.parametrize("line", [b"1.5 n1 kernel: drbd r0: Handshake successful", b"1.5 n1 sshd[3]: BUG: no", b""])
    def test_a_line_that_does_not(self, line: bytes) -> None:
        assert parse_kernel(line, "n1") is None

    def test_a_programs_own_log_keeps_its_fields(self) -> None:
        event = as_event(b'{"t": 5, "rule": "F1", "kind": "odd", "source": "odd"}', "n1", "decision")
        assert (event.t, event.source, event.kind, event.text("rule")) == (5.0, "n1", "decision", "F1")
        for wrong in (b"", b"[]", b'{"rule": 1}', b"{"):
            with pytest.raises(BadInput):
                as_event(wrong, "n1", "decision")


class TestFollower:
    def test_lines_come_until_it_is_stopped(self, tmp_path: Path) -> None:
        node, got, told = FakeLab(tmp_path).nodes["n1"], list[bytes](), list[str]()
        feed(node, "journal", "a", "b")
        follower = Follower(node, "journal", lambda: ["journalctl"], got.append, on_change=told.append)
        follower.start()
        wait_until("both lines are there", lambda: len(got) == 2, Deadline.after(5))
        follower.stop(Deadline.after(5))
        assert not follower.alive()
        assert (got, told) == ([b"a", b"b"], ["follow"])
        assert node.started[0].endswith("/run/hapair-lab-journal.pid journalctl")

    def test_it_goes_on_after_a_power_loss(self, tmp_path: Path) -> None:
        node, got, told = FakeLab(tmp_path).nodes["n1"], list[bytes](), list[str]()
        feed(node, "journal", "before")
        follower = Follower(node, "journal", lambda: ["journalctl"], got.append, on_change=told.append)
        follower.start()
        wait_until("the first line is there", lambda: got, Deadline.after(5))
        node.power_off()
        wait_until("it has noticed", lambda: "lost" in told, Deadline.after(5))
        node.power_on()
        feed(node, "journal", "after")
        wait_until("the next line is there", lambda: len(got) == 2, Deadline.after(5))
        follower.stop(Deadline.after(5))
        assert got == [b"before", b"after"]
        assert told == ["follow", "lost", "follow"]

    def test_a_client_is_never_started_twice(self, tmp_path: Path) -> None:
        node = FakeLab(tmp_path).nodes["third"]
        feed(node, "write", None)
        follower = Follower(node, "write", lambda: ["client"], lambda _: None, again=False)
        follower.start()
        wait_until("it has ended", lambda: not follower.alive(), Deadline.after(5))
        assert len(node.started) == 1

    def test_what_went_wrong_is_kept(self, tmp_path: Path) -> None:
        node = FakeLab(tmp_path).nodes["third"]
        node.power_off()
        follower = Follower(node, "write", lambda: ["client"], lambda _: None, again=False)
        follower.start()
        wait_until("it has ended", lambda: not follower.alive(), Deadline.after(5))
        assert follower.problem == "third is off"


def recorder(tmp_path: Path) -> tuple[FakeLab, History, Recorder, Path]:
    lab, history, folder = FakeLab(tmp_path / "lab"), History(), tmp_path / "run"
    lab.folder.mkdir()
    return lab, history, Recorder(lab, history, folder, Clocks(history)), folder


def stop(made: Recorder) -> None:
    made.stop(Deadline.after(5))


def seen(history: History, kind: str, source: str) -> list[Event]:
    return [event for event in history.events() if event.kind == kind and event.source == source]


class TestRecorder:
    def test_every_stream_has_its_file_and_what_matters_is_in_the_history(self, tmp_path: Path) -> None:
        lab, history, made, folder = recorder(tmp_path)
        feed(lab.nodes["n1"], "journal", "5.1 n1 systemd[1]: Started.", "5.2 n1 kernel: BUG: x", "5.3 n1 kernel: fine")
        feed(lab.nodes["n2"], "events2", ROLE)
        feed(lab.nodes["n2"], "decisions", '{"t": 7.0, "rule": "F6", "action": "promote"}')
        feed(lab.nodes["third"], "requests", '{"t": 6.0, "method": "PUT", "state": "SOLO"}')
        made.start()
        wanted = [("request", "store"), ("decision", "n2"), ("drbd", "n2"), ("kernel", "n1")]
        wait_until("all of it is there", lambda: all(seen(history, *pair) for pair in wanted), Deadline.after(5))
        stop(made)
        assert (folder / "n1.journal").read_text() == "5.1 n1 systemd[1]: Started.\n"
        assert (folder / "n1.kernel").read_text() == "5.2 n1 kernel: BUG: x\n5.3 n1 kernel: fine\n"
        assert (folder / "n2.events2").read_text() == ROLE + "\n"
        assert (folder / "n2.decisions.jsonl").exists() and (folder / "store.requests.jsonl").exists()
        assert [event.flag("bug") for event in seen(history, "kernel", "n1")] == [True]
        assert [event.text("boot") for event in seen(history, "boot", "n2")] == ["boot-n2"]

    def test_a_reboot_is_noted_before_the_new_boots_first_line(self, tmp_path: Path) -> None:
        lab, history, made, _ = recorder(tmp_path)
        node = lab.nodes["n1"]
        feed(node, "events2", ROLE)
        made.start()
        wait_until("the role is there", lambda: seen(history, "drbd", "n1"), Deadline.after(5))
        node.power_off()
        node.files["/proc/sys/kernel/random/boot_id"] = b"boot-n1-again\n"
        node.power_on()
        wait_until("the boot is there", lambda: len(seen(history, "boot", "n1")) == 2, Deadline.after(5))
        stop(made)
        assert [event.text("boot") for event in seen(history, "boot", "n1")] == ["boot-n1", "boot-n1-again"]

    def test_a_log_that_is_read_again_from_its_start_brings_nothing_twice(self, tmp_path: Path) -> None:
        lab, history, made, folder = recorder(tmp_path)
        line = '{"t": 7.0, "rule": "F6"}'
        feed(lab.nodes["n1"], "decisions", line, None, line, '{"t": 8.0, "rule": "F7"}')
        made.start()
        wait_until("the second is there", lambda: len(seen(history, "decision", "n1")) >= 2, Deadline.after(5))
        stop(made)
        assert len((folder / "n1.decisions.jsonl").read_text().splitlines()) == 2

    def test_a_journal_goes_on_where_it_was_lost(self, tmp_path: Path) -> None:
        lab, _, made, folder = recorder(tmp_path)
        feed(lab.nodes["n1"], "journal", "5.25 n1 a[1]: x", None, "5.30 n1 a[1]: y")
        made.start()
        wait_until("both are there", lambda: (folder / "n1.journal").exists()
                   and len((folder / "n1.journal").read_text().splitlines()) == 2, Deadline.after(5))  # fmt: skip
        stop(made)
        started = [line for line in lab.nodes["n1"].started if "journalctl" in line]
        assert "--since" not in started[0]
        assert started[1].endswith("--since=@5.25")

    def test_what_came_before_belongs_to_another_scenario_but_for_the_lock_as_it_was_found(
        self, tmp_path: Path
    ) -> None:
        lab, history, folder = FakeLab(tmp_path), History(), tmp_path / "run"
        made = Recorder(lab, history, folder, Clocks(history), since=10.5)
        feed(lab.nodes["n1"], "journal", "11.0 n1 a[1]: x")
        feed(lab.nodes["n1"], "decisions", '{"t": 9.0, "rule": "F6"}', '{"t": 11.0, "rule": "F7"}')
        put = '{"t": %s, "method": "PUT", "status": %d, "name": "r0", "epoch": %d}'
        get = '{"t": 9.5, "method": "GET", "status": 200, "name": "r0"}'
        feed(lab.nodes["third"], "requests", put % (8, 201, 1), put % (9, 200, 2), put % (9.2, 412, 3), get)
        made.start()
        wait_until("it is there", lambda: seen(history, "decision", "n1"), Deadline.after(5))
        wait_until("the store's log was read", lambda: made._before, Deadline.after(5))
        stop(made)
        assert [event.text("rule") for event in seen(history, "decision", "n1")] == ["F7"]
        assert [event.number("epoch") for event in seen(history, "request", "store")] == [2]
        assert not (folder / "store.requests.jsonl").exists()
        assert any("logger" in line for line in lab.nodes["n2"].ran), "a silent journal is followed, too"
        (journal,) = [line for line in lab.nodes["n1"].started if "journalctl" in line]
        assert journal.endswith("--since=@10.500000")

    def test_what_the_lab_wrote_since_the_start_is_copied(self, tmp_path: Path) -> None:
        lab = FakeLab(tmp_path)
        log = tmp_path / "events.jsonl"
        log.write_text('{"t": 1.0, "source": "lab", "kind": "power", "node": "n1"}\n')
        console = tmp_path / "n1.console"
        console.write_bytes(b"old\n")
        history = History()
        made = Recorder(lab, history, tmp_path / "run", Clocks(history))
        made.start()
        with console.open("ab") as file:
            file.write(b"Kernel panic\n")
        with log.open("a") as file:
            file.write('{"t": 2.0, "source": "lab", "kind": "power", "node": "n2"}\nhalf a li')
        stop(made)
        assert [event.text("node") for event in seen(history, "power", "lab")] == ["n2"]
        assert (tmp_path / "run" / "n1.console").read_text() == "Kernel panic\n"
        assert len((tmp_path / "run" / "lab.events.jsonl").read_text().splitlines()) == 2


class TestClock:
    def test_the_quickest_of_three_answers_counts(self, tmp_path: Path) -> None:
        node, history = FakeLab(tmp_path).nodes["n1"], History()
        node.says["clock"] = "107.0"
        clocks = Clocks(history, iter([100.0, 102.0, 101.0, 101.2, 103.0, 104.0]).__next__)
        clocks.read(node, "boot-n1")
        (noted,) = history.events()
        assert (noted.text("node"), noted.text("boot")) == ("n1", "boot-n1")
        assert noted.number("offset_s") == pytest.approx(5.9)
        assert noted.number("margin_s") == pytest.approx(0.1)

    def test_the_offset_is_taken_out_of_every_time_of_that_node(self, tmp_path: Path) -> None:
        node = FakeLab(tmp_path).nodes["third"]
        node.says["clock"] = "107.0"
        clocks = Clocks(History(), iter([100.0, 100.0] * 3).__next__)
        clocks.read(node)
        ack = clocks.corrected(Event(207.5, "client", "ack", {"started": 207.0, "seq": 1}), "third")
        assert (ack.t, ack.number("started"), ack.number("seq")) == (200.5, 200.0, 1)
        other = Event(207.5, "n1", "kernel")
        assert clocks.corrected(other, "n1") is other

    def test_a_later_measurement_of_the_same_boot_shows_a_drift_and_changes_nothing(self, tmp_path: Path) -> None:
        node, history = FakeLab(tmp_path).nodes["n1"], History()
        clocks = Clocks(history, iter([100.0] * 18).__next__)
        for clock, boot in (("101.0", "a"), ("103.0", "a"), ("107.0", "b")):
            node.says["clock"] = clock
            clocks.read(node, boot)
            assert clocks.corrected(Event(100.0, "n1", "kernel"), "n1").t == (93.0 if boot == "b" else 99.0)
        assert [event.number("offset_s") for event in history.since(0)] == [1.0, 3.0, 7.0]

    def test_a_node_that_does_not_answer_is_noted(self, tmp_path: Path) -> None:
        node, history = FakeLab(tmp_path).nodes["n1"], History()
        node.power_off()
        Clocks(history).read(node)
        assert [event.text("offset_s") for event in history.events()] == [""]
