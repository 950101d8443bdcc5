"""F11: an older LXD never opens what a newer one has served."""

import pytest

from lab.scenario import unlike
from lab.scenario.scene import Scene


@pytest.mark.scenario()
def test_older_lxd(scene: Scene) -> None:
    """The active node dies, and the other one's LXD is older: it does not take over before a person insists."""
    older, newer = scene.roles()
    resource = scene.place.resource
    scene.expect(recovery_s=60, failovers=2)
    scene.wait_acks(10)

    with unlike.newer_lxd(scene, newer):
        scene.faults.note("switchover", older, leaves=older)
        scene.lab.nodes[older].run([resource, "secondary", "--anyway"], limit_s=60)
        scene.wait_ack_of(newer)
        scene.wait_acks(10)
        with scene.faults.power_loss(newer, leaves=newer):
            mark = scene.history.mark()
            scene.wait_decision(older, "served last", since=mark)
            roles = [event.text("role") for event in scene.history.since(mark) if event.source == older]
            assert "Primary" not in roles, "it was promoted, and told afterwards that it must not be"
            scene.faults.note("insists", older)
            scene.lab.nodes[older].run([resource, "primary", "--anyway"], limit_s=90)
            scene.wait_ack_of(older)
            scene.wait_acks(10)

    scene.wait_healed()
    scene.wait_acks(10)
