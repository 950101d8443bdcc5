"""What a scenario plays on: the pair, the client outside it, the recorder, the faults, and the audit at the end."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from lab.deadline import Deadline, time_scale, wait_until
from lab.errors import HapairError
from lab.hosts.site import Site
from lab.providers.base import Lab
from lab.scenario import examine, invariants
from lab.scenario.clocks import Clocks
from lab.scenario.faults import Faults, heal_all
from lab.scenario.history import Event, History
from lab.scenario.observed import NODES, Expectation, Facts, boots, faults
from lab.scenario.place import Place
from lab.scenario.program_faults import ProgramFaults
from lab.scenario.recorder import Recorder
from lab.scenario.report import Result, result, write_atomically
from lab.scenario.store_faults import StoreFaults
from lab.scenario.verdict import Outcome, Verdict
from lab.scenario.workload import Load, Workload, install, page

SETTLED_S = 5.0  # what is older than this has reached the history from every source
WATCH_EVERY_S = 1.0
HEAL_S = 90.0
SWITCHOVER_S = 60.0
STOP_S = 15.0
ROLES_S = 15.0
CLEAR_S = 15.0
REFUSALS = (
    *("has every acknowledged write", "own data is not good enough", "this disk failed once"),
    "is older than the one attached last",
)
"""What `hapair status` says of a node that must not serve: the lock (F6), its data (F5), its tombstone (F4), or that
its data were put back (F9)."""


class Pair(Protocol):
    """What a scenario asks of the pair as a whole (`lab.providers.pair` has the real one)."""

    @property
    def lab(self) -> Lab:
        """The nodes and cables."""

    @property
    def site(self) -> Site:
        """The site file that the pair was rendered from."""

    def serving(self) -> str | None:
        """Return the node whose container answers the third node just now, or None."""

    def switchover(self, resource: str, deadline: Deadline) -> str:
        """Move a resource to the other node in good order; return the node that serves then."""


class Broken(HapairError):
    """An invariant was violated while a scenario was still waiting for something."""


class Scene:
    """One scenario from its set-up to its verdict."""

    def __init__(
        self, pair: Pair, name: str, folder: Path, *, seed: int, load: Load | None = None, since: float = 0.0
    ) -> None:
        """Prepare; everything that the scenario leaves behind goes into `folder`.

        `since` is the wall time at which another scenario on the same pair ended, or 0.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.pair, self.name, self.folder = pair, name, folder
        self.place = Place.of(pair.site)
        self.random = random.Random(f"{seed}/{name}")  # noqa: S311 - repeatable on purpose
        self.history = History(folder / "history.jsonl")
        self.faults = Faults(pair.lab, self.history)
        self.store = StoreFaults(pair.lab, self.history, self.place)
        self.programs = ProgramFaults(pair.lab, self.history)
        self.expectation = Expectation()
        third = pair.lab.nodes["third"]
        self.clocks = Clocks(self.history)
        self.workload = Workload(third, self.clocks, self.history, self.place, load or Load())
        self.recorder = Recorder(pair.lab, self.history, folder, self.clocks, since=since)
        self.baseline: tuple[str, ...] = ()
        self._watched = 0.0

    @property
    def lab(self) -> Lab:
        """The nodes and cables."""
        return self.pair.lab

    def begin(self) -> None:
        """Heal everything, follow everything, and start to write.

        Raises:
            TimedOut: no write was acknowledged although the pair was up.
        """
        owners = {str(node.uuid): name for name, node in self.pair.site.nodes.items()}
        self.history.note("scenario", "begin", name=self.name, owners=owners, grace_s=self.pair.site.times.grace_s)
        self.recorder.start()
        heal_all(self.lab)
        self.store.heal()
        third = self.lab.nodes["third"]
        install(third)
        self.clocks.read(third)
        self.baseline = tuple((page(third, f"http://{self.place.address}/cgi-bin/read") or "").splitlines())
        for followed in NODES:
            self._wait(f"somebody follows the DRBD events of {followed}", partial(_follows, followed), 20.0)
        began = time.time()
        self.workload.start()
        self.wait_acks(1, since=began)

    def expect(
        self,
        *,
        recovery_s: float,
        failovers: int | None,
        gap_s: float | None = None,
        fences: tuple[str, ...] = (),
        may_fail: tuple[str, ...] = (),
        window_s: float = 0.0,
        thaw_s: float = 0.0,
        split_brain: bool = False,
    ) -> None:
        """State what this scenario allows; seconds are stretched by the one multiplier of every time limit."""
        scale = time_scale()
        gap = None if gap_s is None else gap_s * scale
        allowed = (fences, may_fail, window_s * scale, thaw_s * scale, split_brain)
        self.expectation = Expectation(recovery_s * scale, failovers, gap, *allowed)
        self.history.note("scenario", "expect", **asdict(self.expectation))

    def roles(self, *, limit_s: float = ROLES_S) -> tuple[str, str]:
        """Return (active node, standby node), as soon as one serves.

        Raises:
            TimedOut: the container answers from neither.
        """
        active = wait_until("a node of the pair serves", self.pair.serving, Deadline.after(limit_s))
        return active, next(node for node in NODES if node != active)

    def switchover(self) -> tuple[str, str]:
        """Move the service to the standby in good order; return (former, new) active node."""
        active, standby = self.roles()
        self.faults.note("switchover", active, leaves=active)
        self.pair.switchover(self.place.resource, Deadline.after(SWITCHOVER_S))
        return active, standby

    def wait_acks(self, count: int, *, limit_s: float = 60.0, since: float | None = None) -> None:
        """Wait until `count` more writes, sent from now (or from the wall time `since`) on, have been acknowledged."""
        left, now = count, time.time() if since is None else since

        def enough(event: Event) -> bool:
            nonlocal left
            left -= event.source == "client" and event.kind == "ack" and event.number("started") >= now
            return left <= 0

        self._wait(f"{count} more writes are acknowledged", enough, limit_s)

    def wait_ack_of(self, node: str, *, limit_s: float = 60.0) -> None:
        """Wait until that node acknowledges a write that is sent from now on."""
        now = time.time()

        def wanted(event: Event) -> bool:
            if event.source != "client" or event.kind != "ack" or event.number("started") < now:
                return False
            return boots(self.history.events()).get(event.text("boot")) == node

        self._wait(f"{node} acknowledges a write", wanted, limit_s)

    def wait_read_of(self, node: str, *, since: int) -> Event:
        """Wait until a read has been answered by that node."""

        def wanted(event: Event) -> bool:
            return event.kind == "id" and boots(self.history.events()).get(event.text("boot")) == node

        return self.wait_event(f"{node} answers a read", wanted, since=since)

    def wait_boot_of(self, node: str, *, limit_s: float = 60.0) -> None:
        """Wait until that node has booted since the last fault that hit it."""
        hit = max((fault.t for fault in faults(self.history.events()) if fault.text("node") == node), default=0.0)
        self._wait(f"{node} has booted anew", lambda e: e.source == node and e.kind == "boot" and e.t > hit, limit_s)

    def wait_event(self, what: str, wanted: Callable[[Event], bool], *, since: int, limit_s: float = 30.0) -> Event:
        """Wait for an event that arrived after `since` (a mark of the history); `what` completes "waiting until …"."""
        return self.history.wait(what, wanted, Deadline.after(limit_s), mark=since, meanwhile=self._watch)

    def wait_peer_lost(self, node: str, *, since: int) -> Event:
        """Wait until DRBD on that node has lost its peer."""
        return self.wait_event(f"{node} has lost its peer", partial(_connection, node, False), since=since)

    def wait_connected(self, node: str, *, since: int) -> Event:
        """Wait until DRBD on that node is connected again."""
        return self.wait_event(f"{node} is connected", partial(_connection, node, True), since=since)

    def wait_solo(self, node: str, *, since: int) -> Event:
        """Wait until the store has made the lock SOLO of that node."""
        return self.wait_event(f"{node} holds the lock", partial(self._solo, node), since=since)

    def wait_decision(self, node: str, text: str, *, since: int, limit_s: float = 30.0) -> Event:
        """Wait until that node logs a decision in whose words `text` occurs."""

        def wanted(event: Event) -> bool:
            return event.source == node and event.kind == "decision" and text in str(event)

        return self.wait_event(f"{node} decides: {text}", wanted, since=since, limit_s=limit_s)

    def wait_refusal(self, node: str, *, booted_since: int | None, limit_s: float = 60.0) -> str:
        """Wait until a node that is alone says that it must not serve, and return its words.

        What lock, tombstone or data forbid counts; that it waits T_grace does not.

        Args:
            booted_since: a mark of the history after which it has booted; None: it has not.

        Raises:
            HapairError: it took the lock, or became Primary, instead.
            TimedOut: it says nothing of the kind.
        """
        there = self.lab.nodes[node]
        since = self.history.mark() if booted_since is None else booted_since
        if booted_since is not None:
            self.wait_event(f"{node} is up", partial(_boots, node), since=booted_since, limit_s=limit_s)

        def refuses() -> str:
            for event in self.history.since(since):
                if self._solo(node, event) or _promotes(node, event):
                    raise HapairError(f"{node} has to refuse, but takes over: {event}")
            try:
                text = there.run(["hapair", "status"], limit_s=15, check=False).text
            except HapairError:
                return ""
            return text if any(why in text for why in REFUSALS) else ""

        return wait_until(f"{node} refuses to serve", refuses, Deadline.after(limit_s), pause_s=0.3)

    def acks_between(self, start: float, end: float | None) -> int:
        """Return how many writes that were sent after `start` have been acknowledged by `end` (None: so far).

        A tenth of a second at both ends is left out: they are times of a node's clock, a write's are the client's.
        """
        done = [e for e in self.history.events() if e.source == "client" and e.kind == "ack"]
        return sum(e.number("started") > start + 0.1 and (end is None or e.t < end - 0.1) for e in done)

    def _solo(self, node: str, event: Event) -> bool:
        if event.source != "store" or event.kind != "request" or event.text("method") != "PUT":
            return False
        after = event.data.get("after")
        return (
            isinstance(after, Mapping)
            and after.get("state") == "SOLO"
            and self.place.owners[str(after["owner"])] == node
        )

    def wait_healed(self, *, limit_s: float = HEAL_S) -> None:
        """Wait until both nodes are Connected and UpToDate again, and the lock is SHARED."""
        examine.wait_healed(self.lab, self.place, Deadline.after(limit_s), meanwhile=self._watch)

    def clear_tombstone(self, node: str) -> None:
        """Do as a person does when a disk that had failed is whole again: it may claim from now on (F4)."""
        self.lab.nodes[node].run(["hapair", "clear-tombstone", self.place.resource], limit_s=CLEAR_S)

    def finish(self, error: str = "") -> Result:
        """Heal, stop writing, ask for the final facts, collect everything, and judge.

        `error` says what ended the scenario itself, if anything did.
        """
        impairments = examine.impairments(self.lab)
        try:
            heal_all(self.lab)
            self.store.heal()
            examine.wait_healed(self.lab, self.place, Deadline.after(10.0 if error else HEAL_S))
        except HapairError as late:
            self.history.note("scenario", "not_healed", why=late.message)
        self.workload.stop(Deadline.after(STOP_S))
        facts = examine.facts(
            self.lab, self.place, baseline=self.baseline, impairments=impairments, tell=self._unanswered
        )
        self.clocks.read(self.lab.nodes["third"])
        self.recorder.stop(Deadline.after(STOP_S))
        self.history.note("scenario", "end", error=error)
        self.history.close()
        events = self.history.events()
        verdicts = invariants.audit(events, facts, self.expectation)
        drawn = result(self.name, events, facts, verdicts, error)
        self._keep(facts, drawn.invariants)
        return drawn

    def _wait(self, what: str, wanted: Callable[[Event], bool], limit_s: float) -> None:
        self.history.wait(what, wanted, Deadline.after(limit_s), meanwhile=self._watch)

    def _unanswered(self, why: str) -> None:
        self.history.note("lab", "unanswered", why=why)

    def _watch(self) -> None:
        """Judge what is settled, at most once a second: a violation ends the wait, not the time limit."""
        now = time.time()
        if now - self._watched < WATCH_EVERY_S:
            return
        self._watched = now
        settled = [event for event in self.history.events() if event.t < now - SETTLED_S]
        place = self.place
        facts = Facts(macs=place.macs, owners=place.owners, clients=place.clients, lock_name=place.lock_name)
        for name, check in invariants.WATCHED.items():
            verdict = invariants.guarded(check, settled, facts, self.expectation)
            if verdict.outcome is Outcome.INVALID:
                raise Broken(f"{name}: {verdict.why}")

    def _keep(self, facts: Facts, verdicts: Mapping[str, Verdict]) -> None:
        """Write down what was judged, beside the history: lists that stand there too are left out."""
        short = replace(
            facts,
            nodes={},
            macs=dict(facts.macs),
            owners=dict(facts.owners),
            clients=dict(facts.clients),
            lock=dict(facts.lock) if facts.lock else None,
        )
        data = {**asdict(short), "nodes": {name: asdict(node) for name, node in facts.nodes.items()}}
        write_atomically(self.folder / "facts.json", json.dumps(data, indent=1, default=str) + "\n")
        why = {name: {"outcome": v.outcome.value, "why": v.why} for name, v in verdicts.items()}
        write_atomically(self.folder / "verdict.json", json.dumps(why, indent=1) + "\n")


def _connection(node: str, connected: bool, event: Event) -> bool:
    if event.source != node or event.kind != "drbd" or event.text("object") != "connection":
        return False
    now = event.text("connection")
    return bool(now) and (now == "Connected") is connected


def _promotes(node: str, event: Event) -> bool:
    return event.source == node and event.text("object") == "resource" and event.text("role") == "Primary"


def _boots(node: str, event: Event) -> bool:
    return event.source == node and event.kind == "boot"


def _follows(node: str, event: Event) -> bool:
    return event.source == node and event.kind == "follow" and event.text("stream") == "events2"
