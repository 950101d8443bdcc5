"""Nodes that are not alike: one with other id maps, or with an LXD that makes newer databases."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager

from lab.deadline import Deadline
from lab.errors import HapairError
from lab.scenario.faults import placed
from lab.scenario.history import Event
from lab.scenario.scene import Scene

SUBUID = "/etc/subuid"
LXD = "/usr/bin/lxd"
OTHER = "/run/lxd.newer"
LIMIT_S = 30.0
BACK_S = 60.0
TOLD_S = 40.0  # the agent looks at its files whenever it wakes, and systemd's watchdog wakes it
Fault = AbstractContextManager[None]


def other_id_maps(scene: Scene, node: str) -> Fault:
    """Give a node another range of ids, as a second container manager on it might; returns when it has told that."""
    there = scene.lab.nodes[node]
    before = there.get(SUBUID)

    def put() -> None:
        mark = scene.history.mark()
        there.put(before.replace(b"root:1000000:", b"root:2000000:"), SUBUID)
        _wait_told(scene, node, mark)

    def heal() -> None:
        mark = scene.history.mark()
        there.put(before, SUBUID)
        _wait_told(scene, node, mark)

    return placed(scene.history, "other_id_maps", node, put, heal)


def newer_lxd(scene: Scene, node: str) -> Fault:
    """Give a node that does not serve an LXD of the next schema; returns when it has told that.

    There is no second LXD that fits the lab's Go libraries, so it is the same one, with another number where its
    program says what it makes new databases of. It opens those that there are as before.
    """
    there = scene.lab.nodes[node]

    def put() -> None:
        mark = scene.history.mark()
        number = int(re.findall(r"\d+", fingerprint(scene, node, "LXD schema"))[-1])
        edit = f"s/VALUES ({number}, strftime/VALUES ({number + 1}, strftime/"
        script = f"cp {LXD} {OTHER}; sed -i '{edit}' {OTHER}; mount --bind {OTHER} {LXD}"
        there.run(["sh", "-ec", script], limit_s=LIMIT_S)
        _wait_told(scene, node, mark)

    def heal() -> None:
        there.wait_ready(Deadline.after(BACK_S))
        mark = scene.history.mark()
        # After a boot it is gone, and the node has told that by itself.
        if there.run(["umount", "--lazy", LXD], limit_s=LIMIT_S, check=False).code == 0:
            there.run(["rm", "-f", OTHER], limit_s=LIMIT_S)
            _wait_told(scene, node, mark)

    return placed(scene.history, "newer_lxd", node, put, heal)


def fingerprint(scene: Scene, node: str, name: str) -> str:
    """Return what `hapair preflight` on a node says of something that must be the same on both."""
    resource = scene.place.resource
    done = scene.lab.nodes[node].run(["hapair", "preflight", resource, "--json"], limit_s=LIMIT_S, check=False)
    return str(json.loads(done.stdout)["resources"][resource]["fingerprints"][name])


def refused(scene: Scene, node: str, *words: str) -> None:
    """Ask the active node to step down; it must refuse in these words, and stop nothing.

    Raises:
        HapairError: it stepped down, or said something else.
    """
    mark = scene.history.mark()
    done = scene.lab.nodes[node].run([scene.place.resource, "secondary"], limit_s=2 * LIMIT_S, check=False)
    said = done.stderr.decode(errors="replace")
    if done.code == 0 or not all(word in said for word in ("nothing was stopped", *words)):
        raise HapairError(f"{node} has to refuse the switchover, but: {said or done.text}")
    scene.wait_decision(node, "not alike", since=mark)
    stopped = [event for event in scene.history.since(mark) if event.text("action") == "stop the services"]
    if stopped:
        raise HapairError(f"{node} stopped its services before it refused: {stopped[0]}")


def _wait_told(scene: Scene, node: str, mark: int) -> None:
    name = f"{scene.place.lock_name}.{node}"

    def told(event: Event) -> bool:
        written = event.source == "store" and event.kind == "request" and event.text("method") == "PUT"
        return written and event.text("name") == name

    scene.wait_event(f"{node} tells what it runs", told, since=mark, limit_s=TOLD_S)
