"""The resident agent: follows DRBD's events, asks the policy, and has its actions carried out.

One thread decides. Each resource has three lanes (threads): control (DRBD and the lock), services (mount and LXD), and
one that watches the lock. A lane runs one action list at a time and stops it at the first action that is not done.
Self-removal waits for no lane.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import select
import signal
import sys
import threading
import time
from dataclasses import replace
from typing import Any, Callable

from hapair import notify, policy, preflight, proc
from hapair.actions import LOCK_KINDS, SERVICE_KINDS, Action, Kind, Outcome
from hapair.alike import Alike
from hapair.arp import announce
from hapair.config import Config, Resource
from hapair.decisions import DecisionLog
from hapair.events import BadLine, Event, World, apply, parse
from hapair.executor import Executor
from hapair.fence.site import fence_of
from hapair.guards import Guards
from hapair.hooks import Hooks
from hapair.incarnation import Incarnation, unjudged
from hapair.lag import Lag
from hapair.lane import Lane
from hapair.lock import Claim
from hapair.memory import RETRY_S, Memory, Wish, answered, begin, looked, settled, wished
from hapair.paths import Paths
from hapair.removal import Remover
from hapair.server import Request, Server
from hapair.services import Services
from hapair.states import Disk, Kernel, Observation, Role
from hapair.status import resource_status
from hapair.watchdog import Watchdog

EVENTS = ("drbdsetup", "events2", "--timestamps")
RESTART_EVENTS_S = 0.3
"""Pause before a lost event stream is started again."""
FALL_BACK_S = 1.0
"""How long the agent is blind before it reads /proc/drbd instead of the event stream, and how often."""
SWITCH_S = 0.0005
"""How long another thread may go on in Python while the deciding one wants to; Python's own 5 ms add up."""
LONGEST_PAUSE_MS = 3_600_000
ANNOUNCE_PAUSE_S = 0.5
ANNOUNCEMENTS = 20
"""Gratuitous ARP goes out this often, from the moment LXD is up: containers start a little later, frames get lost."""

Post = Callable[[Callable[[], None]], None]


class Checked:
    """F11's cheap part, looked at again whenever a file of DRBD's configuration changes, and while it is refused."""

    def __init__(self, config: Config, resource: str, paths: Paths, post: Post) -> None:
        self._config, self._resource, self._paths, self._post = config, resource, paths, post
        self._signature: object = None
        self._text = policy.LOOKING
        self._running = False
        self._again_at = 0.0
        self.fault = ""

    def refused(self) -> str:
        """Return what is wrong, as far as known; a look that is due begins in a thread of its own."""
        signature = preflight.signature(self._paths)
        due = signature != self._signature or (self._text and time.monotonic() >= self._again_at)
        if due and not self._running:
            self._signature, self._running = signature, True
            threading.Thread(target=self._look, name=f"{self._resource}-preflight", daemon=True).start()
        return self.fault or self._text

    def _look(self) -> None:
        try:
            text = "; ".join(one.line() for one in preflight.cheap(self._config, self._resource, self._paths))
        except preflight.Unreadable as bad:
            # drbdadm cannot bring up or promote what it cannot read: then its own words are the better ones.
            sys.stderr.write(f"preflight of {self._resource}: {bad}\n")
            text = ""
        self._post(lambda: self._seen(text))

    def _seen(self, text: str) -> None:
        self._text, self._running, self._again_at = text, False, time.monotonic() + RETRY_S


