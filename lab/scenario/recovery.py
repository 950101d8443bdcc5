"""How long a recovery took, and of what parts: the time from a fault to the first write acknowledged after it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.scenario.history import Event
from lab.scenario.observed import NODES, Ack, boots

MOST_OF_PARTS = 1.25
"""A takeover may last this many times as long as its parts: what is more is time in which nobody did anything."""


@dataclass(frozen=True)
class Parts:
    """What a takeover after a power loss consists of, each measured by itself, in seconds.

    `detection_s`: until DRBD had lost the peer. `grace_s`: T_grace of the site. `mount_s` and `lxd_s`: the starts of
    the two units. `container_s`: from LXD's start to the first answer of the container, 0 if that came first.
    `total_s` is the time from the fault to the first acknowledged write; lock, promotion and whatever lay between the
    parts are in it only.
    """

    detection_s: float
    grace_s: float
    mount_s: float
    lxd_s: float
    container_s: float
    total_s: float

    @property
    def sum_s(self) -> float:
        """All parts together."""
        return self.detection_s + self.grace_s + self.mount_s + self.lxd_s + self.container_s

    @property
    def ratio(self) -> float:
        """The whole, in sums of the parts."""
        return self.total_s / self.sum_s

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} times its parts: detection {self.detection_s:.2f}, T_grace {self.grace_s:g}, mount "
            f"{self.mount_s:.2f}, LXD {self.lxd_s:.2f}, container {self.container_s:.2f} s"
        )


def recovery_s(fault: Event, events: Sequence[Event], done: Sequence[Ack]) -> float | None:
    """Return the seconds from a fault to the first write acknowledged after it, or None.

    A write counts when it was sent after the fault was in place; when the fault makes the service leave a node
    (`leaves`), only an acknowledgement of the other node ends the outage.
    """
    node_of = boots(events)
    placed = fault.number("placed") if fault.number("placed") > fault.t else fault.t
    left = fault.text("leaves")
    counting = (a.t for a in done if a.started >= placed and not (left and node_of.get(a.boot) == left))
    first = min(counting, default=None)
    return None if first is None else first - fault.t


def parts(fault: Event, events: Sequence[Event], took_s: float) -> Parts | None:
    """Return the parts of a takeover after the serving node alone lost its power; None for anything else.

    Raises:
        LookupError: the survivor served, but nobody saw it mount or start LXD, or the history has no T_grace.
    """
    ended = fault.t + took_s
    others = [e for e in events if e.source == "scenario" and fault.t < e.t < ended]  # say, an agent that was killed
    if fault.text("name") != "power_loss" or not fault.text("leaves") or others:
        return None
    survivor = next(node for node in NODES if node != fault.text("leaves"))
    mine = [e for e in events if e.source == survivor]
    if not any(e.text("connection") == "Connected" for e in mine if e.t <= fault.t):
        return None
    since = [e for e in mine if fault.t < e.t <= ended]
    lost = _first("DRBD lose the peer", since, lambda e: e.text("connection") not in ("", "Connected"))
    mounting, mounted = (_unit(since, change, ".mount") for change in ("Mounting", "Mounted"))
    starting = _unit(since, "Starting", "lxd.service")
    boot = {boot for boot, node in boots(events).items() if node == survivor}
    answers = [e for e in events if e.source == "probe" and e.kind == "id" and e.text("boot") in boot]
    answered = _first("the container answer", answers, lambda e: e.t > fault.t)
    # LXD starts its containers before it says that it is up: the first of them may answer earlier.
    up = [e.t for e in since if e.text("change") == "Started" and e.text("unit").endswith("lxd.service")]
    started = min([answered, *up])
    grace_s = next((e.number("grace_s") for e in events if e.kind == "begin" and e.number("grace_s") > 0), None)
    if grace_s is None:
        raise LookupError("the history does not say how long T_grace is")
    return Parts(lost - fault.t, grace_s, mounted - mounting, started - starting, answered - started, took_s)


def _unit(events: Sequence[Event], change: str, unit: str) -> float:
    return _first(f"{change} {unit}", events, lambda e: e.text("change") == change and e.text("unit").endswith(unit))


def _first(what: str, events: Sequence[Event], wanted: Callable[[Event], bool]) -> float:
    found = next((e.t for e in events if wanted(e)), None)
    if found is None:
        raise LookupError(f"nobody saw {what}")
    return found
