"""A split brain, forced: how to make one, to see it, and to recover from it.

With fencing in force there is none. So the standby is made to break every rule: its agent is stopped without leaving,
its DRBD told not to care about fencing, and it is promoted and written to while the crossover is cut. The active node
stays as it is: its handler takes the lock, and it serves on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lab.deadline import Deadline, wait_until
from lab.hosts.render import render
from lab.hosts.site import AfterSplitBrain
from lab.hosts.tree import File
from lab.providers.base import Node
from lab.scenario.history import Event
from lab.scenario.observed import NODES
from lab.scenario.scene import Scene

AGENT = "hapair-agent.service"
DROP_IN = f"/run/systemd/system/{AGENT}.d/no-leave.conf"
MOUNT = "/run/other-replica"
NAME = "written-by-the-standby"
SAVED = "/var/lib/hapair/discarded"
LIMIT_S = 30.0
SEEN_S = 30.0
COMPARE_S = 60.0


@contextmanager
def policies(scene: Scene, wanted: Mapping[str, str]) -> Iterator[None]:
    """Have other after-sb policies in force; a scenario that succeeds leaves the site's own behind."""
    set_policies(scene, wanted)
    yield
    own = scene.pair.site.resources[scene.place.resource].after_sb
    set_policies(scene, own.model_dump())


def set_policies(scene: Scene, policies: Mapping[str, str]) -> None:
    """Render the resource with other after-sb policies, put it onto both nodes, and let DRBD take it up."""
    site, name = scene.pair.site, scene.place.resource
    resource = site.resources[name].model_copy(update={"after_sb": AfterSplitBrain.model_validate(policies)})
    changed = site.model_copy(update={"resources": {**site.resources, name: resource}})
    path = f"/etc/drbd.d/{name}.res"
    for node in NODES:
        entry = render(changed, node).entries[path]
        if isinstance(entry, File):
            scene.lab.nodes[node].put(entry.data, path)
        _run(scene.lab.nodes[node], "drbdadm", "adjust", name)


@contextmanager
def agents_stopped(scene: Scene, *nodes: str) -> Iterator[None]:
    """Stop agents without their leaving, as nothing but a mistake would; they are back on the way out."""
    for node in nodes:
        stop_agent(scene, node)
    try:
        yield
    finally:
        for node in nodes:
            there = scene.lab.nodes[node]
            _run(there, "rm", "-f", DROP_IN)
            _run(there, "systemctl", "daemon-reload")
            _run(there, "systemctl", "start", AGENT)


def stop_agent(scene: Scene, node: str) -> None:
    """Stop the agent of a node without its leaving; the node's next boot starts it again."""
    there = scene.lab.nodes[node]
    there.put(b"[Service]\nExecStop=\n", DROP_IN)
    _run(there, "systemctl", "daemon-reload")
    _run(there, "systemctl", "stop", AGENT)


def stop_services(scene: Scene, node: str) -> None:
    """Stop LXD, unmount and demote on a node whose agent is stopped."""
    there, name = scene.lab.nodes[node], scene.place.resource
    there.run(["systemctl", "stop", f"{name}lxd.service"], limit_s=2 * LIMIT_S)
    _run(there, "sh", "-c", f"findmnt -rno TARGET -R {scene.place.mount} | sort -r | xargs -r umount")
    _run(there, "drbdadm", "secondary", name)


def write_on_standby(scene: Scene, standby: str) -> None:
    """Promote the standby although the active node serves, and write a file to its replica."""
    there, name = scene.lab.nodes[standby], scene.place.resource
    resource = scene.pair.site.resources[name]
    _run(there, "drbdsetup", "disk-options", f"{resource.minor}", "--fencing=dont-care")
    _run(there, "drbdadm", "primary", name)
    _run(there, "mkdir", "-p", MOUNT)
    _run(there, "mount", resource.device, MOUNT)
    _run(there, "sh", "-c", f"echo diverged > {MOUNT}/{NAME} && sync -f {MOUNT}")


def step_down(scene: Scene, standby: str) -> None:
    """Unmount the standby's replica and demote it."""
    there = scene.lab.nodes[standby]
    there.run(["umount", MOUNT], limit_s=LIMIT_S, check=False)  # not mounted any more: nothing to do
    _run(there, "drbdadm", "secondary", scene.place.resource)


@contextmanager
def diverged(scene: Scene, active: str, standby: str, *, writes: int = 20) -> Iterator[None]:
    """Cut the crossover and write on both sides, at least so often on the active one.

    When the body has ended the replicas meet again.
    """
    with scene.faults.cut("crossover", (standby,)):
        wait_cut(scene)
        scene.wait_ack_of(active)
        write_on_standby(scene, standby)
        scene.wait_acks(writes)
        yield


def wait_cut(scene: Scene) -> None:
    """Wait until both nodes have noticed that the crossover is cut."""
    for node in NODES:
        wait_connection(scene, node, "WFConnection")


