"""Copies of a replica: made and put back while the node is off. The lab is a fake, its disks are real files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import BadInput, HapairError
from lab.scenario import copies
from lab.scenario.scene import Scene
from tests.unit.scenario.fakes import FakePair, ready


@pytest.fixture
def pair(tmp_path: Path) -> FakePair:
    (tmp_path / "lab").mkdir()
    return ready(tmp_path / "lab")[0]


@pytest.fixture
def scene(pair: FakePair, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(pair, "restored", tmp_path / "scene", seed=7)
    yield made
    made.history.close()


@pytest.fixture
def disks(pair: FakePair) -> tuple[Path, Path]:
    """Data and meta-data of n2."""
    found = pair.lab.folder / "n2.r0-data", pair.lab.folder / "n2.r0-meta"
    for disk in found:
        disk.write_text(f"old {disk.name}")
    return found


def test_what_is_put_back_is_what_was_copied(pair: FakePair, scene: Scene, disks: tuple[Path, Path]) -> None:
    pair.lab.nodes["n2"].power_off()
    copy = copies.make(scene, "n2")
    for disk in disks:
        disk.write_text("new")
    copy.put_back()
    assert [disk.read_text() for disk in disks] == ["old n2.r0-data", "old n2.r0-meta"]
    assert sorted(pair.lab.folder.glob("*.copy")) == []
    assert [e.kind for e in scene.history.events() if e.text("node") == "n2"] == ["copied", "put_back"]


def test_a_node_that_is_on_keeps_its_disks(pair: FakePair, scene: Scene, disks: tuple[Path, Path]) -> None:
    with pytest.raises(HapairError, match="n2 is on"):
        copies.make(scene, "n2")
    pair.lab.nodes["n2"].power_off()
    copy = copies.make(scene, "n2")
    disks[0].write_text("new")
    pair.lab.nodes["n2"].power_on()
    with pytest.raises(HapairError, match="n2 is on"):
        copy.put_back()
    assert disks[0].read_text() == "new"


def test_disks_elsewhere_are_told(pair: FakePair, scene: Scene) -> None:
    pair.lab.nodes["n2"].power_off()
    with pytest.raises(BadInput, match="User-Mode Linux"):
        copies.make(scene, "n2")


def test_the_cure_and_how_much_was_copied(pair: FakePair, scene: Scene) -> None:
    there = pair.lab.nodes["n2"]
    copies.discard(scene, "n2")
    assert there.ran[-1] == "hapair restored-replica r0 --discard --confirm r0"
    with pytest.raises(HapairError, match="not synchronised"):
        copies.resynced_kib(scene, "n2")
    line = "drbd r0/0 drbd0: Began resync as SyncTarget (will sync {0} KB [{0} bits set])."
    there.says["journalctl*"] = "\n".join((line.format(524288), line.format(12), "drbd r0: Connected"))
    assert copies.resynced_kib(scene, "n2") == 524288
