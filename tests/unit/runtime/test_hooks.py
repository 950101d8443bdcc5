"""A person's scripts: the arguments and the environment of the recipe's drbd-watcher, and never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hapair import hooks, proc
from hapair.decisions import DecisionLog
from hapair.events import told_at
from hapair.fence.site import fence_of
from hapair.fencing import no_guard
from hapair.hooks import Hooks, View, view
from hapair.states import Connection, Disk, Kernel, Replication, Role, Volume

from lab.deadline import Deadline, wait_until

from .conftest import Host
from .fakes import Machine
from .test_agent import Running

TOGETHER = Kernel(
    "r0",
    role=Role.PRIMARY,
    connection=Connection.CONNECTED,
    peer_role=Role.SECONDARY,
    volumes=(Volume(0, Disk.UP_TO_DATE, Disk.UP_TO_DATE, Replication.ESTABLISHED),),
)
ALONE = Kernel(
    "r0", role=Role.PRIMARY, connection=Connection.CONNECTING, volumes=(Volume(0, Disk.UP_TO_DATE, Disk.UNKNOWN),)
)
NAMES = "OLD_CONNECTED_STATE OLD_SELF_ROLE OLD_REMOTE_ROLE OLD_SELF_DISK OLD_REMOTE_DISK ALL_MOUNTS"
SCRIPT = f"""#!/bin/sh
{{ echo "$@"; for name in {NAMES}; do eval echo "$name=\\$$name"; done; echo "$STABLE_SECONDS"; echo; }} >> {{out}}
"""


def install(host: Host, name: str, text: str, mode: int = 0o755) -> Path:
    host.paths.hooks.mkdir(parents=True, exist_ok=True)
    path = host.paths.hooks / name
    path.write_text(text)
    path.chmod(mode)
    return path


def started(host: Host) -> Hooks:
    made = Hooks(host.config.resources["r0"], host.paths, DecisionLog(host.paths.decisions, journal=False))
    made.start()
    return made


def calls(out: Path, count: int) -> list[list[str]]:
    """Wait for so many calls and return their lines."""

    def seen() -> list[list[str]] | None:
        found = [call.splitlines() for call in out.read_text().split("\n\n") if call] if out.exists() else []
        return found if len(found) >= count else None

    return wait_until(f"{count} calls", seen, Deadline.after(10), pause_s=0.02)


@pytest.mark.spawns
def test_arguments_and_environment_are_those_of_drbd_watcher(n1: Host, tmp_path: Path) -> None:
    out = tmp_path / "out"
    install(n1, "react", SCRIPT.replace("{out}", str(out)))
    (n1.paths.proc / "self/mounts").write_text("/dev/drbd0 /mnt/look btrfs ro 0 0\n/dev/sda / ext4 rw 0 0\n")
    made = started(n1)
    made.look(None)
    made.look(TOGETHER)
    first = calls(out, 1)[0]
    assert first[0] == "r0 Connected Primary Secondary UpToDate UpToDate /r0"
    assert first[1:7] == [
        "OLD_CONNECTED_STATE=",
        "OLD_SELF_ROLE=",
        "OLD_REMOTE_ROLE=",
        "OLD_SELF_DISK=",
        "OLD_REMOTE_DISK=",
        "ALL_MOUNTS=/mnt/look /r0",
    ]
    made.look(TOGETHER)
    made.look(ALONE)
    second = calls(out, 2)[1]
    assert second[0] == "r0 WFConnection Primary Unknown UpToDate DUnknown /r0"
    assert second[1:6] == [
        "OLD_CONNECTED_STATE=Connected",
        "OLD_SELF_ROLE=Primary",
        "OLD_REMOTE_ROLE=Secondary",
        "OLD_SELF_DISK=UpToDate",
        "OLD_REMOTE_DISK=UpToDate",
    ]
    assert second[7].isdigit()
    made.look(None)
    assert calls(out, 3)[2][0].split() == ["r0", "/r0"], "a resource that vanished has empty values"


@pytest.mark.spawns
def test_a_script_does_not_have_the_agents_priority(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the agent ran at -5: a script gets that back, so it would be at 0 there, and is at 5 here."""
    install(n1, "a", f"#!/bin/sh\nnice >{tmp_path}/nice\n")
    before = os.nice(0)
    monkeypatch.setattr(os, "nice", lambda _: -5)
    looking = started(n1)
    looking.look(TOGETHER)
    looking.look(ALONE)
    wait_until("it ran", lambda: (tmp_path / "nice").exists() and (tmp_path / "nice").read_text(), Deadline.after(10))
    assert int((tmp_path / "nice").read_text()) == before + 5


