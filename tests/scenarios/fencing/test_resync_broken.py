"""Scenarios 22 and 23: one side dies while the standby is brought up to date."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.scenario.history import Event
from lab.scenario.scene import Scene

MB = 24  # at 1 MiB/s this is longer than what is done meanwhile


@contextmanager
def slow_resync(scene: Scene, active: str, standby: str) -> Iterator[None]:
    """Let the standby miss some data, and fetch it slowly once it is back."""
    node, file = scene.lab.nodes[standby], f"/etc/drbd.d/{scene.place.resource}.res"
    before = node.get(file)
    slowly = "s/\\(resync-rate\\|c-min-rate\\) .*;/\\1 1M;/"
    node.run(["sed", "-i", slowly, file], limit_s=10)
    node.run(["sync"], limit_s=20)
    with scene.faults.power_loss(standby):
        scene.wait_acks(5)
        big = f"of={scene.place.mount}/missed"
        scene.lab.nodes[active].run(["dd", "if=/dev/urandom", big, "bs=1M", f"count={MB}", "conv=fsync"], limit_s=60)
        mark = scene.history.mark()

    def syncs(event: Event) -> bool:
        return event.source == standby and event.text("replication") == "SyncTarget"

    scene.wait_event("the resync has begun", syncs, since=mark)
    yield
    node.put(before, file)
    node.run(["drbdadm", "adjust", scene.place.resource], limit_s=20)


@pytest.mark.scenario(22)
def test_target_dies(scene: Scene) -> None:
    """The standby dies during its resync, the active node dies too, the standby boots alone: it is never promoted."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    with slow_resync(scene, active, standby):
        scene.lab.nodes[standby].power_off()
        scene.wait_acks(10)
        with scene.faults.power_loss(active):
            mark = scene.history.mark()
            scene.lab.nodes[standby].power_on()
            scene.wait_refusal(standby, booted_since=mark)
        scene.wait_ack_of(active)

    scene.wait_healed()
    scene.wait_acks(10)


@pytest.mark.scenario(23)
def test_source_dies(scene: Scene) -> None:
    """The active node dies during the standby's resync: nobody serves until it returns and goes on."""
    active, standby = scene.roles()
    scene.expect(recovery_s=60, failovers=0)
    with slow_resync(scene, active, standby):
        mark = scene.history.mark()
        with scene.faults.power_loss(active):
            scene.wait_peer_lost(standby, since=mark)
            scene.wait_refusal(standby, booted_since=None)
        scene.wait_ack_of(active)

    scene.wait_healed()
    scene.wait_acks(10)