class Unit:
    """One resource under the agent's care."""

    def __init__(self, config: Config, resource: Resource, paths: Paths, post: Post, log: DecisionLog) -> None:
        self.config, self.resource, self.paths, self.log = config, resource, paths, log
        self.site = config.settings(resource.name)
        self.fence = fence_of(config, resource.name, paths)
        self.guards = Guards(paths, resource.name, resource.minor)
        self.services = Services(resource, paths)
        self.memory: Memory = begin(time.monotonic())
        self.lxd_active: bool | None = None
        self.request: Request | None = None
        self.kernel: Kernel | None = None
        self._post = post
        self._said: tuple[object, ...] = ()
        self._judged: tuple[object, ...] = ()
        self.checked = Checked(config, resource.name, paths, post)
        self.alike = Alike(config, resource.name, paths, self._not_told)
        self._anyway = False
        executor = Executor(
            resource.name,
            self.fence,
            self.guards,
            self.services,
            paths=paths,
            claim=self._claim,
            incarnation=Incarnation(config, resource.name, paths),
        )
        self.control = Lane(f"{resource.name}-control", executor, self._told, self._control_idle)
        self.serving = Lane(f"{resource.name}-services", executor, self._told, self._services_idle)
        self.watching = Lane(f"{resource.name}-watch", executor, self._told, self._watch_idle)
        self.hooks = Hooks(resource, paths, log)
        self.hooks.start()
        self.control.start()
        self.serving.start()
        self.watching.start()

    def observe(self, kernel: Kernel | None, complete: bool) -> Observation:
        """Look at everything the policy wants to know; only tmpfs and the root disk are read."""
        self.kernel = kernel
        self.alike.look()
        return Observation(
            complete=complete,
            kernel=kernel,
            note=self.fence.note(),
            tombstone=self.paths.tombstone(self.resource.name).exists(),
            split_brain=self.paths.split_brain(self.resource.name).exists(),
            refused=self.checked.refused(),
            unjudged=self._unjudged(),
            mounted=self.services.mounted(),
            lxd_active=self.lxd_active,
            control_busy=self.control.busy,
            services_busy=self.serving.busy,
            watch_busy=self.watching.busy,
        )

    def _unjudged(self) -> str:
        found = unjudged(self.paths, self.resource.name)
        attached = self.kernel is not None and any(one.disk is not Disk.DISKLESS for one in self.kernel.volumes)
        return found.why if found is not None and attached else ""

    def dispatch(self, actions: tuple[Action, ...]) -> None:
        """Hand the actions to their lanes."""
        for lane in (self.serving, self.watching, self.control):
            mine = tuple(action for action in actions if self._lane_of(action.kind) is lane)
            if mine:
                lane.start_list(mine)

    def _lane_of(self, kind: Kind) -> Lane:
        if kind in (Kind.WATCH_LOCK, Kind.JUDGE):
            return self.watching
        return self.serving if kind in SERVICE_KINDS else self.control

    def take_up(self, request: Request) -> None:
        """Let a person's or the shutdown's request be the one in progress."""
        self.request, self._anyway = request, request.anyway
        self.memory = wished(self.memory, request.wish, time.monotonic())

    def _claim(self) -> Claim:
        """Say what this node would serve with (in a lane's thread)."""
        return Claim(self.alike.schema(), self._anyway and self.request is not None)

    def _not_told(self, why: str) -> None:
        self.log.add(self.resource.name, rule="F11", action="tell the peer what runs here", outcome="failed", why=why)

    def _told(self, outcome: Outcome) -> None:
        """Log an outcome (in the lane's thread) and have it remembered."""
        self._post(lambda: self._remember(outcome))
        action = outcome.action
        if action.rule == "F8":
            # A peer that was paused or cut off may have answered for our addresses meanwhile: neighbours forget that.
            self._announce_once()
        said = (action.kind, outcome.verdict, outcome.text, outcome.record)
        if (action.kind in LOCK_KINDS or action.kind is Kind.UP) and said == self._said:
            # A lock that is watched, or waited for, every T_watch is told once; so is what keeps DRBD from coming up.
            return
        if action.kind is Kind.JUDGE:
            # It goes on beside all else, so that the last thing told is seldom its own.
            if said == self._judged:
                return
            self._judged = said
        self._said = said
        self.log.add(
            self.resource.name,
            rule=action.rule,
            action=action.kind.value,
            outcome=outcome.verdict.value,
            why="; ".join(filter(None, (action.why, outcome.text))),
            took_s=time.monotonic() - outcome.began,
        )

    def _remember(self, outcome: Outcome) -> None:
        self.memory = answered(self.memory, outcome, self.site, time.monotonic())

    def _control_idle(self) -> None:
        self._post(lambda: setattr(self.control, "busy", False))

    def _watch_idle(self) -> None:
        self._post(lambda: setattr(self.watching, "busy", False))

    def _services_idle(self) -> None:
        """Look what runs now (in the lane's thread), then let the policy go on."""
        active = self.services.lxd_active()
        self._post(lambda: self._services_seen(active))

    def _services_seen(self, active: bool) -> None:
        began_to_run = active and not self.lxd_active
        self.lxd_active = active
        self.serving.busy = False
        if began_to_run:
            threading.Thread(target=self._announce, name="announce", daemon=True).start()

    def _announce(self) -> None:
        for _ in range(ANNOUNCEMENTS):
            self._announce_once()
            # Repeated on purpose: nothing tells when a container is up, nor that a neighbour has heard.
            time.sleep(ANNOUNCE_PAUSE_S)

    def _announce_once(self) -> None:
        """Announce the addresses, if this node serves; never otherwise (I5)."""
        if self.kernel is not None and self.kernel.role is Role.PRIMARY and self.lxd_active:
            with contextlib.suppress(OSError):
                announce(self.resource.lan_interface, self.resource.addresses)