@pytest.mark.spawns
def test_changes_while_a_script_runs_are_merged(n1: Host, tmp_path: Path) -> None:
    out, gate = tmp_path / "out", tmp_path / "gate"
    wait = f"until [ -e {gate} ]; do sleep 0.02; done\n"
    install(n1, "react", SCRIPT.replace("{out}", str(out)) + wait)
    made = started(n1)
    made.look(TOGETHER)
    calls(out, 1)
    for kernel in (ALONE, TOGETHER, ALONE):
        made.look(kernel)
    gate.write_text("")
    merged = calls(out, 2)[1]
    assert merged[0].split()[1] == "WFConnection"
    assert merged[1] == "OLD_CONNECTED_STATE=Connected"
    made.look(None)
    assert len(calls(out, 3)) == 3, "nothing in between"


@pytest.mark.spawns
def test_one_that_fails_or_hangs_does_not_stop_the_next(
    n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hooks, "LIMIT_S", 0.3)
    out = tmp_path / "out"
    install(n1, "10-fails", "#!/bin/sh\necho no idea\nexit 3\n")
    install(n1, "20-hangs", "#!/bin/sh\nexec sleep 60\n")
    install(n1, "30-not-executable", "#!/bin/sh\nexit 4\n", 0o644)
    install(n1, "40-anybodys", f"#!/bin/sh\necho written > {out}.bad\n", 0o777)
    install(n1, "50-old~", "#!/bin/sh\nexit 5\n")
    install(n1, "60-last", SCRIPT.replace("{out}", str(out)))
    made = started(n1)
    made.look(TOGETHER)
    calls(out, 1)
    told = wait_until("four are told", lambda: n1.decisions() if len(n1.decisions()) > 3 else None, Deadline.after(5))
    assert [(line["action"], line["outcome"]) for line in told] == [
        ("run 40-anybodys", "not run"),
        ("run 10-fails", "exit 3"),
        ("run 20-hangs", "exit None"),
        ("run 60-last", "done"),
    ]
    assert {line["rule"] for line in told} == {"hook"}
    assert not Path(f"{out}.bad").exists()


@pytest.mark.spawns
def test_the_agent_does_not_wait_for_a_script(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{machine.bin}:/usr/bin:/bin")
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    began, gate = tmp_path / "began", tmp_path / "gate"
    script = install(n1, "slow", f"#!/bin/sh\ntouch {began}\nuntil [ -e {gate} ]; do sleep 0.02; done\n")
    running = Running(n1, machine)
    try:
        running.until("the script runs", began.exists)
        running.until_serving()
    finally:
        script.unlink()  # what came meanwhile is not to start it once more, in the midst of the next test
        gate.write_text("")
        running.stop()


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (None, View()),
        (Kernel("r0"), View()),
        (ALONE, View("WFConnection", "Primary", "Unknown", "UpToDate", "DUnknown")),
        (
            Kernel(
                "r0",
                connection=Connection.CONNECTED,
                peer_role=Role.PRIMARY,
                volumes=(Volume(0, Disk.INCONSISTENT, Disk.UP_TO_DATE, Replication.SYNC_TARGET),),
            ),
            View("SyncTarget", "Secondary", "Primary", "Inconsistent", "UpToDate"),
        ),
    ],
)
def test_the_words_are_those_of_proc_drbd(kernel: Kernel | None, words: View) -> None:
    assert view(kernel) == words


def test_when_an_event_was_told() -> None:
    assert told_at("1970-01-01T00:00:02.500000+00:00 change resource name:r0 role:Primary") == 2.5
    assert told_at("1970-01-01T00:00:02.500000+00:00 exists resource name:r0 role:Primary") is None
    assert told_at("change resource name:r0 role:Primary") is None
    assert told_at("") is None
