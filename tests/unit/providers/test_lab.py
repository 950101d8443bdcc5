"""A whole lab - client, supervisor, control agents - whose kernels are stand-ins (kernel.py)."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import proc
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks, TimedOut
from lab.proc import CommandFailed
from lab.providers import client, memory, terminal
from lab.providers.base import CLEAN, Disk, Impairment, Interface, LabPlan, NodePlan
from lab.providers.client import RunningLab
from lab.providers.record import Record

pytestmark = pytest.mark.spawns

KERNEL = Path(__file__).with_name("kernel.py")
Start = Callable[..., RunningLab]


def plan_of(image: Path, *names: str, args: tuple[str, ...] = ()) -> LabPlan:
    def node(number: int, name: str) -> NodePlan:
        card = Interface("lan", f"02:00:5e:00:02:1{number}", "vec0")
        disks = (Disk("ubdb", f"{name}.data", 4096), Disk("ubdc", f"{name}.cached", 8192, log_slot="ubdd"))
        return NodePlan(name, KERNEL, image, 1, args, disks, (card,))

    return LabPlan("example", tuple(node(number, name) for number, name in enumerate(names)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Longer than the path of a socket may be.
    return tmp_path / ("a long, odd: name " + "x" * 90) / "example"


@pytest.fixture
def start(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("HAPAIR_MEMORY_DIR", str(tmp_path))
    monkeypatch.setattr(proc, "INHERITED", (*proc.INHERITED, "HAPAIR_MEMORY_DIR"))
    image = tmp_path / "a, b: c"
    image.touch()

    def started(*names: str, args: tuple[str, ...] = ()) -> RunningLab:
        lab = client.start(plan_of(image, *(names or ("n1",)), args=args), folder)
        if not args:
            for node in lab.nodes.values():
                node.wait_ready(Deadline.after(20))
        return lab

    yield started
    client.destroy(folder)
    assert list(folder.parent.iterdir()) == []
    assert not [path.name for path in tmp_path.glob("hapair-*")], "memory left behind"


def events(lab: RunningLab) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in lab.events_path.read_text().splitlines()]
    return [(line["kind"], line.get("why", line.get("to", ""))) for line in lines]


def pid(lab: RunningLab, name: str = "n1") -> int:
    record = Record.load(lab.folder)
    assert record
    return record.processes[name][0]


def boots(lab: RunningLab, count: int) -> None:
    wait_until(f"boot {count}", lambda: lab.status().nodes["n1"].boots == count, Deadline.after(10))
    lab.nodes["n1"].wait_ready(Deadline.after(10))


def test_commands_files_and_streams(start: Start, tmp_path: Path) -> None:
    node = start().nodes["n1"]
    assert node.run(["cat"], limit_s=5, stdin=b"given").stdout == b"given"
    with pytest.raises(CommandFailed, match=r"n1: sh -c 'echo no >&2; exit 4': exit code 4\n +no"):
        node.run(["sh", "-c", "echo no >&2; exit 4"], limit_s=5)
    assert node.run(["false"], limit_s=5, check=False).code == 1
    with pytest.raises(CommandFailed, match=r"no end after 0\.3 s"):
        node.run(["sleep", "100"], limit_s=0.3)
    data = os.urandom(1_000_000)
    node.put(data, str(tmp_path / "file"), 0o600)
    assert node.get(str(tmp_path / "file")) == data
    assert list(node.stream(["printf", "one\\ntwo\\nrest"], limit_s=5)) == [b"one", b"two", b"rest"]


def test_closing_a_stream_ends_the_command(start: Start) -> None:
    stream = start().nodes["n1"].stream(["sh", "-c", "echo $$; exec sleep 100"], limit_s=50)
    sleeper = int(next(stream))
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    wait_until("the command is gone", lambda: not Path(f"/proc/{sleeper}").exists(), Deadline.after(10))


def test_power(start: Start) -> None:
    lab = start()
    node = lab.nodes["n1"]
    before = pid(lab)
    node.power_off()
    assert node.state() == "off"
    assert not Path(f"/proc/{before}").exists()
    with pytest.raises(HapairError, match="n1 is off: power was cut; the last lines of its console"):
        node.run(["true"], limit_s=5)
    node.power_off()
    node.power_on()
    node.power_on()
    boots(lab, 2)
    node.reset()
    boots(lab, 3)
    life = [("power", "on"), ("boot", "")]
    assert events(lab) == [*life, ("exit", "cut"), ("discarded", "")] * 2 + life


def test_a_cut_takes_what_was_not_flushed_and_a_restart_takes_nothing(start: Start) -> None:
    lab = start()
    disk, plain = lab.folder / "n1.cached", lab.folder / "n1.data"
    disk.write_bytes(b"1" * 8192)  # as the node's kernel does
    os.kill(pid(lab), signal.SIGUSR1)
    boots(lab, 2)
    assert disk.read_bytes() == b"1" * 8192
    disk.write_bytes(b"1" * 4096 + b"2" * 4096)
    plain.write_bytes(b"3" * 4096)
    lab.nodes["n1"].power_off()
    assert disk.read_bytes() == b"1" * 8192 and plain.read_bytes() == b"3" * 4096
    *_, last = (json.loads(line) for line in lab.events_path.read_text().splitlines())
    assert (last["kind"], last["disk"], last["bytes"], last["kept_writes"]) == ("discarded", "n1.cached", 4096, 0)


@pytest.mark.parametrize(("sig", "why"), [(signal.SIGUSR1, "restart"), (signal.SIGALRM, "panic")])
def test_a_node_that_restarts_is_switched_on_again(start: Start, sig: signal.Signals, why: str) -> None:
    lab = start()
    os.kill(pid(lab), sig)
    boots(lab, 2)
    assert ("exit", why) in events(lab)
    assert lab.nodes["n1"].console_path.read_text().count("--- power on") == 2


def test_a_node_that_powers_itself_off_stays_off(start: Start) -> None:
    lab = start()
    os.kill(pid(lab), signal.SIGUSR2)
    wait_until("it is off", lambda: lab.nodes["n1"].state() == "off", Deadline.after(10))
    assert lab.status().nodes["n1"].note == "powered itself off"
    assert lab.status().nodes["n1"].boots == 1


def test_a_node_that_only_ever_restarts_is_given_up(start: Start) -> None:
    lab = start(args=("fake=short",))
    with pytest.raises(HapairError, match=r"restarted 3 times without becoming ready(.|\n)*Restarting system"):
        lab.nodes["n1"].wait_ready(Deadline.after(20))
    assert lab.status().nodes["n1"].boots == 3


def test_a_node_that_never_gets_ready_is_reported_with_its_last_words(start: Start) -> None:
    lab = start(args=("fake=mute",))
    with pytest.raises(TimedOut, match=r"n1 was not ready after(.|\n)*seccomp filters can be installed\.\.\.OK"):
        lab.nodes["n1"].wait_ready(Deadline.after(0.5))
    with pytest.raises(HapairError, match="n1 is not ready"):
        lab.nodes["n1"].run(["true"], limit_s=5)


def test_freeze_and_thaw(start: Start) -> None:
    lab = start()
    node = lab.nodes["n1"]
    node.freeze()
    assert lab.status().nodes["n1"].state == "frozen"
    assert not lab.status().nodes["n1"].ready
    node.thaw()
    assert node.run(["echo", "warm"], limit_s=5).text == "warm"
    node.freeze()
    node.power_off()
    assert node.state() == "off"


def test_links_and_status(start: Start) -> None:
    lab = start("n1", "n2", "third")
    lab.set_link("n2", "lan", "out", Impairment(up=False, delay_s=0.5))
    status = lab.status()
    assert {node.mode for node in status.nodes.values()} == {"seccomp"}
    assert all(link.plugged for link in status.links)
    assert [link.outward.up for link in status.links] == [True, False, True]
    lab.set_link("n2", "lan", "both", CLEAN)
    assert all(link.outward == CLEAN for link in lab.status().links)
    with pytest.raises(BadInput, match="there is no network wan"):
        lab.set_link("n2", "wan", "out", CLEAN)


def test_a_capture_lasts_as_long_as_its_context(start: Start, tmp_path: Path) -> None:
    lab = start()
    with lab.capture("lan", tmp_path / "lan.pcap") as path:
        assert path.exists()
    assert path.stat().st_size == 24


def test_a_lab_is_for_its_user_only(start: Start) -> None:
    lab = start()
    for name in ("", "control.sock", "run.json", "n1.console", "n1.data", "n1.share", "net/n1.lan"):
        assert stat.S_IMODE((lab.folder / name).stat().st_mode) & 0o077 == 0, name


def test_starting_twice_is_refused_and_attaching_works(start: Start, folder: Path) -> None:
    lab = start()
    with pytest.raises(BadInput, match="lab example is running already"):
        client.start(lab.plan, folder)
    assert client.attach(folder).nodes["n1"].run(["echo", "same"], limit_s=5).text == "same"


def test_stopping_keeps_the_disks(start: Start, folder: Path) -> None:
    lab = start()
    (folder / "n1.data").write_bytes(b"kept")
    kernel = pid(lab)
    lab.stop()
    assert not Path(f"/proc/{kernel}").exists()
    assert not (folder / "control.sock").exists()
    with pytest.raises(BadInput, match="lab example does not run"):
        client.attach(folder)
    start()
    assert (folder / "n1.data").read_bytes() == b"kept"


def test_another_image_below_the_same_disks_is_refused(start: Start, folder: Path) -> None:
    lab = start()
    lab.stop()
    with pytest.raises(HapairError, match="the root disk of n1 belongs to another image"):
        client.start(plan_of(KERNEL, "n1"), folder)


def test_a_killed_supervisor_takes_its_nodes_along_and_is_cleaned_up_after(start: Start, folder: Path) -> None:
    lab = start()
    record = Record.load(folder)
    assert record
    os.kill(lab.status().pid, signal.SIGKILL)
    wait_until("the node died too", lambda: not record.alive("n1"), Deadline.after(10))
    with pytest.raises(HapairError, match="lab example does not run"):
        lab.status()
    assert Path(record.memory).exists()
    client.stop(folder)
    assert not Path(record.memory).exists()
    assert not (folder / "run.json").exists()


def test_a_supervisor_that_is_told_to_end_takes_everything_down(start: Start, folder: Path) -> None:
    lab = start()
    record = Record.load(folder)
    assert record
    os.kill(lab.status().pid, signal.SIGTERM)
    wait_until("it has ended", lambda: not record.alive("supervisor"), Deadline.after(10))
    assert not record.alive("n1")
    assert not Path(record.memory).exists()
    assert not (folder / "run.json").exists()


def test_two_commands_at_once_are_refused(folder: Path) -> None:
    folder.mkdir(parents=True)
    holder = proc.spawn(["flock", f"{folder}.lock", "sleep", "100"])
    try:

        def held() -> bool:
            try:
                with client.locked(folder):
                    return False
            except BadInput as error:
                return "another command is at work on example" in error.message

        wait_until("the other command has the lock", held, Deadline.after(10))
    finally:
        proc.kill_group(holder)
        holder.wait()


def test_a_folder_of_something_else_is_not_destroyed(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(BadInput, match="is no lab"):
        client.destroy(folder)
    assert (folder / "thesis.tex").exists()


def test_what_is_missing_is_found_before_anything_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(Path("/nowhere/image"), "n1")
    with pytest.raises(BadInput, match="image /nowhere/image cannot be read"):
        client.start(plan, folder)
    monkeypatch.setattr(memory, "available_bytes", lambda: 0)
    with pytest.raises(HostLacks, match="0 MiB of memory are available, 1 MiB needed"):
        client.start(plan_of(KERNEL, "n1"), folder)
    assert not folder.exists()


def test_a_supervisor_that_cannot_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 60)
    plan = plan_of(KERNEL, "n1")
    huge = LabPlan(plan.name, (NodePlan("n1", KERNEL, KERNEL, 1 << 30),))
    with pytest.raises(HostLacks, match="no folder can hold the nodes' memory"):
        client.start(huge, folder)
    client.destroy(folder)


def test_a_shell_command_passes_output_and_code_on(start: Start, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    node = start().nodes["n1"]
    assert terminal.shell(node, "echo seen; echo told >&2; exit 3") == 3
    assert terminal.shell(node, "kill -KILL $$") == 128 + 9
    assert capfdbinary.readouterr() == (b"seen\n", b"told\n")
    with pytest.raises(BadInput, match="a shell needs a terminal"):
        terminal.shell(node, "")


def test_a_shell_in_a_terminal(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    node = start().nodes["n1"]
    keyboard, screen = pty.openpty()
    try:
        with os.fdopen(os.dup(screen), "rb") as stdin, os.fdopen(os.dup(screen), "w") as stdout:
            monkeypatch.setattr(sys, "stdin", stdin)
            monkeypatch.setattr(sys, "stdout", stdout)
            termios.tcsetwinsize(screen, (37, 101))
            os.write(keyboard, b"stty size; exit 6\n")
            assert terminal.shell(node, "") == 6
            seen = b""
            while b"37 101" not in seen:  # all of it is there already, in pieces
                seen += os.read(keyboard, 65536)
            assert termios.tcgetattr(screen)[3] & termios.ECHO, "the terminal is as it was before"
    finally:
        os.close(keyboard)
        os.close(screen)
