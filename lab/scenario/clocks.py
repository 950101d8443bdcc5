"""The nodes' clocks against this machine's: measured at every boot, and taken out of every event's time.

A node of User-Mode Linux reads the host's clock when it boots and counts ticks until its own clock source runs, so
under load it lags by up to some tenths of a second, and then keeps that lag.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.errors import HapairError
from lab.providers.base import Node
from lab.scenario.history import Event, History

TRIES = 3  # the quickest answer says most


@dataclass(frozen=True)
class Offset:
    """By how many seconds a node's clock is ahead of ours, give or take `margin_s`."""

    offset_s: float
    margin_s: float


class Clocks:
    """The offsets of the nodes at present."""

    def __init__(self, history: History, now: Callable[[], float] = time.time) -> None:
        """Begin with nothing measured; each measurement is noted in the history."""
        self._history, self._now = history, now
        self._offsets: dict[str, Offset] = {}
        self._first: set[tuple[str, str]] = set()

    def read(self, node: Node, boot: str = "") -> None:
        """Measure a node's clock. The first measurement of a boot counts; later ones are noted, to show a drift."""
        seen = [offset for _ in range(TRIES) if (offset := self._ask(node)) is not None]
        best = min(seen, key=lambda offset: offset.margin_s, default=None)
        if best is None:
            self._history.note("lab", "clock", node=node.name, boot=boot)
            return
        if (node.name, boot) not in self._first:
            self._first.add((node.name, boot))
            self._offsets[node.name] = best
        fields = {"offset_s": round(best.offset_s, 4), "margin_s": round(best.margin_s, 4)}
        self._history.note("lab", "clock", node=node.name, boot=boot, **fields)

    def corrected(self, event: Event, node: str) -> Event:
        """Return an event that a node's clock has stamped, in our time; `started` and `came` are corrected, too."""
        known = self._offsets.get(node)
        if known is None:
            return event
        began = {key: event.number(key) - known.offset_s for key in ("started", "came") if key in event.data}
        return Event(event.t - known.offset_s, event.source, event.kind, {**event.data, **began})

    def _ask(self, node: Node) -> Offset | None:
        before = self._now()
        try:
            there = node.clock()
        except HapairError:
            return None
        after = self._now()
        return Offset(there - (before + after) / 2, (after - before) / 2)
