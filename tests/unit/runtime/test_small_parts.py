"""ARP frames, processes, services' view of /proc, the log, systemd's socket, and the oldest Python."""

from __future__ import annotations

import ast
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import hapair
import pytest
from hapair import arp, notify, proc
from hapair.config import Resource
from hapair.decisions import DecisionLog
from hapair.memory import Wish
from hapair.paths import Paths
from hapair.server import Request
from hapair.services import Services

SOURCES = sorted(Path(str(hapair.__file__)).parent.rglob("*.py"))
PURE = ("states", "actions", "memory", "rules", "policy", "lock", "events")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_module_is_python_3_8(path: Path) -> None:
    """Ubuntu 20.04 hosts run it; annotations may be newer, since they are never evaluated."""
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    code = [node for node in tree.body if not isinstance(node, (ast.Expr, ast.ImportFrom, ast.Import))]
    assert imports or not code


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_nothing_that_acts(name: str) -> None:
    path = next(path for path in SOURCES if path.stem == name)
    imported = {
        (node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert not imported & {"os", "time", "subprocess", "socket", "logging", "pathlib", "threading"}


def test_only_proc_imports_subprocess() -> None:
    assert [path.stem for path in SOURCES if "import subprocess" in path.read_text()] == ["proc"]


def test_an_arp_announcement() -> None:
    mac = bytes.fromhex("02005e000211")
    frame = arp.frame(mac, "192.0.2.88", arp.REQUEST)
    assert frame[:14] == b"\xff" * 6 + mac + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:32] == mac + bytes([192, 0, 2, 88])
    assert frame[38:] == bytes([192, 0, 2, 88])
    assert len(frame) == 42


@pytest.mark.spawns
def test_a_command_that_ends() -> None:
    done = proc.run(["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], 5.0)
    assert (done.code, done.ok, done.last_line) == (3, False, "two")


@pytest.mark.spawns
def test_a_command_that_hangs_is_given_up() -> None:
    done = proc.run(["/bin/sleep", "60"], 0.1)
    assert done.code is None
    assert "no end after 0.1 s" in done.output


@pytest.mark.spawns
def test_a_command_that_is_missing() -> None:
    assert proc.run(["/nonexistent/drbdadm"], 1.0).code == 127


def test_the_log_survives_a_disk_that_refuses(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    log = DecisionLog(blocked / "decisions.jsonl", journal=False)
    log.add("r0", rule="F1", action="x", outcome="y", why="z")
    log.drain(5.0)
    good = DecisionLog(tmp_path / "log/decisions.jsonl", journal=False)
    good.add("r0", rule="F1", action="x", outcome="y", why="z", took_s=0.25, durable=True)
    good.drain(5.0)
    line = json.loads((tmp_path / "log/decisions.jsonl").read_text())
    assert {key: line[key] for key in line if key != "t"} == {
        "resource": "r0",
        "rule": "F1",
        "action": "x",
        "outcome": "y",
        "why": "z",
        "took_s": 0.25,
    }


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    notify.notify("WATCHDOG=1")
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    assert notify.watchdog_pause_s() == 5.0
    monkeypatch.delenv("WATCHDOG_USEC")
    assert notify.watchdog_pause_s() is None


def test_a_request_is_told_each_text_once() -> None:
    request = Request(Wish.PRIMARY, ("r0",), 5.0)
    for text in ("asks", "refused", "asks", "", "refused", "waits", "asks"):
        request.progress(text)
    request.finish("r0", ok=False, text="gave up")
    assert [reply.get("waiting") or reply["text"] for reply in request.replies()] == [
        "asks",
        "refused",
        "waits",
        "gave up",
    ]


RESOURCE = Resource(
    name="r0",
    minor=0,
    device="/dev/drbd0",
    mount="/r0",
    mount_unit="r0.mount",
    lxd_dir="/r0/lxd",
    pool="/r0/pools",
    lxd_unit="r0lxd.service",
    preferred="n1",
    lan_interface="lan0",
    addresses=("192.0.2.88",),
)


def process(paths: Paths, pid: str, *, mounts: str = "", cwd: str = "/") -> None:
    folder = paths.proc / pid
    (folder / "fd").mkdir(parents=True)
    (folder / "mountinfo").write_text(mounts)
    (folder / "cwd").symlink_to(cwd)


def test_who_lives_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(tmp_path)
    container = "36 35 0:40 /pools/containers/c1/rootfs / rw - btrfs /dev/drbd0 rw\n"
    hardened = "36 35 98:0 / / rw - ext4 /dev/ubda rw\n37 36 0:40 / /r0 rw - btrfs /dev/drbd0 rw\n"
    process(paths, "101", mounts=container)
    process(paths, "102", mounts=hardened)
    process(paths, "103", cwd="/r0/some/folder")
    process(paths, "104", cwd="/r0x")
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    assert Services(RESOURCE, paths).kill_users() == 2
    assert sorted(killed) == [101, 103], "containers and shells, but no service that merely sees the mount"


def test_what_is_mounted(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    (paths.proc / "self").mkdir(parents=True)
    mountinfo = paths.proc / "self/mountinfo"
    mountinfo.write_text("50 1 0:40 / /r0x rw - btrfs /dev/sda rw\n")
    assert not Services(RESOURCE, paths).mounted()
    mountinfo.write_text("50 1 0:40 / /r0 rw shared:1 - btrfs /dev/drbd0 rw\n")
    assert Services(RESOURCE, paths).mounted()


@pytest.mark.spawns
def test_a_hook_of_the_recipe_does_not_have_the_agents_priority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the scripts of hooks.d (test_hooks.py)."""
    hook = tmp_path / "actions/post-up"
    hook.parent.mkdir()
    hook.write_text(f"#!/bin/sh\nnice >{tmp_path}/nice\n")
    hook.chmod(0o755)
    before = os.nice(0)
    monkeypatch.setattr(os, "nice", lambda _: -5)
    assert Services(replace(RESOURCE, mount=str(tmp_path)), Paths(tmp_path))._hook(hook.name) == ""
    assert int((tmp_path / "nice").read_text()) == before + 5
