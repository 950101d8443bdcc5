"""Scenario 42: a node whose disks were put back from a snapshot is never a source of data."""

import pytest

from lab.scenario import copies
from lab.scenario.scene import Scene

RESYNC_S = 180.0  # the whole disk is copied


@pytest.mark.scenario(42)
@pytest.mark.long
def test_node_restored(scene: Scene) -> None:
    """The standby's disks are put back from an old snapshot: it is not attached, until it was made anew."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    scene.wait_acks(10)
    old = _copy(scene, standby)

    with scene.faults.power_loss(standby):
        old.put_back()
        mark = scene.history.mark()
    _refused(scene, standby, mark)
    assert scene.roles()[0] == active
    scene.wait_acks(10)

    _made_anew(scene, standby, mark)


@pytest.mark.scenario(42)
@pytest.mark.long
def test_node_restored_alone(scene: Scene) -> None:
    """Both nodes lose power, and the standby boots alone with its disks from an old snapshot: it refuses."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    scene.wait_acks(10)
    old = _copy(scene, standby)

    # Within T_grace, so that the lock stays SHARED: it keeps neither node from serving.
    with scene.faults.power_loss(active), scene.faults.power_loss(standby):
        old.put_back()
        mark = scene.history.mark()
        scene.lab.nodes[standby].power_on()
        _refused(scene, standby, mark)

    scene.wait_ack_of(active)
    scene.wait_acks(10)
    _made_anew(scene, standby, mark)


def _copy(scene: Scene, standby: str) -> copies.Copy:
    """Copy the standby's replica while it is off, then go on together, with acknowledged writes that it lacks."""
    with scene.faults.power_loss(standby):
        old = copies.make(scene, standby)
        scene.wait_acks(10)
    scene.wait_healed()
    scene.wait_acks(10)
    return old


def _refused(scene: Scene, standby: str, mark: int) -> None:
    status = scene.wait_refusal(standby, booted_since=mark)
    assert "F9: the replica" in status, status
    assert "not up" in status, status
    assert "hapair restored-replica" in status, status


def _made_anew(scene: Scene, standby: str, mark: int) -> None:
    attached = [e for e in scene.history.since(mark) if e.source == standby and e.text("object") == "device"]
    assert not attached, f"it was attached before a person had decided: {attached[0]}"
    copies.discard(scene, standby)
    scene.wait_healed(limit_s=RESYNC_S)
    assert copies.resynced_kib(scene, standby) >= scene.pair.site.lab.data_mb << 10
    scene.wait_acks(10)
