"""The recipe's three policies for what DRBD does by itself after a split brain, each provoked."""

import pytest

from lab.scenario import split_brain
from lab.scenario.observed import NODES
from lab.scenario.scene import Scene

RECIPE = {"zero_primaries": "discard-least-changes", "one_primary": "consensus", "two_primaries": "disconnect"}
CLEARLY_MORE = 100
"""Writes of the active node, against one file and one mount of the standby: DRBD counts blocks, not writes."""


@pytest.mark.scenario()
def test_after_sb_0pri(scene: Scene) -> None:
    """Two Secondaries meet under `discard-least-changes`: the one that wrote less takes over the other's data."""
    with split_brain.policies(scene, RECIPE):
        zero_primaries(scene)


@pytest.mark.scenario()
def test_after_sb_1pri(scene: Scene) -> None:
    """A Primary and a Secondary that wrote less meet under `consensus`: the Secondary takes over the Primary's data."""
    with split_brain.policies(scene, RECIPE):
        one_primary(scene)


@pytest.mark.scenario()
def test_after_sb_2pri(scene: Scene) -> None:
    """Two Primaries meet under `disconnect`: they stand alone, whatever the other policies say."""
    with split_brain.policies(scene, RECIPE):
        two_primaries(scene)


def zero_primaries(scene: Scene) -> None:
    """Let both nodes be Secondary when they meet; the service comes back with their agents."""
    active, standby = scene.roles()
    scene.expect(recovery_s=40, failovers=None, fences=(active,), split_brain=True)
    scene.wait_acks(20)
    with split_brain.agents_stopped(scene, active, standby):
        with split_brain.diverged(scene, active, standby, writes=CLEARLY_MORE):
            split_brain.step_down(scene, standby)
            split_brain.stop_services(scene, active)
        solved(scene)
    scene.wait_healed()
    scene.wait_acks(20)


def one_primary(scene: Scene) -> None:
    """Let the standby be Secondary again when they meet."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=None, fences=(active,), split_brain=True)
    scene.wait_acks(20)
    with split_brain.agents_stopped(scene, standby):
        with split_brain.diverged(scene, active, standby, writes=CLEARLY_MORE):
            split_brain.step_down(scene, standby)
        solved(scene)
    scene.wait_healed()
    scene.wait_acks(20)


def two_primaries(scene: Scene) -> None:
    """Let both be Primary when they meet, and put the pair together by hand afterwards."""
    active, standby = scene.roles()
    scene.expect(recovery_s=8, failovers=None, fences=(active,), split_brain=True)
    scene.wait_acks(20)
    with split_brain.agents_stopped(scene, standby):
        with split_brain.diverged(scene, active, standby):
            pass
        split_brain.wait_apart(scene)
        assert split_brain.standby_file_is_there(scene, standby), "the standby's replica was discarded"
        split_brain.recover(scene, standby)
    scene.wait_healed()
    scene.wait_acks(20)


def solved(scene: Scene) -> None:
    """Wait until DRBD has chosen by itself."""
    for node in NODES:
        split_brain.wait_connection(scene, node, "Connected")
