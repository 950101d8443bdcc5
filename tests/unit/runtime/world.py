"""A tiny world for the policy: two nodes with a model of DRBD 8.4, one store that can fail, and the real code between.

`policy`, `rules`, `memory`, `fencing`, `fence_peer` and `lock` run unchanged; kernel, services and time are modelled.
Every acknowledged write, promotion and lock version is checked as it happens; a broken invariant raises `Broken`.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from hapair.lock import first
from hapair.paths import Paths
from hapair.states import (
    Connection,
    Disk,
    Role,
    Settings,
    Times,
)

from .model_node import Node
from .model_store import Broken, MemoryStore

TIMES = Times(selffence_s=3.0, grace_s=7.5, watch_s=2.0, stop_s=20.0, start_s=60.0)


class World:
    """Both nodes, the link, the store, the clock, and everything that may happen."""

    def __init__(self, folder: Path) -> None:
        self.now = 100.0
        self.log: list[str] = []
        self.link = True
        self.acknowledged: set[int] = set()
        self.numbers = itertools.count(1)
        self.generations = itertools.count(2)
        self.store = MemoryStore()
        record = first("r0", me=self.settings("n1").me, attempt_id="init", time=0.0)
        self.store.write("example-r0", record.to_bytes(), None, 1.0)
        self.incarnations = {"n1": 0, "n2": 0}
        self.nodes: dict[str, Node] = {}
        for name in ("n1", "n2"):
            self.nodes[name] = Node(self, name, Paths(folder / name))

    @staticmethod
    def settings(name: str) -> Settings:
        """Return the site as `name` sees it; n1 is preferred."""
        peer = "n2" if name == "n1" else "n1"
        return Settings("r0", f"uuid-{name}", f"uuid-{peer}", peer, name == "n1", TIMES)

    def say(self, text: str) -> None:
        """Keep the story for a failed test."""
        self.log.append(f"{self.now:8.2f} {text}")

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def step(self) -> None:
        """Everything that happens by itself, once: handshakes, looks, and one action of each lane."""
        self.handshake()
        for node in self.nodes.values():
            node.decide()
        for node in self.nodes.values():
            if node.agent_up:
                node.act(node.control)
            if node.agent_up:
                node.act(node.services)
                node.act(node.watch)

    def settle(self, seconds: float, pause: float = 0.25) -> None:
        """Let things run for a while: nothing is broken, connections are noticed."""
        for _ in range(int(seconds / pause)):
            self.notice()
            for node in self.nodes.values():
                node.handler_runs()
            self.finish_resync()
            self.step()
            self.pass_time(pause)

    def notice(self) -> None:
        """Both sides see what became of the connection."""
        for node in self.nodes.values():
            gone = not self.link or not node.peer.up or node.peer.connection is not Connection.CONNECTED
            if node.up and gone:
                node.lose_connection()

    def handshake(self) -> None:
        """Connect two nodes that look for each other, and decide who is the source of data."""
        one, two = self.nodes.values()
        looking = all(n.up and n.drbd_up and n.connection is Connection.CONNECTING for n in (one, two))
        if not self.link or not looking:
            return
        source = self._source(one, two)
        both = one.role is two.role is Role.PRIMARY
        if both or (source is not None and source.peer.role is Role.PRIMARY):
            one.connection = two.connection = Connection.STANDALONE
            self.say("the kernel refuses the connection")
            return
        for node in (one, two):
            node.connection, node.outdated, node.peer_outdated = Connection.CONNECTED, False, False
            node.disk = node.peer_disk = Disk.UP_TO_DATE
        if source is not None:
            target = source.peer
            target.inconsistent, target.disk, source.peer_disk = True, Disk.INCONSISTENT, Disk.INCONSISTENT
        for node in (one, two):
            node.crashed_primary = False
            if "fencing" in node.suspended:
                node.peer.data |= node.unconfirmed
                node.suspended.discard("fencing")
                if not node.suspended and node.peer_disk is Disk.UP_TO_DATE:
                    node._acknowledge(node.unconfirmed)
                node.unconfirmed = set()
        self.say(f"connected, source {source.name if source else 'none'}")

    @staticmethod
    def _source(one: Node, two: Node) -> Node | None:
        if one.inconsistent or two.inconsistent:
            if one.inconsistent and two.inconsistent:
                raise Broken("both replicas inconsistent")
            return two if one.inconsistent else one
        if one.generation == two.generation:
            if one.crashed_primary != two.crashed_primary:
                return one if one.crashed_primary else two
            return None
        if one.generation in two.past:
            return two
        if two.generation in one.past:
            return one
        raise Broken(f"split brain: {one.generation} {one.past} and {two.generation} {two.past}")

    def finish_resync(self) -> None:
        """The target has caught up."""
        for node in self.nodes.values():
            if node.inconsistent and node.connection is Connection.CONNECTED and self.link and node.peer.up:
                source = node.peer
                if source.connection is not Connection.CONNECTED:
                    continue
                node.data = set(source.data)
                node.generation, node.past = source.generation, list(source.past)
                node.inconsistent = False
                node.disk = source.peer_disk = Disk.UP_TO_DATE

    def write(self) -> None:
        """Somebody writes, wherever a container runs."""
        for node in self.nodes.values():
            node.write(next(self.numbers))

    def serving(self) -> list[str]:
        """Return the nodes that can acknowledge a write now."""
        return [
            name
            for name, node in self.nodes.items()
            if node.up and node.role is Role.PRIMARY and node.mounted and node.lxd and not node.suspended
        ]
