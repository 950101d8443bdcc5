"""Faults as context managers over the nodes and cables: put in place on entry, healed on exit, noted in the history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from lab.providers.base import CLEAN, Direction, Impairment, Lab
from lab.scenario.history import Event, History

CUT = Impairment(up=False)


def heal_all(lab: Lab) -> None:
    """Make every link whole, thaw every frozen node, power on every node that is off."""
    for link in lab.status().links:
        if link.outward != CLEAN or link.inward != CLEAN:
            lab.set_link(link.node, link.network, "both", CLEAN)
    for node in lab.nodes.values():
        if node.state() == "frozen":
            node.thaw()
        if node.state() == "off":
            node.power_on()


class Faults:
    """The faults of one scenario.

    `leaves` names the node that the service has to leave because of the fault: the outage then ends with the first
    acknowledgement of the other node.
    """

    def __init__(self, lab: Lab, history: History) -> None:
        self.lab, self.history = lab, history

    def note(self, name: str, node: str, *, leaves: str = "") -> None:
        """Note something that happens by itself from now on, such as a planned move."""
        noted(self.history, time.time(), name, node, leaves)

    @contextmanager
    def power_loss(self, node: str, *, leaves: str = "") -> Iterator[None]:
        """Cut the power of a node; it is back on the way out."""
        there = self.lab.nodes[node]

        def back() -> None:
            if there.state() == "off":
                there.power_on()

        with placed(self.history, "power_loss", node, there.power_off, back, leaves=leaves):
            yield

    @contextmanager
    def freeze(self, node: str, *, leaves: str = "") -> Iterator[None]:
        """Stop a whole node, as a hypervisor's pause would; it goes on on the way out."""
        there = self.lab.nodes[node]
        with placed(self.history, "freeze", node, there.freeze, there.thaw, leaves=leaves):
            yield

    @contextmanager
    def cut(self, network: str, nodes: Sequence[str] = ("n1", "n2"), *, leaves: str = "") -> Iterator[None]:
        """Pull the plugs of the named nodes out of a network."""
        with ExitStack() as plugs:
            for node in nodes:
                plugs.enter_context(self.impaired_link(node, network, CUT, name="cut", leaves=leaves))
            yield

    @contextmanager
    def one_way(self, node: str, network: str, direction: Direction = "out", *, leaves: str = "") -> Iterator[None]:
        """Lose every frame in one direction ("out": those that the node sends)."""
        with self.impaired_link(node, network, CUT, direction=direction, name=f"one_way_{direction}", leaves=leaves):
            yield

    @contextmanager
    def impaired_link(
        self,
        node: str,
        network: str,
        impairment: Impairment,
        *,
        direction: Direction = "both",
        name: str = "impairment",
        leaves: str = "",
    ) -> Iterator[None]:
        """Delay, lose, duplicate, reorder or slow down the frames of one node on one network."""

        impair = partial(self.lab.set_link, node, network, direction, impairment)
        heal = partial(self.lab.set_link, node, network, direction, CLEAN)
        with placed(self.history, f"{name}_{network}", node, impair, heal, leaves=leaves):
            yield

    def reboot(self, node: str, *, leaves: str = "") -> None:
        """Reboot a node in good order; it comes back by itself."""
        began = time.time()
        self.lab.nodes[node].run(["systemctl", "--no-block", "reboot"], limit_s=10.0)
        noted(self.history, began, "reboot", node, leaves)


@contextmanager
def placed(
    history: History, name: str, node: str, put: Callable[[], None], heal: Callable[[], None], *, leaves: str = ""
) -> Iterator[None]:
    """Put a fault in place, note it, and heal it on the way out, whatever happened meanwhile."""
    began = time.time()
    try:
        put()
        noted(history, began, name, node, leaves)
        yield
    finally:
        heal()
        history.note("scenario", "heal", name=name, node=node)


def noted(history: History, began: float, name: str, node: str, leaves: str = "") -> None:
    """Note a fault at the moment when it began; `placed` is when it was complete."""
    fields = {"name": name, "node": node, "leaves": leaves, "placed": time.time()}
    history.append(Event(began, "scenario", "fault", fields))
