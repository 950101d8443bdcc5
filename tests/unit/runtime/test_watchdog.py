"""The hardware watchdog. A file stands in for the device, which this machine has not: what is written to it is real."""

from __future__ import annotations

import fcntl
import json
import struct
from pathlib import Path

import pytest
from hapair import preflight, proc
from hapair.decisions import DecisionLog
from hapair.fence.site import fence_of
from hapair.fencing import no_guard
from hapair.removal import Remover
from hapair.watchdog import Watchdog

from .conftest import Host
from .fakes import Machine
from .test_agent import Running


class Device:
    """The device's file, and the time-outs that it was asked for."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        self.path = path
        self.asked: list[int] = []
        self.least_s = 1

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        assert fd >= 0
        assert request == 0xC0045706
        (seconds,) = struct.unpack("i", argument)
        self.asked.append(seconds)
        return struct.pack("i", max(seconds, self.least_s))

    @property
    def written(self) -> bytes:
        return self.path.read_bytes()


@pytest.fixture
def device(n1: Host, monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device(n1.paths.watchdog)
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    return made


def test_it_is_fed_three_times_within_its_time_out(n1: Host, device: Device) -> None:
    made = Watchdog(n1.paths, 9.5)
    assert (made.armed, made.fault, device.asked) == (True, "", [9])
    due = [made.feed(now) for now in (100.0, 101.0, 103.5, 106.9)]
    assert device.written == b"..."
    assert due[0] == due[1] == pytest.approx(100.0 + 9.5 / 3)
    made.release()
    assert device.written == b"...V"
    assert not made.armed
    assert made.feed(200.0) is None


def test_a_node_that_is_to_go_is_fed_no_more(n1: Host, device: Device) -> None:
    made = Watchdog(n1.paths, 9.0)
    Remover(n1.paths, DecisionLog(n1.paths.decisions, journal=False), made).remove("r0", "F10", "test")
    assert n1.removed
    made.feed(100.0)
    made.release()
    assert device.written == b"", "no food, and no V that would call it off"
    assert made.armed


def test_without_one_in_the_site_nothing_is_opened(n1: Host, device: Device) -> None:
    made = Watchdog(n1.paths, 0.0)
    assert (made.armed, made.fault, made.feed(1.0)) == (False, "", None)
    made.release()
    assert device.asked == []
    assert device.written == b""


def test_one_that_is_missing_or_too_slow_is_a_fault(n1: Host, device: Device) -> None:
    device.least_s = 60
    made = Watchdog(n1.paths, 10.0)
    assert made.fault == "F10 watchdog: it takes 60 s at least, but watchdog_s is 10"
    assert device.written == b"V", "it must not end a node that nobody feeds it for"
    device.path.unlink()
    assert "softdog" in Watchdog(n1.paths, 10.0).fault


@pytest.mark.spawns
@pytest.mark.parametrize("present", [True, False])
def test_the_agent_feeds_it_and_serves_only_with_it(
    n1: Host, device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, present: bool
) -> None:
    machine = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{machine.bin}:/usr/bin:/bin")
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    n1.paths.config.write_text(json.dumps({**json.loads(n1.paths.config.read_text()), "watchdog_s": 1.0}))
    if not present:
        device.path.unlink()
    running = Running(n1, machine)
    try:
        if present:
            running.until_serving()
            running.until("it is fed again and again", lambda: len(device.written) > 3)
        else:
            running.until("the socket is there", n1.paths.socket.exists)
            running.until("it refuses", lambda: "F10 watchdog" in str(running.status()["waiting"]))
            assert machine.told("drbdadm") == []
    finally:
        running.stop()
    if present:
        assert not device.written.endswith(b"V"), "it was stopped as Primary: the device goes on"
        assert preflight.cheap(n1.config, "r0", n1.paths) == []
