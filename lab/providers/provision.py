"""The first set-up of a pair, step by step on booted nodes, with the commands an administrator would use.

The agents must not run meanwhile (see `seed`): they would act on a resource that has no file system yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from lab.deadline import Deadline, wait_until
from lab.errors import HapairError
from lab.hosts.site import Resource, Site
from lab.providers.base import Lab, Node

BOOT_S = 60.0
COMMAND_S = 30.0
LXD_S = 120.0
ANSWERS = "until busybox wget -q -T 1 -O - http://{address}/cgi-bin/id; do sleep 0.1; done"
"""Shell loop that ends, and prints the boot id, when the container at an address answers; the caller bounds it."""


def provision(lab: Lab, site: Site, trees: Mapping[str, bytes], note: Callable[[str], None]) -> None:
    """Turn two nodes that hold only the image into the pair of the site file, then power everything off cleanly.

    Args:
        trees: the tar archive of the rendered files of each of the pair's nodes.
        note: told what is being done.

    Raises:
        CommandFailed: a command failed on a node; its text names the command and shows its last lines.
        TimedOut: a node did not answer, or the container did not, in its bound.
    """
    pair = [lab.nodes[name] for name in site.nodes]
    third = lab.nodes["third"]
    note("booting")
    _each([*pair, third], lambda node: node.wait_ready(Deadline.after(BOOT_S)))
    note("installing the rendered files")
    _each(pair, lambda node: _install(node, trees[node.name]))
    _install_store(third, trees[pair[0].name])
    note("creating DRBD meta-data and connecting")
    for name in site.resources:
        _each(pair, lambda node, name=name: _create_resource(node, name))
        _each(pair, lambda node, name=name: _run(node, "drbdadm", "wait-connect", name))
    for name, resource in site.resources.items():
        first = lab.nodes[resource.preferred]
        note(f"making the file system of {name}")
        _make_filesystem(first, name, resource)
        note(f"starting LXD and the containers of {name}")
        _make_containers(first, third, site, name)
        note(f"handing {name} over to the agents")
        _stop_services(first, name, resource)
        _run(first, "drbd-fence", "init", name)
        _each(pair, lambda node, name=name: _run(node, "drbdadm", "down", name))
    note("powering off")
    _each(pair, _power_down)
    _run(third, "sync")
    third.power_off()


def boot_id(node: Node) -> str:
    """Return the identity of a node's present boot (random(4)), or "" while the node does not answer."""
    try:
        return node.get("/proc/sys/kernel/random/boot_id").decode().strip()
    except HapairError:
        return ""


def _install(node: Node, tree: bytes) -> None:
    """Unpack the rendered files and restart: host name and interface names are read at boot."""
    node.run(["tar", "-C", "/", "--no-same-owner", "-xf", "-"], stdin=tree, limit_s=COMMAND_S)
    before = boot_id(node)
    node.run(["systemctl", "reboot"], limit_s=COMMAND_S, check=False)
    deadline = Deadline.after(BOOT_S)
    wait_until(f"{node.name} has restarted", lambda: boot_id(node) not in ("", before), deadline, pause_s=0.2)


def _install_store(third: Node, tree: bytes) -> None:
    """Give the third node the host programs, for the fence store, and start it as its init does at every boot."""
    third.run(["tar", "-C", "/", "-xf", "-", "usr/lib/hapair"], stdin=tree, limit_s=COMMAND_S)
    _run(third, "/usr/lib/hapair-lab/start-store")


def _create_resource(node: Node, name: str) -> None:
    _run(node, "drbdadm", "create-md", "--force", name)
    _run(node, "drbdadm", "up", name)


def _make_filesystem(node: Node, name: str, resource: Resource) -> None:
    # Both disks hold nothing yet, so nothing needs a first resync (drbdsetup-8.4(8), new-current-uuid).
    _run(node, "drbdadm", "new-current-uuid", "--clear-bitmap", f"{name}/0")
    _run(node, "drbdadm", "primary", name)
    # -K: a discard of the whole disk would mark all of it for the first resync after a crash.
    _run(node, "mkfs.btrfs", "-q", "-K", "-L", name, f"/dev/drbd{resource.minor}")
    _run(node, "systemctl", "start", f"{name}.mount")
    _run(node, "btrfs", "-q", "subvolume", "create", f"{resource.mount}/pools")
    _run(node, "mkdir", "-p", f"{resource.mount}/lxd")


def _make_containers(node: Node, third: Node, site: Site, name: str) -> None:
    node.run(["systemctl", "start", f"{name}lxd.service"], limit_s=LXD_S)
    node.run(["sh", "-c", f"{name} lxd init --preseed < /etc/hapair/{name}.preseed.yaml"], limit_s=LXD_S)
    _run(node, name, "lxc", "image", "import", "/usr/share/hapair-lab/writer.tar.gz", "--alias", "writer")
    for container, spec in site.containers.items():
        if spec.resource != name:
            continue
        config = f"/etc/hapair/{container}.container.yaml"
        _run(node, "sh", "-c", f"{name} lxc init {spec.image} {container} < {config}")
        _run(node, name, "lxc", "start", container)
        third.run(["sh", "-c", ANSWERS.format(address=spec.addresses[0])], limit_s=COMMAND_S)


def _stop_services(node: Node, name: str, resource: Resource) -> None:
    node.run(["systemctl", "stop", f"{name}lxd.service"], limit_s=LXD_S)
    below = f"findmnt -rno TARGET -R {resource.mount} | sort -r | xargs -r umount"
    _run(node, "sh", "-c", below)
    _run(node, "drbdadm", "secondary", name)


def _power_down(node: Node) -> None:
    node.run(["systemctl", "poweroff"], limit_s=COMMAND_S, check=False)
    wait_until(f"{node.name} is off", lambda: node.state() == "off", Deadline.after(BOOT_S))


def _run(node: Node, *argv: str) -> None:
    node.run(argv, limit_s=COMMAND_S)


def _each(nodes: list[Node], act: Callable[[Node], None]) -> None:
    """Do the same on several nodes side by side; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        for done in [pool.submit(act, node) for node in nodes]:
            done.result()