def wait_connection(scene: Scene, node: str, wanted: str, *, limit_s: float = SEEN_S) -> None:
    """Wait until DRBD's connection state on a node is the wanted one."""
    there, name = scene.lab.nodes[node], scene.place.resource
    what = f"{name} on {node} is {wanted}"
    # Asked again and again: the history has changes only, and the state may be there already.
    wait_until(what, lambda: cstate(there, name) == wanted, Deadline.after(limit_s), pause_s=0.2)


def wait_apart(scene: Scene) -> list[str]:
    """Wait until DRBD has dropped the connection because of a split brain; return the nodes that stand alone.

    The one that finds it out first may hang up on the other, which goes on to wait for a connection then.
    """
    name = scene.place.resource

    def alone() -> list[str]:
        states = {node: cstate(scene.lab.nodes[node], name) for node in NODES}
        settled = set(states.values()) <= {"StandAlone", "WFConnection"}
        return [node for node, state in states.items() if settled and state == "StandAlone"]

    return wait_until("a node stands alone", alone, Deadline.after(SEEN_S), pause_s=0.2)


def cstate(node: Node, resource: str) -> str:
    """Return DRBD's connection state of a resource on a node."""
    return node.run(["drbdadm", "cstate", resource], limit_s=LIMIT_S, check=False).text.strip()


def wait_alert(scene: Scene, node: str) -> Event:
    """Wait until a node has raised the alert of a split brain; return its event."""

    def raised(event: Event) -> bool:
        return event.source == node and event.kind == "decision" and event.text("outcome") == "split brain"

    return scene.history.wait(f"{node} raises the alert", raised, Deadline.after(SEEN_S))


def standby_file_is_there(scene: Scene, standby: str) -> bool:
    """Return whether the standby's replica, which is Primary, still has what was written to it."""
    return (
        scene.lab.nodes[standby].run(["cat", f"{MOUNT}/{NAME}"], limit_s=LIMIT_S, check=False).text.strip()
        == "diverged"
    )


def recover(scene: Scene, victim: str) -> str:
    """Give up the victim's replica as docs/failover.md says; return the copy of it on the victim's root disk."""
    name = scene.place.resource
    told = ["hapair", "recover-split-brain", name, "--victim", victim, "--confirm", victim]
    step_down(scene, victim)
    said = scene.lab.nodes[victim].run([*told, "--save", SAVED], limit_s=2 * LIMIT_S).text
    for node in NODES:
        # One that still waits for its peer has met it by now.
        if node != victim and cstate(scene.lab.nodes[node], name) == "StandAlone":
            _run(scene.lab.nodes[node], *told)
    for node in NODES:
        wait_connection(scene, node, "Connected")
    return said.partition("saved: ")[2].partition(" ")[0]


def compare(scene: Scene, node: str) -> None:
    """Let DRBD compare both replicas block by block; what differs counts as out-of-sync afterwards, for I8 to see."""
    mark, begun = scene.history.mark(), False

    def ended(event: Event) -> bool:
        nonlocal begun
        if event.source != node or event.kind != "drbd":
            return False
        begun = begun or event.text("replication") == "VerifyS"
        return begun and event.text("replication") == "Established"

    _run(scene.lab.nodes[node], "drbdadm", "verify", scene.place.resource)
    scene.history.wait("the comparison has ended", ended, Deadline.after(COMPARE_S), mark=mark)


def take_lock(scene: Scene, node: str) -> None:
    """Take the fence lock for a node, by hand."""
    _run(scene.lab.nodes[node], "drbd-fence", "lock", scene.place.resource)


def steal(scene: Scene, node: str, *, owner: str) -> None:
    """Give the lock of a dead owner to another node, as a person does (F8)."""
    there, name = scene.lab.nodes[node], scene.place.resource
    epoch = json.loads(there.run(["drbd-fence", "status", name, "--json"], limit_s=LIMIT_S).stdout)["epoch"]
    scene.faults.note("override", node)  # I3 allows its changes of the lock from here on
    told = ["--epoch", f"{epoch}", "--owner", owner, "--reason", "its power was cut", "--confirm", name]
    there.run(
        ["drbd-fence", "steal", name, *told, "--powered-off-proof", "the lab switched it off"], limit_s=2 * LIMIT_S
    )


def wait_refused(scene: Scene, node: str, *, owner: str) -> None:
    """Wait until a node that does not see its peer says that it does not serve because the lock is the peer's."""
    there, name = scene.lab.nodes[node], scene.place.resource

    def refused() -> bool:
        said = there.run(["hapair", "status", "--json"], limit_s=LIMIT_S, check=False)
        if said.code != 0:  # the agent is about to start
            return False
        one = json.loads(said.stdout)["resources"][name]
        lock = one["lock"]
        alone: bool = one["connection"] != "Connected" and one["role"] == "Secondary"
        return alone and (lock["state"], lock.get("owner"), one["rule"]) == ("SOLO", owner, "F6")

    # The status is asked for: a refusal that lasts makes no new event.
    wait_until(f"{node} refuses to serve, the lock being {owner}'s", refused, Deadline.after(SEEN_S), pause_s=0.3)


def _run(node: Node, *argv: str) -> None:
    node.run(argv, limit_s=LIMIT_S)
