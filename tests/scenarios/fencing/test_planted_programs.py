"""Fencing with a defect of the host programs planted: the scenario that looks for it turns red, and says where."""

from __future__ import annotations

import pytest

from lab.scenario.observed import NODES
from lab.scenario.scene import Scene
from tests.scenarios.fencing import defects, plants
from tests.scenarios.fencing.test_agent_killed import test_agent_killed as agent_killed
from tests.scenarios.fencing.test_both_off import test_both_off as both_off
from tests.scenarios.fencing.test_contention import test_contention as contention
from tests.scenarios.fencing.test_cut_off_from_all import test_cut_off_from_all as cut_off_from_all
from tests.scenarios.fencing.test_disk_fails import test_disk_of_active_is_gone as disk_of_active_is_gone
from tests.scenarios.fencing.test_disk_fails import test_disk_of_standby_fails as disk_of_standby_fails
from tests.scenarios.fencing.test_late_release import test_release_races_fence as release_races_fence
from tests.scenarios.fencing.test_link_back_during_handler import test_link_back_during_handler as link_back
from tests.scenarios.fencing.test_lost_reply import test_lost_reply as lost_reply
from tests.scenarios.fencing.test_node_restored import test_node_restored_alone as node_restored_alone
from tests.scenarios.fencing.test_older_lxd import test_older_lxd as older_lxd
from tests.scenarios.fencing.test_pause import test_pause as pause
from tests.scenarios.fencing.test_resync_broken import test_source_dies as source_dies
from tests.scenarios.fencing.test_resync_broken import test_target_dies as target_dies
from tests.scenarios.fencing.test_stale_node_alone import test_stale_node_alone as stale_node_alone
from tests.scenarios.fencing.test_stale_node_alone import test_wrong_node_boots_first as wrong_node_boots_first
from tests.scenarios.fencing.test_standby_left import test_standby_detached as standby_detached
from tests.scenarios.fencing.test_standby_left import test_standby_rebooted as standby_rebooted
from tests.scenarios.fencing.test_standby_left import test_standby_rebooted_unseen as standby_rebooted_unseen
from tests.scenarios.fencing.test_store_down_for_both import test_store_down_for_both as store_down_for_both


@pytest.mark.planted("I1", "I2", "I4", "I7", "I8", "I11")
def test_planted_yes_when_cut_off(scene: Scene) -> None:
    """Scenario 3, and the handler says yes although nobody answered: the node goes on until it is removed."""
    scene.programs.change(scene.roles()[0], defects.YES_WITHOUT_ANSWER, defects.NEVER_SUSPENDS)
    with plants.until_split_brain(scene):
        cut_off_from_all(scene)


@pytest.mark.planted("I4", "I7", "scenario", may=["I1", "I2", "I8", "I11"])
def test_planted_yes_without_answer(scene: Scene) -> None:
    """Scenario 4, and the handler says yes although nobody answered: the node goes on until it is removed.

    Once all is healed, either the nodes meet first, or the standby takes over without those writes.
    """
    scene.programs.change(scene.roles()[0], defects.YES_WITHOUT_ANSWER, defects.NEVER_SUSPENDS)
    with plants.then_healed(scene):
        store_down_for_both(scene)


@pytest.mark.planted("I3", "scenario")
def test_planted_overwrites(scene: Scene) -> None:
    """Scenario 5, and a node whose write came too late sends it again over the winner's: both win."""
    for node in NODES:
        scene.programs.change(node, defects.OVERWRITES)
    contention(scene)


@pytest.mark.planted("I1", "I2", "I3", "I6", "I8", "I11", "scenario")
def test_planted_stale_claim(scene: Scene) -> None:
    """Scenario 6, and the stale node ignores whose the lock is: it serves."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO)
    with plants.until_split_brain(scene):
        stale_node_alone(scene)


@pytest.mark.planted("I1", "I2", "I3", "I6", "I8", "I11", "scenario")
def test_planted_wrong_node_serves(scene: Scene) -> None:
    """Scenario 7, and the node that boots first ignores whose the lock is: it serves."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO)
    with plants.until_split_brain(scene):
        wrong_node_boots_first(scene)


@pytest.mark.planted("I6")
def test_planted_long_grace(scene: Scene) -> None:
    """Scenario 8, and a node that is alone waits minutes instead of seconds."""
    scene.programs.change(scene.roles()[0], defects.GRACE_IN_MINUTES)
    with plants.then_healed(scene):
        both_off(scene, "active")


@pytest.mark.planted("I3", "scenario")
def test_planted_sent_again(scene: Scene) -> None:
    """Scenario 10, and a write that was not answered is sent again: it is there twice."""
    scene.programs.change(scene.roles()[0], defects.SENDS_AGAIN)
    with plants.then_healed(scene):
        lost_reply(scene)