class Agent:
    """All resources of this node; `run` returns on SIGTERM, or once everything has left (`leave_only`)."""

    def __init__(self, config: Config, paths: Paths) -> None:
        self.log = DecisionLog(paths.decisions)
        self._events_log = DecisionLog(paths.events, journal=False)
        self.watchdog = Watchdog(paths, config.watchdog_s)
        self.remover = Remover(paths, self.log, self.watchdog)
        self._config, self._paths = config, paths
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stream: proc.Stream | None = None
        self._pending = b""
        self._unlogged: list[str] = []
        self._world = World()
        self._blind_since = time.monotonic()
        self._restart_at = 0.0
        self._stop = False
        self.units = {name: Unit(config, one, paths, self.post, self.log) for name, one in config.resources.items()}
        for unit in self.units.values():
            unit.checked.fault = self.watchdog.fault
        self._tick_s = notify.watchdog_pause_s()
        self._tick_at = 0.0
        self._lag = Lag()

    def post(self, call: Callable[[], None]) -> None:
        """Have `call` run in the deciding thread, soon."""
        self._inbox.put(call)
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b".")

    def run(self, *, leave_only: bool = False) -> int:
        """Decide until told to stop; with `leave_only` all resources leave, without listening for requests."""
        with contextlib.ExitStack() as open_things:
            mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            open_things.callback(os.close, mounts)
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            poll.register(mounts, select.POLLPRI | select.POLLERR)
            if leave_only:
                self.request(Request.quiet(Wish.LEAVE, tuple(self.units)))
            else:
                server = open_things.enter_context(Server(self._paths.socket, self))
                server.start()
                notify.notify("READY=1")
            open_things.callback(self._close_stream)
            while not self._stop:
                self._follow(poll)
                self._step()
                self._timed()
                self._tell_others()
                if leave_only and all(unit.memory.left for unit in self.units.values()):
                    break
                ready = dict(poll.poll(self._pause_ms()))
                if mounts in ready:
                    os.lseek(mounts, 0, os.SEEK_SET)
                    os.read(mounts, 1)
                if self._stream is not None and self._stream.fd in ready:
                    self._read_events(poll)
                if self._woken in ready:
                    os.read(self._woken, 4096)
                while not self._inbox.empty():
                    self._inbox.get()()
        if not any(unit.kernel is not None and unit.kernel.role is Role.PRIMARY for unit in self.units.values()):
            # A Primary that nobody watches stays under the watchdog, and ends with it.
            self.watchdog.release()
        return 0

    def stop(self) -> None:
        """End `run` soon; DRBD, the lock and the services stay as they are."""
        self.post(lambda: setattr(self, "_stop", True))

    def request(self, request: Request) -> None:
        """Take up a wish for one or more resources (in the deciding thread)."""
        for name in request.resources:
            unit = self.units[name]
            seen = unit.observe(*self._kernel(name))
            refused = policy.refusal(unit.site, seen, unit.memory, request.wish)
            if refused:
                request.finish(name, ok=False, text=refused)
                continue
            if unit.request is not None:
                unit.request.finish(name, ok=False, text=f"{name}: given up for {request.wish.value}")
            unit.take_up(request)

    def status(self) -> dict[str, Any]:
        """Return what people want to know (in the deciding thread)."""
        return {
            "node": self._config.node,
            "peer": self._config.peer,
            "self_removal": self.remover.armed,
            "watchdog": self.watchdog.armed,
            "event_to_decision_ms": self._lag.report(),
            "resources": {
                name: resource_status(self._config, unit.observe(*self._kernel(name)), unit.memory, time.monotonic())
                for name, unit in self.units.items()
            },
        }

    # --- the loop's parts ---

    def _step(self) -> None:
        """Let the policy decide for every resource."""
        for name, unit in self.units.items():
            now = time.monotonic()
            kernel, complete = self._kernel(name)
            seen = unit.observe(kernel, complete)
            actions, unit.memory = policy.decide(unit.site, seen, unit.memory, now)
            removal = next((action for action in actions if action.kind is Kind.REMOVE_NODE), None)
            if removal is not None:
                self.remover.remove(name, removal.rule, removal.why)
                continue
            unit.dispatch(actions)
            if unit.request is not None:
                self._answer_request(unit, unit.request, unit.observe(kernel, complete), now)

    def _tell_others(self) -> None:
        """Log what DRBD told, and let the hooks know: after the decision, which their threads would only hold up."""
        for line in self._unlogged:
            self._events_log.line(line)
        self._unlogged.clear()
        for name, unit in self.units.items():
            kernel, complete = self._kernel(name)
            if complete:
                unit.hooks.look(kernel)

    def _timed(self) -> None:
        """Measure how long ago drbdsetup told the event that was just decided upon."""
        late = self._lag.decided()
        if late:
            self.log.add("*", rule="events", action="decide", outcome="late", why=late, took_s=self._lag.last_s)

    def _answer_request(self, unit: Unit, request: Request, seen: Observation, now: float) -> None:
        name = unit.resource.name
        granted = policy.granted(seen, unit.memory, request.wish)
        if granted:
            request.finish(name, ok=True, text=f"{name}: {request.wish.value} done")
        elif now >= request.due:
            request.finish(name, ok=False, text=f"{name}: gave up after {request.limit_s:g} s: {unit.memory.waiting}")
        else:
            request.progress(f"{name}: {unit.memory.waiting}" if unit.memory.waiting else "")
            return
        unit.request = None
        unit.memory = settled(unit.memory, granted=granted)

    def _kernel(self, name: str) -> tuple[Kernel | None, bool]:
        """Return the resource's state and whether it can be relied on; /proc/drbd stands in for a lost stream."""
        if self._world.complete:
            return self._world.resources.get(name), True
        if time.monotonic() < self._blind_since + FALL_BACK_S:
            return None, False
        kernel = self.units[name].guards.kernel()
        return (replace(kernel, name=name), True) if kernel is not None else (None, False)

    def _follow(self, poll: select.poll) -> None:
        """Start the event stream unless it runs."""
        if self._stream is not None or time.monotonic() < self._restart_at:
            return
        self._world, self._pending = World(), b""
        try:
            self._stream = proc.stream(EVENTS)
            proc.ahead(self._stream.pid)
        except OSError as bad:
            self._lost(f"{EVENTS[0]}: {bad}")
            return
        poll.register(self._stream.fd, select.POLLIN)

    def _read_events(self, poll: select.poll) -> None:
        """Apply all lines that are there; a line that makes no sense, or the end, means: dump and reconcile."""
        assert self._stream is not None  # noqa: S101 - the caller polled it
        try:
            data = os.read(self._stream.fd, 65536)
        except BlockingIOError:
            return
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        try:
            for raw in lines:
                line = raw.decode(errors="replace")
                self._lag.told(line)
                self._unlogged.append(line)
                self._apply(parse(line))
            if not data:
                raise BadLine("the event stream ended")
        except BadLine as bad:
            poll.unregister(self._stream.fd)
            self._close_stream()
            self._lost(str(bad))

    def _apply(self, event: Event) -> None:
        """Let no connection that came or went be missed: several lines may have come since the last decision."""
        before, self._world = self._world, apply(self._world, event)
        for name, unit in self.units.items():
            was, kernel = before.resources.get(name), self._world.resources.get(name)
            if before.complete and was is not None and kernel is not None and was.connected != kernel.connected:
                unit.memory = looked(unit.memory, kernel, time.monotonic())

    def _lost(self, why: str) -> None:
        if self._world.complete:
            self._blind_since = time.monotonic()
        self._world = World()
        self._restart_at = time.monotonic() + RESTART_EVENTS_S
        self.log.add("*", rule="events", action="follow DRBD's events again", outcome="now", why=why)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _pause_ms(self) -> int | None:
        """Tick the watchdog, and return how long to sleep at most; None while only events matter."""
        now = time.monotonic()
        moments = [unit.memory.wake_at for unit in self.units.values() if unit.memory.wake_at is not None]
        moments += [unit.request.due for unit in self.units.values() if unit.request is not None]
        if self._tick_s is not None:
            if now >= self._tick_at:
                notify.notify("WATCHDOG=1")
                self._tick_at = now + self._tick_s
            moments.append(self._tick_at)
        fed_at = self.watchdog.feed(now)
        if fed_at is not None:
            moments.append(fed_at)
        if self._stream is None:
            moments.append(self._restart_at)
        if not self._world.complete:
            moments.append(now + FALL_BACK_S)
        if not moments:
            return None
        return min(LONGEST_PAUSE_MS, max(0, int((min(moments) - now) * 1000) + 1))


def main(config: Config, paths: Paths) -> int:
    """Run the agent as a service: locked in memory, ended by SIGTERM."""
    _lock_memory()
    sys.setswitchinterval(SWITCH_S)
    agent = Agent(config, paths)
    agent.post(proc.ahead)  # in the loop, when all threads that carry out and read have been started
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: agent.stop())
    return agent.run()


def _lock_memory() -> None:
    """F10: the agent must not wait for swapped-out pages. As pages come (MCL_ONFAULT), so that stacks stay small."""
    threading.stack_size(1024 * 1024)  # a cloud store's SDK goes deep, above all where Python's own calls use it too
    current, future, on_fault = 1, 2, 4
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).mlockall(current | future | on_fault)
