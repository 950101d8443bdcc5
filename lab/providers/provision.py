"""The first set-up of a pair, step by step on booted nodes, with the commands an administrator would use."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lab.deadline import Deadline, wait_until
from lab.errors import HapairError
from lab.hosts.site import Resource, Site
from lab.providers.base import Lab, Node

AGENT = "hapair-agent.service"
BOOT_S = 60.0
COMMAND_S = 30.0
LXD_S = 120.0
ANSWERS = """
import http.client, sys, time, urllib.request
while True:
    try:
        print(urllib.request.urlopen(f"http://{sys.argv[1]}/cgi-bin/id", timeout=1).read().decode(), end="")
        break
    except (OSError, http.client.HTTPException):
        time.sleep(0.05)
"""
"""Program for the third node: ends, and prints the boot id, when the container at an address answers; the caller
bounds it. Nothing announces to a client that a server has come up, so it asks again and again."""


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
    fill(lab, site, trees, note)
    note("powering off")
    _each(pair, partial(_run, argv=("systemctl", "enable", AGENT)))
    _each(pair, power_down)
    _run(third, ["sync"])
    third.power_off()


def fill(lab: Lab, site: Site, trees: Mapping[str, bytes], note: Callable[[str], None]) -> None:
    """Make DRBD's disks, the file systems and the containers of a pair that has its files but no agent running yet.

    Args:
        trees: as for `provision`; the third node needs the host programs.
        note: told what is being done.

    Raises:
        CommandFailed: as `provision`.
        TimedOut: as `provision`.
    """
    pair = [lab.nodes[name] for name in site.nodes]
    third = lab.nodes["third"]
    _install_store(third, trees[pair[0].name])
    note("creating DRBD meta-data and connecting")
    for name in site.resources:
        _each(pair, partial(_create_resource, name=name))
        wait_until(f"{name} is connected", partial(_connected, pair, name), Deadline.after(COMMAND_S), pause_s=0.2)
    for name, resource in site.resources.items():
        first = lab.nodes[resource.preferred]
        note(f"making the file system of {name}")
        _make_filesystem(first, name, resource)
        note(f"starting LXD and the containers of {name}")
        _make_containers(first, third, site, name)
        note(f"handing {name} over to the agents")
        _stop_services(first, name, resource)
        _run(first, ["drbd-fence", "init", name])
        _each(pair, partial(_run, argv=("drbdadm", "down", name)))


def start_agents(lab: Lab, site: Site) -> None:
    """Let the agents take the pair over, now and at every boot, and wait until they do.

    Raises:
        CommandFailed: as `provision`.
        TimedOut: an agent did not come up in its bound.
    """
    pair = [lab.nodes[name] for name in site.nodes]
    # Not waiting for the job: an emulated node under load misses the unit's time limit, and systemd starts it again.
    _each(pair, partial(_run, argv=("systemctl", "enable", "--now", "--no-block", AGENT)))
    _each(pair, _wait_agent)


def _wait_agent(node: Node) -> None:
    def active() -> bool:
        return node.run(["systemctl", "is-active", "--quiet", AGENT], limit_s=COMMAND_S, check=False).code == 0

    wait_until(f"the agent of {node.name} runs", active, Deadline.after(BOOT_S), pause_s=0.3)


def without_agent(tree: bytes) -> bytes:
    """Return the archive of a node's files less the link that starts its agent at boot."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tree)) as source, tarfile.open(fileobj=sink, mode="w") as target:
        for member in source:
            if not member.name.endswith(f".wants/{AGENT}"):
                target.addfile(member, source.extractfile(member) if member.isfile() else None)
    return sink.getvalue()


def boot_id(node: Node) -> str:
    """Return the identity of a node's present boot (random(4)), or "" while the node does not answer."""
    try:
        return node.get("/proc/sys/kernel/random/boot_id").decode().strip()
    except HapairError:
        return ""