@pytest.mark.planted("I8")
def test_planted_never_releases(scene: Scene) -> None:
    """Scenario 13, and a lock that the kernel never used is not given back."""
    scene.programs.change(scene.roles()[0], defects.NEVER_RELEASES)
    link_back(scene)


# If the cut lasts longer than T_grace after the release, the standby takes over as well.
@pytest.mark.planted("I4", "I7", "I12", may=["I1", "I2", "I6", "I8", "I11"])
def test_planted_release_whatever_came(scene: Scene) -> None:
    """Scenario 14, and a release gives back the new fence too: it looked before, and waited."""
    scene.programs.change(scene.roles()[0], defects.RELEASES_WHATEVER_CAME)
    release_races_fence(scene)


@pytest.mark.planted("I5")
def test_planted_no_removal_after_pause(scene: Scene) -> None:
    """Scenario 15, and the resumed node's removal of itself does nothing: it goes on to answer reads."""
    active, _ = scene.roles()
    plants.no_removal(scene, active)
    with plants.then_removed(scene, active):
        pause(scene, 30)


@pytest.mark.planted("I1", "I2", "I3", "I6", "I8", "I11", "scenario")
def test_planted_revived_disk_claims(scene: Scene) -> None:
    """Scenario 18, and the standby forgets that its disk failed, and ignores whose the lock is: it serves."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO, defects.TOMBSTONE_IN_RUN)
    with plants.until_split_brain(scene):
        disk_of_standby_fails(scene)


@pytest.mark.planted("I1", "I2", "I3", "I6", "I8", "I11", "scenario")
def test_planted_left_disk_claims(scene: Scene) -> None:
    """Scenario 19, and the former active node forgets that its disk is behind, and ignores whose the lock is."""
    scene.programs.change(scene.roles()[0], defects.IGNORES_SOLO, defects.TOMBSTONE_IN_RUN)
    with plants.until_split_brain(scene):
        disk_of_active_is_gone(scene)


@pytest.mark.planted("I3", "scenario", may=["I6"])  # whether it is promoted is a race with the heal
def test_planted_target_claims(scene: Scene) -> None:
    """Scenario 22, and half a replica may ask for the lock, and gets it whoever has it."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO, defects.CLAIMS_WITH_ANY_DISK)
    with plants.then_healed(scene):
        target_dies(scene)


@pytest.mark.planted("I3", "scenario", may=["I6"])  # whether it is promoted is a race with the heal
def test_planted_target_left_alone_claims(scene: Scene) -> None:
    """Scenario 23, and half a replica may ask for the lock, and gets it whoever has it."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO, defects.CLAIMS_WITH_ANY_DISK)
    with plants.then_healed(scene):
        source_dies(scene)


@pytest.mark.planted("I6", "scenario")
def test_planted_no_reconciliation(scene: Scene) -> None:
    """Scenario 25, and an agent that starts on a Primary takes it that all runs there."""
    scene.programs.change(scene.roles()[1], defects.STARTS_ONLY_AFTER_ITS_OWN_PROMOTION)
    with plants.until_overdue(scene):
        agent_killed(scene)


# Whether DRBD calls the replicas diverged or unrelated (I2) depends on how many generations they still know.
@pytest.mark.planted("I1", "I8", "I11", "scenario", may=["I2", "I6"])
def test_planted_restored_node_serves(scene: Scene) -> None:
    """Scenario 42, and the standby attaches whatever is on its disks: alone, it serves yesterday's data."""
    standby = scene.roles()[1]
    scene.programs.change(standby, defects.ATTACHES_WHATEVER_IS_THERE)
    with plants.until_serving(scene, standby):
        node_restored_alone(scene)


@pytest.mark.planted("I3", "scenario", may=["I6"])  # whether it is promoted is a race with the heal
def test_planted_rebooted_claims(scene: Scene) -> None:
    """Scenario 47, and the standby ignores that it left, and whose the lock is."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO, defects.CLAIMS_WITH_ANY_DISK)
    with plants.then_healed(scene):
        standby_rebooted(scene, "standby")


@pytest.mark.planted("I8")
def test_planted_never_stays(scene: Scene) -> None:
    """Scenario 47, and the standby does not say that it is back: the lock is never given back."""
    scene.programs.change(scene.roles()[1], defects.NEVER_STAYS)
    standby_rebooted_unseen(scene)


@pytest.mark.planted("I1", "I2", "I3", "I6", "I8", "I11", "scenario")
def test_planted_detached_claims(scene: Scene) -> None:
    """Scenario 48, and the standby ignores whose the lock is: it serves."""
    scene.programs.change(scene.roles()[1], defects.IGNORES_SOLO)
    with plants.until_split_brain(scene):
        standby_detached(scene)


@pytest.mark.planted("scenario")
def test_planted_takes_over_from_newer(scene: Scene) -> None:
    """The other node's LXD is older, and nothing keeps it from taking over what a newer one served."""
    scene.programs.change(scene.roles()[0], defects.TAKES_OVER_FROM_NEWER)
    older_lxd(scene)
