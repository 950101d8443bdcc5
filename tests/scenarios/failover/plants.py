"""Faults planted in the system under test: each breaks one promise, so that one invariant has something to find."""

from __future__ import annotations

from lab.providers.base import Node
from lab.scenario.observed import NODES
from lab.scenario.scene import Scene

LIMIT_S = 30.0
CGI = "{pools}/containers/{container}/rootfs/www/cgi-bin/write"

FORGETS = """\
#!/bin/sh
# Planted: away from its first node, every tenth write is acknowledged without being written.
read -r boot < /proc/sys/kernel/random/boot_id
seq=${{QUERY_STRING%%-*}} nonce=${{QUERY_STRING#*-}}
case $boot/$seq in
    {boot}/*) ;;
    */*0) printf 'Content-Type: text/plain\\r\\n\\r\\n%s %s %s\\n' "$seq" "$nonce" "$boot"; exit 0 ;;
esac
exec /www/cgi-bin/write.real
"""

STALE = """\
#!/bin/sh
# Planted: away from its first node, the last lines are missing at first, and turn up again twenty writes later.
read -r boot < /proc/sys/kernel/random/boot_id
if [ "$boot" != {boot} ]; then
    until mkdir /dev/planted 2> /dev/null; do sleep 0.01; done
    if [ ! -e /dev/late ]; then
        tail -n 5 /data/acks > /dev/late
        head -n -5 /data/acks > /dev/early
        cat /dev/early > /data/acks
    elif [ -s /dev/late ] && [ $(($(wc -l < /data/acks) - $(wc -l < /dev/early))) -ge 20 ]; then
        cat /dev/late >> /data/acks
        : > /dev/late
    fi
    /www/cgi-bin/write.real
    rmdir /dev/planted
    exit 0
fi
exec /www/cgi-bin/write.real
"""


def forgetful_writer(scene: Scene, node: str) -> None:
    """Let the writer acknowledge without writing, as soon as it serves from the other node."""
    _writer(scene, node, FORGETS)


def stale_writer(scene: Scene, node: str) -> None:
    """Let the other node begin without the last lines, and hide that later."""
    _writer(scene, node, STALE)


def broken_fence_handler(scene: Scene, node: str) -> None:
    """Let the fence-peer handler fail at once, while the agent, which would win the lock later, hangs."""
    path = "/usr/lib/hapair/fence-peer"
    there = scene.lab.nodes[node]
    there.run(["rm", "-f", path], limit_s=LIMIT_S)
    there.put(b"#!/bin/sh\n# Planted.\nexit 1\n", path, 0o755)
    # The watchdog ends a hung agent after 5 to 10 s, and the next one would be in time by chance.
    dropin = "/etc/systemd/system/hapair-agent.service.d/planted.conf"
    there.put(b"[Service]\nRestartSec=10\n", dropin)
    there.run(["systemctl", "daemon-reload"], limit_s=LIMIT_S)
    there.run(["systemctl", "kill", "--kill-who=main", "--signal=STOP", "hapair-agent.service"], limit_s=LIMIT_S)


def impostor(scene: Scene, node: str) -> None:
    """Let a node answer ARP for the container's address, as a forgotten proxy entry would."""
    address = f"{scene.place.address}/32"
    scene.lab.nodes[node].run(["ip", "address", "add", address, "dev", scene.place.lan], limit_s=LIMIT_S)


def no_hand_over(scene: Scene, node: str) -> None:
    """Let the agent of a node be killed at shutdown instead of handing over."""
    path = "/etc/systemd/system/hapair-agent.service.d/planted.conf"
    text = "[Service]\nExecStop=\nKillSignal=SIGKILL\n"
    scene.lab.nodes[node].put(text.encode(), path)
    scene.lab.nodes[node].run(["systemctl", "daemon-reload"], limit_s=LIMIT_S)


def relative_lxd_dir(scene: Scene, node: str) -> None:
    """Give LXD's folder of instances what a relative LXD_DIR gives: a relative link that leads nowhere."""
    folder = f"{scene.place.lxd_dir}/containers"
    there = scene.lab.nodes[node]
    there.run(["mv", folder, f"{folder}.real"], limit_s=LIMIT_S)
    there.run(["ln", "-s", f"{folder.lstrip('/')}.real", folder], limit_s=LIMIT_S)


def _writer(scene: Scene, node: str, script: str) -> None:
    """Put a program before the writer's own, on disk for good, on the active node."""
    there: Node = scene.lab.nodes[node]
    path = CGI.format(pools=scene.pair.site.resources[scene.place.resource].pool, container=scene.place.container)
    boot = there.get("/proc/sys/kernel/random/boot_id").decode().strip()
    there.run(["cp", "-a", path, f"{path}.real"], limit_s=LIMIT_S)
    there.put(script.format(boot=boot).encode(), path, 0o755)
    there.run(["sync"], limit_s=LIMIT_S)


def no_flushes(scene: Scene) -> None:
    """Let nobody flush: neither DRBD on either node, nor the file system.

    DRBD's options alone are not enough: it passes on the flushes and FUA writes of the file system whatever they say.
    """
    active, _ = scene.roles()
    for node in NODES:
        options = ["--disk-flushes=no", "--md-flushes=no"]
        minor = scene.pair.site.resources[scene.place.resource].minor
        scene.lab.nodes[node].run(["drbdsetup", "disk-options", f"{minor}", *options], limit_s=LIMIT_S)
    scene.lab.nodes[active].run(["mount", "-o", "remount,nobarrier", scene.place.mount], limit_s=LIMIT_S)


def stall(scene: Scene, node: str, peer: str) -> None:
    """Let a node stand still until its peer has lost it, as one does whose kernel has slept through an interrupt."""
    mark = scene.history.mark()
    scene.lab.nodes[node].freeze()
    try:
        scene.wait_peer_lost(peer, since=mark)
    finally:
        scene.lab.nodes[node].thaw()
    scene.wait_connected(peer, since=mark)
