"""What tests of F9 say: node n1 before its replica is attached, what disk and store hold, and the calls upon them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hapair import cli, incarnation, proc
from hapair.fence.base import Found, Reading, Writing, Written
from hapair.fence.site import SiteStore, fence_of
from hapair.fencing import no_guard
from hapair.incarnation import MARK, Incarnation, PutBack, Unknown

from .conftest import Host
from .fakes import Machine

DRBD_EMPTY = "version: 8.4.11\n"
DISKLESS = "version: 8.4.11\n 0: cs:WFConnection ro:Secondary/Unknown ds:Diskless/DUnknown C r-----\n"


def marked(number: int) -> int:
    return MARK << 32 | number


def before_drbd(n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make node n1 before DRBD knows the resource; a lock in the store."""
    made = Machine(n1, tmp_path)
    n1.paths.proc_drbd.write_text(DRBD_EMPTY)
    monkeypatch.setattr(proc, "PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setenv("PATH", f"{made.bin}:/usr/bin:/bin")
    monkeypatch.setattr(incarnation, "STORE_S", 0.0)
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    return made


def stored(there: Path, number: int) -> None:
    there.write_text(json.dumps({"format": 1, "node": "n1", "incarnation": number}))


def on_disk(machine: Machine) -> int:
    return int((machine.state / "meta").read_text().split()[0], 16)


def count(host: Host) -> tuple[str, str]:
    """Return (why it is not attached, what should be known of the attach)."""
    try:
        return "", Incarnation(host.config, "r0", host.paths).count()
    except (PutBack, Unknown) as bad:
        return str(bad), ""


def judge(host: Host) -> str:
    return Incarnation(host.config, "r0", host.paths).judge()


def decide(host: Host, *words: str, confirm: str = "r0") -> int:
    return cli.main(["restored-replica", "r0", *words, "--confirm", confirm], host.paths)


def away(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Take the store away, until `undo`."""
    gone = pytest.MonkeyPatch()
    gone.setattr(SiteStore, "read", lambda *_: Reading(Found.UNAVAILABLE, text="away"))
    gone.setattr(SiteStore, "write", lambda *_: Writing(Written.UNCLEAR, "away"))
    monkeypatch.setattr("hapair.memory.RETRY_S", 0.1)
    return gone
