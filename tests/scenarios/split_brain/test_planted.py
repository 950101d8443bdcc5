"""Each scenario of a split brain with a fault planted: what guards it turns red."""

from __future__ import annotations

import pytest

from lab.errors import TimedOut
from lab.scenario import split_brain
from lab.scenario.scene import Scene
from tests.scenarios.split_brain import test_after_sb as after_sb
from tests.scenarios.split_brain.test_forced_split_brain import test_forced_split_brain as forced_split_brain
from tests.scenarios.split_brain.test_override import test_override as override
from tests.scenarios.split_brain.test_repair import repair

AUTOMATIC = {"zero_primaries": "discard-least-changes", "one_primary": "discard-secondary"}
# Near the end of the disk of 512 MiB, where btrfs keeps nothing yet: elsewhere a write may cover it at once.
SPOILT = "dd if=/dev/urandom of=/dev/disk/by-hapair/r0-data bs=4096 count=1 seek=130000 conv=notrunc,fsync"


@pytest.mark.planted("scenario")
def test_planted_automatic_discard(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 20, and the site lets DRBD discard a Secondary's replica without a question."""
    split_brain.set_policies(scene, AUTOMATIC)
    _demoted_before_they_meet(monkeypatch)
    forced_split_brain(scene)


@pytest.mark.planted("I8")
def test_planted_unequal_replicas(scene: Scene) -> None:
    """Scenario 21, and a block of the repaired replica is not what it ought to be."""
    active, standby = scene.roles()
    repair(scene)
    scene.lab.nodes[standby].run(["sh", "-c", SPOILT], limit_s=30)
    split_brain.compare(scene, active)


@pytest.mark.planted("scenario", "I8")
def test_planted_after_sb_0pri(scene: Scene) -> None:
    """Two Secondaries meet, and the policy is `disconnect`: nothing is solved."""
    after_sb.zero_primaries(scene)


@pytest.mark.planted("scenario", "I8")
def test_planted_after_sb_1pri(scene: Scene) -> None:
    """A Primary and a Secondary meet, and the policy is `disconnect`: nothing is solved."""
    after_sb.one_primary(scene)


@pytest.mark.planted("scenario")
def test_planted_after_sb_2pri(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Primaries are to meet, and the standby is none: a policy discards its replica."""
    split_brain.set_policies(scene, after_sb.RECIPE)
    _demoted_before_they_meet(monkeypatch)
    after_sb.two_primaries(scene)


def _demoted_before_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the standby step down as soon as it has written."""
    write = split_brain.write_on_standby

    def write_and_step_down(scene: Scene, standby: str) -> None:
        write(scene, standby)
        split_brain.step_down(scene, standby)

    monkeypatch.setattr(split_brain, "write_on_standby", write_and_step_down)


@pytest.mark.planted("I6")
def test_planted_no_override(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenario 17, and nobody gives the lock to the standby: it never serves."""
    monkeypatch.setattr(split_brain, "steal", lambda *_, **__: None)
    with pytest.raises(TimedOut, match="acknowledges a write"):
        override(scene)
    scene.wait_healed()