def _install(node: Node, tree: bytes) -> None:
    """Unpack the rendered files and restart: host name and interface names are read at boot."""
    node.run(["tar", "-C", "/", "--no-same-owner", "-xf", "-"], stdin=tree, limit_s=COMMAND_S)
    # The agent would act on a resource that has no file system yet.
    _run(node, ["systemctl", "disable", AGENT])
    before = boot_id(node)
    node.run(["systemctl", "reboot"], limit_s=COMMAND_S, check=False)
    deadline = Deadline.after(BOOT_S)
    wait_until(f"{node.name} has restarted", lambda: boot_id(node) not in ("", before), deadline, pause_s=0.2)
    # Its exit code tells how well the boot went; here only its end matters: every device is there then.
    node.run(["systemctl", "is-system-running", "--wait"], limit_s=BOOT_S, check=False)


def _install_store(third: Node, tree: bytes) -> None:
    """Give the third node the host programs: its init starts the fence store as soon as they are there."""
    third.run(["tar", "-C", "/", "-xf", "-", "usr/lib/hapair"], stdin=tree, limit_s=COMMAND_S)


def _connected(pair: list[Node], name: str) -> bool:
    states = [node.run(["drbdadm", "cstate", name], limit_s=COMMAND_S).text for node in pair]
    return states == ["Connected"] * len(pair)


def _create_resource(node: Node, name: str) -> None:
    _run(node, ["drbdadm", "create-md", "--force", name])
    _run(node, ["drbdadm", "up", name])


def _make_filesystem(node: Node, name: str, resource: Resource) -> None:
    # Both disks hold nothing yet, so nothing needs a first resync (drbdsetup-8.4(8), new-current-uuid).
    _run(node, ["drbdadm", "new-current-uuid", "--clear-bitmap", f"{name}/0"])
    _run(node, ["drbdadm", "primary", name])
    # -K: a discard of the whole disk would mark all of it for the first resync after a crash.
    _run(node, ["mkfs.btrfs", "-q", "-K", "-L", name, f"/dev/drbd{resource.minor}"])
    _run(node, ["systemctl", "start", f"{name}.mount"])
    _run(node, ["btrfs", "-q", "subvolume", "create", f"{resource.mount}/pools"])
    _run(node, ["mkdir", "-p", f"{resource.mount}/lxd"])


def _make_containers(node: Node, third: Node, site: Site, name: str) -> None:
    node.run(["systemctl", "start", f"{name}lxd.service"], limit_s=LXD_S)
    node.run(["sh", "-c", f"{name} lxd init --preseed < /etc/hapair/{name}.preseed.yaml"], limit_s=LXD_S)
    _run(node, [name, "lxc", "image", "import", "/usr/share/hapair-lab/writer.tar.gz", "--alias", "writer"])
    for container, spec in site.containers.items():
        if spec.resource != name:
            continue
        config = f"/etc/hapair/{container}.container.yaml"
        _run(node, ["sh", "-c", f"{name} lxc init {spec.image} {container} < {config}"])
        _run(node, [name, "lxc", "start", container])
        third.run(["python3", "-c", ANSWERS, str(spec.addresses[0])], limit_s=COMMAND_S)


def _stop_services(node: Node, name: str, resource: Resource) -> None:
    node.run(["systemctl", "stop", f"{name}lxd.service"], limit_s=LXD_S)
    below = f"findmnt -rno TARGET -R {resource.mount} | sort -r | xargs -r umount"
    _run(node, ["sh", "-c", below])
    _run(node, ["drbdadm", "secondary", name])


def power_down(node: Node) -> None:
    """Power a node off in good order; one that is off stays as it is.

    Raises:
        HapairError: it does not answer.
        TimedOut: it is not off in its bound.
    """
    try:
        node.run(["systemctl", "poweroff"], limit_s=COMMAND_S, check=False)
    except HapairError:
        if node.state() != "off":  # it may be before it has answered
            raise
    wait_until(f"{node.name} is off", lambda: node.state() == "off", Deadline.after(BOOT_S))


def _run(node: Node, argv: Sequence[str]) -> None:
    node.run(argv, limit_s=COMMAND_S)


def _each(nodes: list[Node], act: Callable[[Node], None]) -> None:
    """Do the same on several nodes side by side; the first failure is raised once all have ended."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        for done in [pool.submit(act, node) for node in nodes]:
            done.result()
