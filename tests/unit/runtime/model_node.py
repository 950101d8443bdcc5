"""A node of the world model: DRBD 8.4, services and time are modelled, the agent's own code runs unchanged."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hapair import disk_error, fence_peer, policy
from hapair.actions import LOCK_KINDS, SERVICE_KINDS, Action, Kind, Outcome, Verdict
from hapair.executor import VERDICTS
from hapair.fencing import Answer, Fence, Held, replace_file
from hapair.guards import Guards
from hapair.incarnation import Local, Unjudged, late_verdict, mark, successor, unjudged
from hapair.lock import LockState
from hapair.memory import Memory, Wish, answered, begin, settled, wished
from hapair.paths import Paths
from hapair.states import (
    Connection,
    Disk,
    Helper,
    Kernel,
    Observation,
    Replication,
    Role,
    Volume,
)

from .model_store import Broken

if TYPE_CHECKING:
    from .world import World


REPLICA = ("data", "generation", "past", "outdated", "inconsistent", "peer_outdated", "crashed_primary", "incarnation")
"""What stands on the disks of a node."""


@dataclass
class Lane:
    """An action list under way."""

    actions: list[Action] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.actions)


class Node:
    """One node: DRBD's persistent state, the kernel's, the services and the agent."""

    def __init__(self, world: World, name: str, paths: Paths) -> None:
        self.world, self.name, self.paths = world, name, paths
        self.data: set[int] = set()
        self.generation, self.past = 1, [0]
        self.disk, self.outdated, self.inconsistent = Disk.UP_TO_DATE, False, False
        self.peer_outdated = self.crashed_primary = False
        self.incarnation, self.fresh = 0, False
        self.up = False
        self.removed = 0
        self.power_on()

    @property
    def peer(self) -> Node:
        return self.world.nodes["n2" if self.name == "n1" else "n1"]

    def power_on(self) -> None:
        """Boot: meta-data decides what the disk is worth; the agent starts a little later."""
        self.up, self.agent_up, self.drbd_up = True, False, False
        self.role, self.connection = Role.SECONDARY, Connection.STANDALONE
        self.peer_disk, self.suspended = Disk.UNKNOWN, set[str]()
        self.helper: Helper | None = None
        self.mounted = self.lxd = False
        self.unconfirmed: set[int] = set()
        self.paths.note("r0").unlink(missing_ok=True)
        self.paths.unjudged("r0").unlink(missing_ok=True)

    def power_off(self) -> None:
        """Lose power: only meta-data and data survive."""
        if not self.up:
            return
        self.crashed_primary = self.role is Role.PRIMARY
        self.up = self.agent_up = self.drbd_up = False
        self.role, self.connection, self.mounted, self.lxd = Role.SECONDARY, Connection.STANDALONE, False, False

    def snapshot(self) -> dict[str, object]:
        """Copy the replica: data and meta-data, as a storage below it would."""
        return {name: copy.copy(getattr(self, name)) for name in REPLICA}

    def put_back(self, replica: dict[str, object]) -> None:
        """Put a copy of the replica in its place; the node must be off."""
        assert not self.up
        for name, value in replica.items():
            setattr(self, name, copy.copy(value))

    def make_anew(self) -> None:
        """`drbdadm create-md`: the replica is nothing but the target of a full resync."""
        self.data, self.inconsistent, self.fresh, self.incarnation = set(), True, True, 0

    def remove(self, rule: str, why: str) -> None:
        """Self-removal: a restart without any preparation."""
        self.world.say(f"{self.name} removes itself: {rule} {why}")
        self.removed += 1
        self.power_off()
        self.power_on()

    # --- agent ---

    def start_agent(self) -> None:
        """Start with no memory, as after a crash of the agent."""
        if not self.up:
            return
        settings = self.world.settings(self.name)
        self.agent_up = True
        self.memory: Memory = begin(self.world.now)
        self.control, self.services, self.watch = Lane(), Lane(), Lane()
        self.lxd_active: bool | None = None
        self.fence = Fence(
            resource="r0",
            name="example-r0",
            me=settings.me,
            peer=settings.peer,
            backend=self.world.store,
            paths=self.paths,
            timeout_s=1.0,
        )

    def kernel(self) -> Kernel | None:
        if not self.drbd_up:
            return None
        linked = self.connection is Connection.CONNECTED
        replication = Replication.OFF
        if linked:
            replication = Replication.ESTABLISHED
            if self.inconsistent:
                replication = Replication.SYNC_TARGET
            elif self.peer.inconsistent:
                replication = Replication.SYNC_SOURCE
        return Kernel(
            "r0",
            role=self.role,
            suspended=frozenset(self.suspended),
            connection=self.connection,
            peer_role=self.peer.role if linked else Role.UNKNOWN,
            volumes=(Volume(0, self.disk, self.peer_disk, replication),),
            fence_helper=self.helper,
        )

    def observe(self) -> Observation:
        return Observation(
            complete=True,
            kernel=self.kernel(),
            note=self.fence.note(),
            tombstone=self.paths.tombstone("r0").exists(),
            unjudged=found.why if (found := unjudged(self.paths, "r0")) and self.drbd_up else "",
            mounted=self.mounted,
            lxd_active=self.lxd_active,
            control_busy=self.control.busy,
            services_busy=self.services.busy,
            watch_busy=self.watch.busy,
        )

    def decide(self) -> None:
        """Let the policy look, and queue what it wants."""
        if not self.agent_up:
            return
        seen = self.observe()
        if self.memory.wish is not None and policy.granted(seen, self.memory, self.memory.wish):
            self.memory = settled(self.memory, granted=True)
        actions, self.memory = policy.decide(self.world.settings(self.name), seen, self.memory, self.world.now)
        for action in actions:
            if action.kind is Kind.REMOVE_NODE:
                self.remove(action.rule, action.why)
                return
        for lane in (self.services, self.watch, self.control):
            mine = [action for action in actions if self._lane_of(action.kind) is lane]
            if mine and lane.busy:
                raise Broken(f"{self.name}: two reactions at once: {lane.actions} and {mine}")
            lane.actions += mine

    def _lane_of(self, kind: Kind) -> Lane:
        if kind in (Kind.WATCH_LOCK, Kind.JUDGE):
            return self.watch
        return self.services if kind in SERVICE_KINDS else self.control

    def wish(self, wish: Wish) -> None:
        """A person or the shutdown asks."""
        if self.agent_up and not policy.refusal(self.world.settings(self.name), self.observe(), self.memory, wish):
            self.memory = wished(self.memory, wish, self.world.now)

    def act(self, lane: Lane) -> None:
        """Carry out the next action of a lane."""
        if not self.agent_up or not lane.actions:
            return
        action = lane.actions.pop(0)
        began = self.world.now
        if action.kind in LOCK_KINDS:
            answer = self._lock(action.kind)
            known = None if answer.held is Held.UNAVAILABLE else answer.record
            verdict = VERDICTS[answer.held]
            if action.kind is Kind.RECORD_PROMOTION and answer.down and not self._guards().release():
                verdict = Verdict.DONE
            outcome = Outcome(action, verdict, began, answer.text, known)
        else:
            done = self._do(action.kind)
            if not self.agent_up:
                return
            verdict = Verdict.UNAVAILABLE if done is None else Verdict.DONE if done else Verdict.FAILED
            outcome = Outcome(action, verdict, began)
        self.world.say(f"{self.name} {action.rule}: {action.kind.value}: {outcome.verdict.value}")
        if outcome.verdict is not Verdict.DONE:
            lane.actions.clear()
        self.memory = answered(self.memory, outcome, self.world.settings(self.name), self.world.now)
        if lane is self.services:
            self.lxd_active = self.lxd

    def _judge(self) -> bool | None:
        """F9: what the executor does before it claims, and when it is told to; None: the store is away."""
        found = unjudged(self.paths, "r0")
        if found is None:
            return True
        if self.world.store.down:
            return None
        wrong = late_verdict("r0", found, self.world.incarnations[self.name])
        if wrong:
            mark(self.paths, "r0", Unjudged(found.replica, wrong))
            return False
        self.world.incarnations[self.name] = max(self.incarnation, self.world.incarnations[self.name])
        self.paths.unjudged("r0").unlink()
        return True

    def _lock(self, kind: Kind) -> Answer:
        guards = self._guards()
        if kind in (Kind.TAKE_SOLO, Kind.RECORD_PROMOTION) and self._judge() is False:
            return Answer(Held.UNAVAILABLE, text="the replica was put back")
        return {
            Kind.TAKE_SOLO: lambda: self.fence.take(guards.claim),
            Kind.RELEASE: lambda: self.fence.release(guards.release),
            Kind.RECORD_PROMOTION: self.fence.record_promotion,
            Kind.HAND_OVER: lambda: self.fence.hand_over(guards.hand_over),
            Kind.STAY: lambda: self.fence.stay(guards.release),
            Kind.READ_LOCK: self.fence.read,
            Kind.WATCH_LOCK: self.fence.read,
        }[kind]()

    def _guards(self) -> Guards:
        node = self

        class WorldGuards(Guards):
            def kernel(self) -> Kernel | None:
                return node.kernel()

        return WorldGuards(self.paths, "r0", 0)

    def _do(self, kind: Kind) -> bool | None:
        actions: dict[Kind, Callable[[], bool | None]] = {
            Kind.JUDGE: self._judge,
            Kind.UP: self._up,
            Kind.RECONNECT: self._connect,
            Kind.PROMOTE: self._promote,
            Kind.DEMOTE: self._demote,
            Kind.SUSPEND_IO: lambda: self._suspend("user"),
            Kind.RESUME_IO: self._resume,
            Kind.FORCE_DISCONNECT: self._force_disconnect,
            Kind.DOWN: self._down,
            Kind.TOMBSTONE: self._mark,
            Kind.PROBE: lambda: True,
            Kind.START: self._start,
            Kind.STOP: self._stop,
        }
        return actions[kind]()

    def _start(self) -> bool:
        if self.role is Role.PRIMARY:
            self.mounted = self.lxd = True
        return self.mounted

    def _stop(self) -> bool:
        self.mounted = self.lxd = False
        return True

    # --- the kernel ---

    def _up(self) -> bool:
        if not self.drbd_up:
            if not self._counted():
                return False
            self.drbd_up = True
            self.suspended, self.helper, self.role = set(), None, Role.SECONDARY
            self.disk = Disk.CONSISTENT
            if self.inconsistent:
                self.disk = Disk.INCONSISTENT
            elif self.outdated:
                self.disk = Disk.OUTDATED
            elif self.peer_outdated:
                self.disk = Disk.UP_TO_DATE
            self.peer_disk = Disk.OUTDATED if self.peer_outdated else Disk.UNKNOWN
        return self._connect()

    def _counted(self) -> bool:
        """F9: count this attach, unless the replica was put back."""
        if self.world.store.down:
            mark(self.paths, "r0", Unjudged((Local(self.incarnation, self.fresh),)))
            return True
        number = successor((Local(self.incarnation, self.fresh),), self.world.incarnations[self.name])
        if number is None:
            return False
        self.incarnation, self.fresh, self.world.incarnations[self.name] = number, False, number
        return True

    def _connect(self) -> bool:
        if self.connection is Connection.STANDALONE:
            self.connection = Connection.CONNECTING
        return True

    def _promote(self) -> bool:
        """`drbdadm primary`: the peer must agree, or be missing and fenced."""
        if self.role is Role.PRIMARY:
            return True
        if self.connection is Connection.CONNECTED:
            allowed = self.world.link and self.peer.role is not Role.PRIMARY and self.disk is Disk.UP_TO_DATE
        else:
            allowed = self._promotable_alone()
        if allowed:
            self._become_primary()
        return allowed

    def _promotable_alone(self) -> bool:
        if self.disk not in (Disk.UP_TO_DATE, Disk.CONSISTENT):
            return False
        if self.peer_disk is not Disk.OUTDATED and not self._fence_peer():
            return False
        self.disk = Disk.UP_TO_DATE
        self._new_generation()
        return True

    def _become_primary(self) -> None:
        missing = self.world.acknowledged - self.data
        if missing:
            raise Broken(f"{self.name} promoted without acknowledged writes {sorted(missing)}")
        self.role = Role.PRIMARY

    def _fence_peer(self) -> bool:
        """Call the handler; in the model one attempt stands for all of T_selffence."""
        self.helper = Helper(True)
        self.start_fence_if_needed()
        code = fence_peer.FAILED
        answer = self.fence.take(self._guards().claim)
        if answer.held is Held.HELD:
            code = fence_peer.PEER_FENCED
        elif answer.held is Held.REFUSED:
            if self.role is Role.PRIMARY:
                self.remove("F1", answer.text)
                return False
            code = fence_peer.OUTDATE_MYSELF
            self.disk, self.outdated = Disk.OUTDATED, True
        self.helper = Helper(False, code << 8)
        self.world.say(f"{self.name} fence-peer: exit {code}")
        if code == fence_peer.PEER_FENCED:
            self.peer_disk, self.peer_outdated = Disk.OUTDATED, True
            return True
        return False

    def start_fence_if_needed(self) -> None:
        """The handler goes direct when the agent is away: it needs a fence of its own."""
        if not self.agent_up:
            self.start_agent()
            self.agent_up = False

    def _demote(self) -> bool:
        if self.mounted or self.suspended:
            return False
        self.role = Role.SECONDARY
        return True

    def _suspend(self, why: str) -> bool:
        self.suspended.add(why)
        return True

    def _resume(self) -> bool:
        if self.fence.note() is None and self._guards().release():
            return False
        self._io_goes_on()
        return True

    def _io_goes_on(self) -> None:
        self.suspended.clear()
        if self.connection is not Connection.CONNECTED:
            self._new_generation()
        self._acknowledge(self.unconfirmed)
        self.unconfirmed = set()

    def _new_generation(self) -> None:
        self.past = [*self.past, self.generation]
        self.generation = next(self.world.generations)

    def _down(self) -> bool:
        if self.role is Role.PRIMARY:
            return False
        if self.connection is Connection.CONNECTED:
            if self.peer.role is Role.PRIMARY:
                if not self.world.link:
                    return False
                self.outdated = True
                self.disk = Disk.OUTDATED
                self.peer.peer_disk, self.peer.peer_outdated = Disk.OUTDATED, True
                self.peer._new_generation()
            self.peer.lose_connection(clean=True)
        self.drbd_up, self.connection = False, Connection.STANDALONE
        return True

    def _force_disconnect(self) -> bool:
        self.connection = Connection.STANDALONE
        self.peer_disk = Disk.UNKNOWN
        return True

    def lose_connection(self, *, clean: bool = False) -> None:
        """Notice that the peer is gone: a Primary freezes and calls the handler, unless the peer is known outdated."""
        if self.connection is not Connection.CONNECTED:
            return
        self.connection = Connection.CONNECTING
        if not clean:
            self.peer_disk = Disk.INCONSISTENT if self.peer.inconsistent else Disk.UNKNOWN
        if self.role is Role.PRIMARY and self.peer_disk is Disk.UNKNOWN:
            self.suspended.add("fencing")
            self.helper = Helper(True)

    def _mark(self) -> bool:
        replace_file(self.paths.tombstone("r0"), b"", durable=False)
        return True

    def disk_fails(self) -> None:
        """The disk fails: the kernel calls the handler, then tells the peer. After a boot the old data is back."""
        if not self.up or not self.drbd_up:
            return
        self.disk = Disk.FAILED
        self._mark()
        self.start_fence_if_needed()
        self.world.say(f"{self.name} disk failed: {disk_error.decide(self.fence, self._guards(), self.remove)}")
        if not self.drbd_up:
            return
        self.disk = Disk.DISKLESS
        if self.connection is Connection.CONNECTED and self.world.link and self.peer.up:
            self.peer.peer_disk = Disk.DISKLESS
            # The replica that goes on alone starts a data generation, whoever is Primary.
            self.peer._new_generation()

    def handler_runs(self) -> None:
        """The fence-peer handler of a frozen Primary comes to its end."""
        if not self.up or self.helper is None or not self.helper.running or "fencing" not in self.suspended:
            return
        lost = self.connection
        if self._fence_peer() and self.connection is lost:
            self._io_goes_on()

    def write(self, number: int) -> None:
        """The container writes: acknowledged at once, or blocked."""
        if not (self.up and self.role is Role.PRIMARY and self.mounted) or self.suspended:
            return
        if self.disk is not Disk.DISKLESS:
            self.data.add(number)
        elif self.connection is not Connection.CONNECTED:
            return
        if self.connection is Connection.CONNECTED and self.peer_disk is Disk.DISKLESS:
            self._acknowledge({number})
            return
        if self.connection is Connection.CONNECTED and self.peer_disk is not Disk.INCONSISTENT:
            if not self.world.link or not self.peer.up:
                self.unconfirmed.add(number)
                return
            self.peer.data.add(number)
        elif self.connection is Connection.CONNECTED and self.world.link and self.peer.up:
            self.peer.data.add(number)
        elif self.connection is Connection.CONNECTED:
            self.unconfirmed.add(number)
            return
        self._acknowledge({number})

    def _acknowledge(self, numbers: set[int]) -> None:
        if not numbers:
            return
        alone = self.connection is not Connection.CONNECTED or self.peer_disk is not Disk.UP_TO_DATE
        record = self.world.store.record
        if alone and not (record.state is LockState.SOLO and record.owner == self.world.settings(self.name).me):
            raise Broken(f"{self.name} acknowledges alone, but the lock is {record}")
        other = self.peer
        if other.up and other.role is Role.PRIMARY and not other.suspended and other.mounted:
            raise Broken("two writable Primaries")
        self.world.acknowledged |= numbers
