"""Faults that a person puts in place from the command line, and that stay until `lab.heal`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lab.errors import BadInput
from lab.providers.base import Direction, Impairment, Lab


@dataclass(frozen=True)
class Fault:
    """A named fault: what it does, and how."""

    text: str
    inject: Callable[[Lab, str], None]


def _link(network: str, impairment: Impairment, direction: Direction = "both") -> Callable[[Lab, str], None]:
    def inject(lab: Lab, node: str) -> None:
        lab.set_link(node, network, direction, impairment)

    return inject


CUT = Impairment(up=False)
SLOW = Impairment(delay_s=0.05, jitter_s=0.02)
LOSSY = Impairment(loss=0.1, duplicate=0.02, reorder=0.02)

FAULTS: Mapping[str, Fault] = {
    "power-off": Fault("cut the node's power", lambda lab, node: lab.nodes[node].power_off()),
    "freeze": Fault("stop the node in its tracks", lambda lab, node: lab.nodes[node].freeze()),
    "panic": Fault("crash the node's kernel", lambda lab, node: lab.nodes[node].sysrq("c")),
    "cut-crossover": Fault("unplug the node from the crossover", _link("crossover", CUT)),
    "cut-lan": Fault("unplug the node from the LAN", _link("lan", CUT)),
    "deaf-crossover": Fault("lose what the crossover brings the node", _link("crossover", CUT, "in")),
    "mute-crossover": Fault("lose what the node sends on the crossover", _link("crossover", CUT, "out")),
    "slow-crossover": Fault("delay the crossover by 50 ± 20 ms each way", _link("crossover", SLOW)),
    "lossy-crossover": Fault("lose 10 % on the crossover, duplicate and reorder 2 %", _link("crossover", LOSSY)),
}


def inject(lab: Lab, name: str, node: str) -> Fault:
    """Put the fault called `name` in place on a node.

    Raises:
        BadInput: there is no such fault or node.
    """
    if name not in FAULTS:
        listing = "\n".join(f"    {known:<16} {fault.text}" for known, fault in FAULTS.items())
        raise BadInput(f"no fault is called {name!r}; there are\n{listing}", "name one of these")
    if node not in lab.nodes:
        raise BadInput(f"the lab has no node {node!r}", f"name one of {', '.join(lab.nodes)}")
    FAULTS[name].inject(lab, node)
    return FAULTS[name]
