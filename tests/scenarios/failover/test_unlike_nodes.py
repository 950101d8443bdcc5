"""Issue 4: a failover between nodes that are not alike is refused before anything is stopped."""

import pytest

from lab.scenario import unlike
from lab.scenario.scene import Scene


@pytest.mark.scenario()
def test_unlike_nodes(scene: Scene) -> None:
    """A switchover to a node with other id maps, or another LXD, is refused and stops nothing; afterwards it works."""
    active, standby = scene.roles()
    scene.expect(recovery_s=20, failovers=1, gap_s=20)
    scene.wait_acks(10)
    what_lxd_says(scene, active)

    with unlike.other_id_maps(scene, standby):
        unlike.refused(scene, active, "id maps: ", "2000000", f"on {standby}")
        scene.wait_ack_of(active)
    with unlike.newer_lxd(scene, standby):
        unlike.refused(scene, active, "LXD schema: ", f"on {standby}")
        scene.wait_ack_of(active)
        scene.wait_acks(10)

    scene.switchover()
    scene.wait_ack_of(standby)
    scene.wait_healed()


def what_lxd_says(scene: Scene, active: str) -> None:
    """What is read from LXD's files is what the running LXD says of itself."""
    node, lxc = scene.lab.nodes[active], scene.place.resource
    for name in ("local", "global"):
        told = node.run([lxc, "lxd", "sql", name, "SELECT max(version) AS version FROM schema"], limit_s=30).text
        number = next(word for word in told.split() if word.isdigit())
        assert f"{name} {number}" in unlike.fingerprint(scene, active, "LXD schema")
    info = node.run([lxc, "lxc", "query", "/1.0"], limit_s=30).text
    assert f'"driver_version": "{unlike.fingerprint(scene, active, "liblxc")}' in info
