"""Each scenario with a fault planted in the system under test: exactly the invariant that guards it turns red."""

from __future__ import annotations

import pytest

from lab.scenario.scene import Scene
from tests.scenarios.failover import plants
from tests.scenarios.failover.test_launch_on_drbd import test_launch_on_drbd as launch_on_drbd
from tests.scenarios.failover.test_power_loss_active import test_power_loss_active as power_loss_active
from tests.scenarios.failover.test_power_loss_both import test_power_loss_both as power_loss_both
from tests.scenarios.failover.test_power_loss_standby import test_power_loss_standby as power_loss_standby
from tests.scenarios.failover.test_reboot_active import test_reboot_active as reboot_active
from tests.scenarios.failover.test_steady import steady
from tests.scenarios.failover.test_switchovers import switch_over
from tests.scenarios.failover.test_unlike_nodes import test_unlike_nodes as unlike_nodes
from tests.scenarios.fencing import defects


@pytest.mark.planted("I1")
def test_planted_forgetful_writer(scene: Scene) -> None:
    """Scenario 1, and the writer acknowledges without writing once it has moved."""
    plants.forgetful_writer(scene, scene.roles()[0])
    power_loss_active(scene)


@pytest.mark.planted("I11")
def test_planted_stale_node(scene: Scene) -> None:
    """Scenario 1, and the other node begins without the last writes, which turn up again later."""
    plants.stale_writer(scene, scene.roles()[0])
    power_loss_active(scene)


@pytest.mark.planted("I6", "I10")
def test_planted_broken_fence_handler(scene: Scene) -> None:
    """Scenario 24, and the active node's fence-peer handler fails while its agent hangs: it stays frozen too long."""
    plants.broken_fence_handler(scene, scene.roles()[0])
    power_loss_standby(scene)


@pytest.mark.planted("I1", "I11")
@pytest.mark.only(
    "uml", "what a virtual machine wrote is in the host's page cache: it outlives a power cut, flushed or not"
)
def test_planted_no_flushes(scene: Scene) -> None:
    """Both nodes lose power, and nobody had flushed: what the disks still had in their caches is lost."""
    plants.no_flushes(scene)
    power_loss_both(scene)


@pytest.mark.planted("I5")
def test_planted_impostor(scene: Scene) -> None:
    """Scenario 31, and the former node goes on to answer for the container's address."""
    former, _ = scene.roles()
    switch_over(scene, 1)
    plants.impostor(scene, former)
    scene.wait_acks(20)


@pytest.mark.planted("I6")
def test_planted_no_hand_over(scene: Scene) -> None:
    """Scenario 45, and the agent is killed at shutdown without handing over."""
    plants.no_hand_over(scene, scene.roles()[0])
    reboot_active(scene)


@pytest.mark.planted("scenario")
def test_planted_relative_lxd_dir(scene: Scene) -> None:
    """The stumbling block, and LXD's folder of instances is what a relative LXD_DIR makes of it: the launch fails."""
    plants.relative_lxd_dir(scene, scene.roles()[0])
    launch_on_drbd(scene)


@pytest.mark.planted("scenario")
def test_planted_no_gate(scene: Scene) -> None:
    """Nodes that are not alike, and a switchover asks nobody for that: it stops the services."""
    scene.programs.change(scene.roles()[0], defects.HANDS_OVER_TO_ANYONE)
    unlike_nodes(scene)


@pytest.mark.planted("I6", "scenario")
def test_planted_stall(scene: Scene) -> None:
    """test_steady, and the standby stands still for so long that DRBD gives it up; no fault is announced."""
    active, standby = scene.roles()
    steady(scene, 5.0, lambda: plants.stall(scene, standby, active))
