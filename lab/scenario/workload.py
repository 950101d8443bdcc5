"""The client outside both nodes: acknowledged writes and probes on the third node, fed into the history."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from lab.deadline import Deadline
from lab.errors import BadInput, HapairError
from lab.paths import PROJECT
from lab.providers.base import Node
from lab.scenario.clocks import Clocks
from lab.scenario.follow import Follower
from lab.scenario.history import Event, History
from lab.scenario.place import Place

CLIENT = "/run/hapair-lab-client.py"


@dataclass(frozen=True)
class Load:
    """How hard to write: workers, seconds between two writes of one worker, seconds until a write counts as lost."""

    workers: int = 2
    interval_s: float = 0.1
    timeout_s: float = 2.0


class Workload:
    """The two client programs on the third node; one scenario starts and stops them once."""

    def __init__(self, third: Node, clocks: Clocks, history: History, place: Place, load: Load) -> None:
        """Prepare to write to the container of `place`."""
        self.third, self.clocks, self.history = third, clocks, history
        limits = ["--timeout", f"{load.timeout_s:g}", "--interval", f"{load.interval_s:g}"]
        write = ["python3", CLIENT, "write", place.address, "--workers", f"{load.workers}", *limits]
        probe = ["python3", CLIENT, "probe", place.address, "--observer", place.observer]
        # never started again: a sequence number must not be sent twice
        self._writing = Follower(third, "write", lambda: write, self._take, again=False)
        self._probing = Follower(third, "probe", lambda: probe, self._take, again=False)

    def start(self) -> None:
        """Put the program onto the node and start both halves."""
        install(self.third)
        self._writing.start()
        self._probing.start()

    def stop(self, deadline: Deadline) -> None:
        """End both after the requests under way; everything that they saw is in the history afterwards."""
        for half in (self._writing, self._probing):
            half.stop(deadline)

    @property
    def problem(self) -> str:
        """What ended one of the two early, empty when nothing did."""
        return self._writing.problem or self._probing.problem

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(BadInput):
            self.history.append(self.clocks.corrected(Event.from_json(line), self.third.name))


def install(third: Node) -> None:
    """Put the client program onto the third node."""
    third.put((PROJECT / "hostfiles" / "lab" / "client.py").read_bytes(), CLIENT, 0o755)


def page(third: Node, url: str, *, limit_s: float = 10.0) -> str | None:
    """Return a page as the third node sees it, or None when it cannot be had; the program must be installed."""
    try:
        done = third.run(["python3", CLIENT, "get", url, "--timeout", f"{limit_s / 2:g}"], limit_s=limit_s, check=False)
    except HapairError:
        return None
    return done.stdout.decode(errors="replace") if done.code == 0 else None
