"""The recipe's stumbling block: "failed to create file backup.yaml: no such file"."""

from __future__ import annotations

import pytest

from lab.deadline import Deadline, wait_until
from lab.proc import Completed
from lab.providers.base import Node
from lab.scenario.scene import Scene
from lab.scenario.workload import page

TRIES = 3
ENDED = (124, 137)
"""What timeout(1) says of a program that it had to end, and to kill."""
SECOND = "192.0.2.89"  # of the LAN, used by nobody else (RFC 5737)


@pytest.mark.scenario()
def test_launch_on_drbd(scene: Scene) -> None:
    """`lxc launch` on the pool on DRBD works and answers; with a relative LXD_DIR the same LXD refuses to work."""
    active, _ = scene.roles()
    scene.expect(recovery_s=10, failovers=0, gap_s=10)
    node, lxc = scene.lab.nodes[active], scene.place.resource
    third = scene.lab.nodes["third"]

    launch(node, lxc, "c2", SECOND, scene.place.lan)
    # It has been started by now, but its server may not listen yet.
    wait_until("the new container answers", lambda: page(third, f"http://{SECOND}/cgi-bin/id"), Deadline.after(30))

    # LXD 5.0.2's daemon does not even start: it cannot open its own database.
    daemon = relative_daemon(node)
    assert daemon.code == 1, f"lxd runs with a relative LXD_DIR: {daemon.text}"
    assert "unable to open database file: no such file or directory" in daemon.text, daemon.text

    # An older one starts, and links containers/NAME relatively: such a link dangles, and whatever writes through it
    # fails with the recipe's message.
    link = f"{scene.place.lxd_dir}/containers/c2"
    good = node.run(["readlink", link], limit_s=10).text
    assert good.startswith("/"), f"{link} is a relative link: {good}"
    node.run(["ln", "-sfn", good.lstrip("/"), link], limit_s=10)
    refused = node.run([lxc, "lxc", "config", "set", "c2", "user.note", "x"], limit_s=30, check=False)
    node.run(["ln", "-sfn", good, link], limit_s=10)
    assert refused.code != 0, "LXD wrote through a link that dangles"
    assert b"backup.yaml" in refused.stderr, refused.stderr.decode()

    node.run([lxc, "lxc", "delete", "--force", "c2"], limit_s=60)
    scene.wait_acks(20)


def launch(node: Node, lxc: str, name: str, address: str, parent: str) -> None:
    """Launch a container from the writer's image, with a static address of its own."""
    node.run([lxc, "lxc", "profile", "create", name], limit_s=30)
    card = ["nic", "nictype=routed", f"parent={parent}", f"ipv4.address={address}", "ipv4.neighbor_probe=false"]
    node.run([lxc, "lxc", "profile", "device", "add", name, "eth0", *card], limit_s=30)
    node.run([lxc, "lxc", "launch", "writer", name, "-p", "default", "-p", name], limit_s=90)


def relative_daemon(node: Node) -> Completed:
    """Run LXD's daemon on a folder of its own, named relatively from a place where that name leads to it.

    Now and then LXD 5.0.2 that has failed hangs in its own shutdown and has not said why; then it is run again.
    """
    run = "LXD_DIR=lxd timeout --kill-after=5 25 lxd --group lxd 2>&1"
    script = f"rm -rf /run/relative && mkdir -p /run/relative/lxd && cd /run/relative && {run}"
    for _ in range(TRIES):
        done = node.run(["sh", "-c", script], limit_s=60, check=False)
        if done.code not in ENDED:
            break
    return done
