"""Scenario 25."""

import pytest

from lab.scenario.history import Event
from lab.scenario.scene import Scene

# Nothing announces these two outside the node; the shell looks until it is so.
MOUNTED = "until mountpoint -q /{resource}; do sleep 0.02; done"
STARTED = "until [ $(systemctl show -P ActiveState {resource}lxd.service) != inactive ]; do sleep 0.02; done"


@pytest.mark.scenario(25)
def test_agent_killed(scene: Scene) -> None:
    """During a takeover the agent is killed after the lock, the promotion, the mount and the start: it gets there."""
    active, standby = scene.roles()
    scene.expect(recovery_s=45, failovers=1, gap_s=45, fences=())
    scene.wait_acks(10)
    mark = scene.history.mark()

    def promoted(event: Event) -> bool:
        return event.source == standby and event.text("object") == "resource" and event.text("role") == "Primary"

    with scene.faults.power_loss(active, leaves=active):
        scene.wait_solo(standby, since=mark)
        scene.programs.kill_agent(standby)
        scene.wait_event(f"{standby} is promoted", promoted, since=mark)
        scene.programs.kill_agent(standby)
        for script in (MOUNTED, STARTED):
            text = script.format(resource=scene.place.resource)
            scene.lab.nodes[standby].run(["sh", "-c", text], limit_s=30)
            scene.programs.kill_agent(standby)
        scene.wait_ack_of(standby)

    scene.wait_healed()
    scene.wait_acks(10)
