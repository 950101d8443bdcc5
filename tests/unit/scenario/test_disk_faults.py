"""Disk faults put another table in place and heal, whatever the node does meanwhile. The lab is a fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lab.errors import BadInput
from lab.scenario import disk_faults
from lab.scenario.faults import Faults
from lab.scenario.history import History
from tests.unit.scenario.fakes import FakeLab

Fault = Callable[[Faults, str], AbstractContextManager[None]]

SWAP = ["dmsetup suspend --noflush --nolockfs r0-data", "dmsetup resume r0-data"]
WHOLE = ["dmsetup load r0-data --table '0 1048576 linear /dev/disk/by-hapair/r0-data-below 0'", *SWAP]


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    made = FakeLab(tmp_path)
    made.nodes["n1"].says = {"blockdev *": "1048576\n"}
    return made


@pytest.fixture
def faults(lab: FakeLab) -> Faults:
    return Faults(lab, History())


def ran(lab: FakeLab) -> list[str]:
    """The calls of dmsetup on n1."""
    lines = lab.nodes["n1"].ran
    return [line.removeprefix("env DM_DISABLE_UDEV=1 ") for line in lines if "dmsetup" in line]


@pytest.mark.parametrize(
    ("reads_and_writes", "name", "table"),
    [
        ((True, True), "disk_errors", "error"),
        ((False, True), "disk_write_errors", "flakey /dev/disk/by-hapair/r0-data-below 0 0 1 1 error_writes"),
        ((True, False), "disk_read_errors", "flakey /dev/disk/by-hapair/r0-data-below 0 0 1 1 error_reads"),
    ],
)
def test_a_failing_disk(lab: FakeLab, faults: Faults, reads_and_writes: Sequence[bool], name: str, table: str) -> None:
    reads, writes = reads_and_writes
    with disk_faults.failing(faults, "n1", reads=reads, writes=writes):
        assert ran(lab) == [f"dmsetup load r0-data --table '0 1048576 {table}'", *SWAP]
    assert ran(lab)[3:] == WHOLE
    assert [(e.kind, e.text("name")) for e in faults.history.events()] == [("fault", name), ("heal", name)]


def test_a_slow_and_a_hanging_disk(lab: FakeLab, faults: Faults) -> None:
    with disk_faults.slow(faults, "n1", 0.25, part="meta"):
        assert "delay /dev/disk/by-hapair/r0-meta-below 0 250" in ran(lab)[0]
    done = len(ran(lab))
    with disk_faults.hanging(faults, "n1"):
        assert ran(lab)[done:] == SWAP[:1]
    assert ran(lab)[done + 1 :] == WHOLE


def test_a_node_that_is_off_has_whole_disks_at_its_next_boot(lab: FakeLab, faults: Faults) -> None:
    with disk_faults.failing(faults, "n1"):
        lab.nodes["n1"].power_off()
    assert len(ran(lab)) == 3
    assert [event.kind for event in faults.history.events()] == ["fault", "heal"]


@pytest.mark.parametrize("fault", [disk_faults.failing, disk_faults.hanging])
def test_a_node_without_the_layer_is_refused(lab: FakeLab, faults: Faults, fault: Fault) -> None:
    lab.nodes["n1"].says["test -b *"] = 1
    with pytest.raises(BadInput, match="the disks of n1 have no layer for faults"), fault(faults, "n1"):
        pass
    assert faults.history.events() == ()


def test_a_fault_of_nothing_is_refused(faults: Faults) -> None:
    with pytest.raises(BadInput, match="is whole"), disk_faults.failing(faults, "n1", reads=False, writes=False):
        pass
