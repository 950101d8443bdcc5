"""The rules of the failover policy, each with the hazard that it answers. Pure.

A rule gets one `Look` and returns a `Reaction` (steps, or what it waits for) or None. Rules named F1 … F12 are
those of FAILOVER.md. The order in URGENT, CONTROL and SERVICES is part of the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Tuple

from hapair.actions import Action, Kind
from hapair.lock import LockRecord, LockState, closed_to, handed_to, held_by
from hapair.memory import RETRY_S, Memory, Wish
from hapair.states import Connection, Disk, Kernel, Observation, Role, Settings

PREFERRED_WAIT_S = 3.0
"""How long the other node lets the preferred one promote first, after they connected and nobody served yet."""
TAKEOVER_S = 5.0
"""How long a leaving node that has stepped down waits for the peer to serve; nobody acknowledges meanwhile."""
HAND_OVER_S = 5.0
"""How long a leaving node tries to hand the lock over before it disconnects by force."""
NO_DATA_S = 0.5
"""How long a Primary must lack data before it is removed: one change of DRBD's state comes as several lines."""
TOMBSTONE = "this disk failed once: it never claims until the tombstone is cleared"
LOCK_LIMIT_S = 5.0
DRBD_LIMIT_S = 15.0

Step = Tuple[Kind, float]


@dataclass(frozen=True)
class Reaction:
    """What a rule says: steps to do, or (without any) what it waits for; look again at `wake_at` at the latest."""

    rule: str
    why: str
    steps: tuple[Step, ...] = ()
    wake_at: float | None = None

    def actions(self) -> tuple[Action, ...]:
        """Return the steps as actions that carry the rule and the reason."""
        return tuple(Action(kind, self.rule, self.why, limit_s) for kind, limit_s in self.steps)


@dataclass(frozen=True)
class Look:
    """What a rule is given."""

    site: Settings
    seen: Observation
    kernel: Kernel
    memory: Memory
    now: float

    @property
    def primary(self) -> bool:
        """True when this node is Primary."""
        return self.kernel.role is Role.PRIMARY

    @property
    def alone(self) -> bool:
        """True when this node is Primary and the peer is not (Connected and UpToDate)."""
        return self.memory.alone_since is not None

    @property
    def confirmed(self) -> bool:
        """True when a SOLO lock of this node was confirmed by a write, and not given back since."""
        return self.seen.note is not None

    @property
    def known_lock(self) -> LockRecord | None:
        """The lock as it was read in this connection, or None."""
        lock = self.memory.lock
        return lock.record if lock and lock.at >= (self.memory.connected_at or 0.0) else None

    @property
    def selffence_at(self) -> float:
        """When an unconfirmed Primary must be gone."""
        since = self.now if self.memory.alone_since is None else self.memory.alone_since
        return since + self.site.times.selffence_s

    @property
    def leaving_since(self) -> float:
        """Since when nothing but the departure itself is left to do: the request, or the demotion after it."""
        return max(self.memory.wish_at, self.memory.demoted_at or 0.0)

    @property
    def stopped(self) -> bool:
        """True when no service of this resource runs here, and somebody looked."""
        return not self.seen.mounted and self.seen.lxd_active is False and not self.seen.services_busy


Rule = Callable[[Look], Optional[Reaction]]


# --- the node removes itself: these hold whatever else is going on ---------------------------------------------------


def primary_without_data(look: Look) -> Reaction | None:
    """F5. A disconnected Primary whose own data is not current serves garbage, and the kernel calls no handler."""
    since = look.memory.no_data_since
    if since is None:
        return None
    if look.now < since + NO_DATA_S:
        return Reaction("F5", "own data is not current", wake_at=since + NO_DATA_S)
    return _remove("F5", "Primary without current local data, and the peer is not connected")


def lock_was_lost(look: Look) -> Reaction | None:
    """F1, F8. The lock, read since the peer was lost, names the peer: it serves, or is about to. This node must not."""
    memory = look.memory
    if memory.alone_since is None or look.kernel.connection is Connection.CONNECTED:
        return None
    if memory.lock is None or memory.lock.record is None or memory.lock.at < memory.alone_since:
        return None
    record = memory.lock.record
    overtaken = look.seen.note is None or look.seen.note.epoch < record.epoch
    if overtaken and closed_to(record, look.site.me):
        return _remove("F8", f"Primary alone, but {lock_text(look)}")
    return None


def lock_never_came(look: Look) -> Reaction | None:
    """F10, T_selffence. Unconfirmed for too long: the peer may take over soon, and frozen containers answer reads."""
    if not look.alone or look.confirmed or look.kernel.connection is Connection.CONNECTED:
        return None
    if look.now >= look.selffence_at:
        return _remove("F10", f"no confirmed lock {look.site.times.selffence_s:g} s after the peer was lost")
    return None


def half_stopped(look: Look) -> Reaction | None:
    """Demotion is bounded: a node that could not stop its services in time is removed, never left half stopped."""
    if look.memory.half_stopped:
        return _remove("bounded-demotion", look.memory.half_stopped)
    return None


# --- the kernel and the lock -----------------------------------------------------------------------------------------


def take_lock(look: Look) -> Reaction | None:
    """F3. A Primary whose peer is not current acknowledges alone: it must hold SOLO, or its I/O must stand still.

    The fence-peer handler normally got there first; it is not called when the peer left cleanly or lost its disk.
    """
    memory = look.memory
    if memory.alone_since is None or look.confirmed:
        return None
    if look.now < memory.retry_at:
        return Reaction("F3", f"takes the lock again: {lock_text(look)}", wake_at=memory.retry_at)
    steps: tuple[Step, ...] = ((Kind.TAKE_SOLO, LOCK_LIMIT_S),)
    tried = memory.lock is not None and memory.lock.at >= memory.alone_since
    if tried and not look.kernel.suspended:
        steps = ((Kind.SUSPEND_IO, DRBD_LIMIT_S), *steps)
    return Reaction("F3", "Primary without a current peer", steps)


def bring_up(look: Look) -> Reaction | None:
    """A disk may come late at boot: what `drbdadm adjust` could not do is tried again, or there is no standby."""
    memory = look.memory
    if not memory.half_up or memory.wish is Wish.LEAVE:
        return None
    return up_again(memory, look.now)


def up_again(memory: Memory, now: float) -> Reaction:
    """Try again what failed, after a pause, and say all the time why it did (F9: the replica may be refused)."""
    rule = "F9" if memory.half_up.startswith("F9") else "up"
    why = memory.half_up if rule == "F9" else f"tries again to bring DRBD up: {memory.half_up}"
    if now < memory.retry_at:
        return Reaction(rule, why, wake_at=memory.retry_at)
    return Reaction(rule, why, ((Kind.UP, DRBD_LIMIT_S),))


def resume_io(look: Look) -> Reaction | None:
    """F2, F3. The kernel never asks a failed handler again, so a lock that is won later resumes I/O by hand.

    I/O that this agent suspended goes on once the lock is confirmed, or the peer is current again.
    """
    kernel = look.kernel
    if not look.primary or not kernel.suspended:
        return None
    if look.now < look.memory.retry_at:
        return Reaction("F2", "I/O is suspended", wake_at=look.memory.retry_at)
    resume = ((Kind.RESUME_IO, DRBD_LIMIT_S),)
    if "user" in kernel.suspended and (kernel.together or look.confirmed):
        return Reaction("F3", "the reason to suspend I/O is gone", resume)
    if "fencing" not in kernel.suspended or kernel.connection is Connection.CONNECTED or not look.confirmed:
        return None
    if (kernel.fence_helper is not None and kernel.fence_helper.failed) or look.now >= look.selffence_at:
        return Reaction("F2", "the handler failed, and the lock was won later", resume)
    return Reaction("F2", "the fence-peer handler runs", wake_at=look.selffence_at)


def watch_lock(look: Look) -> Reaction | None:
    """F8. A solo owner reads the lock every T_watch: an override may have given it to the peer.

    Whatever else is going on: the override waits for T_watch and the removal, not for a command of DRBD that hangs.
    """
    memory = look.memory
    if memory.alone_since is None or not look.confirmed:
        return None
    due = max(memory.alone_since, memory.lock.at if memory.lock else 0.0) + look.site.times.watch_s
    if look.now >= due:
        return Reaction(
            "F8", "the solo owner looks whether the lock is still its own", ((Kind.WATCH_LOCK, LOCK_LIMIT_S),)
        )
    return Reaction("F8", f"serves alone; {lock_text(look)}", wake_at=due)


def judge(look: Look) -> Reaction | None:
    """F9. Without the store nobody could tell whether a replica was put back: it claims nothing until the store has.

    Two nodes that are Connected and both UpToDate may serve meanwhile, as without the store they ever may (F6).
    """
    if not look.seen.unjudged or look.memory.wish is Wish.LEAVE:
        return None
    if look.now < look.memory.judge_at:
        return Reaction("F9", look.seen.unjudged, wake_at=look.memory.judge_at)
    return Reaction("F9", "the replica was attached without the store", ((Kind.JUDGE, LOCK_LIMIT_S),))


def without_local_disk(look: Look) -> Reaction | None:
    """F4. A Primary that lives on the peer's disk writes where only the peer keeps it: the peer must get the lock."""
    kernel = look.kernel
    if not look.primary or not kernel.peer_current or kernel.data_good or look.memory.handed_over:
        return None
    if look.now < look.memory.retry_at:
        return Reaction("F4", f"hands over again: {lock_text(look)}", wake_at=look.memory.retry_at)
    steps: tuple[Step, ...] = ((Kind.HAND_OVER, LOCK_LIMIT_S),)
    if any(volume.disk in (Disk.DISKLESS, Disk.FAILED) for volume in kernel.volumes) and not look.seen.tombstone:
        steps = ((Kind.TOMBSTONE, DRBD_LIMIT_S), *steps)
    return Reaction("F4", "Primary without current local data; the peer has it", steps)


def demote(look: Look) -> Reaction | None:
    """Steps down when asked to, or when the data is on the peer only (F4); the services are stopped before."""
    if not (look.primary and look.stopped and _to_stop(look)) or look.memory.wish is Wish.SUSPEND:
        return None
    if look.now < look.memory.retry_at:
        return Reaction("demote", _asked(look), wake_at=look.memory.retry_at)
    return Reaction("demote", _asked(look), ((Kind.DEMOTE, DRBD_LIMIT_S),))


def release(look: Look) -> Reaction | None:
    """F7. Both replicas hold everything again: the owner gives the lock back, or its death would block the peer.

    The lock is read first when this agent does not know it. One that the peer handed over is kept until the peer has
    said that it stays (`stay`), for it may be about to leave; nothing announces that word, so the lock is read again.
    """
    memory = look.memory
    if not look.kernel.together:
        return None
    record = look.known_lock
    if record is None and not look.confirmed:
        why, step = "the lock is not known yet", (Kind.READ_LOCK, LOCK_LIMIT_S)
    elif record is not None and memory.lock is not None and handed_to(record, look.site.me):
        why, step = f"{look.site.peer_name} handed the lock over: may it stay?", (Kind.READ_LOCK, LOCK_LIMIT_S)
        due = memory.lock.at + look.site.times.watch_s
        if look.now < due:
            text = f"the lock was handed over: kept until {look.site.peer_name} says that it stays"
            return Reaction("F7", text, wake_at=due)
    elif look.confirmed or (record is not None and held_by(record, look.site.me)):
        why, step = "Connected, every volume UpToDate on both sides", (Kind.RELEASE, LOCK_LIMIT_S)
    else:
        return None
    if look.now < memory.retry_at:
        return Reaction("F7", f"asks the lock again: {lock_text(look)}", wake_at=memory.retry_at)
    return Reaction("F7", why, (step,))


def stay(look: Look) -> Reaction | None:
    """F7. A node that handed the lock over and did not leave, or is back, says so: else its peer never gives it back.

    Its reboot may have begun and ended while the peer could not reach the store, or its agent died before it left.
    """
    memory = look.memory
    record = look.known_lock
    if not look.kernel.together or memory.wish is Wish.LEAVE or memory.handed_over or record is None:
        return None
    if not handed_to(record, look.site.peer) or record.writer != look.site.me:
        return None
    if look.now < memory.retry_at:
        return Reaction("F7", f"says again that it stays: {lock_text(look)}", wake_at=memory.retry_at)
    return Reaction("F7", "the lock was handed over, and this node is here", ((Kind.STAY, LOCK_LIMIT_S),))


# --- leaving, joining, promotion -------------------------------------------------------------------------------------


def leave(look: Look) -> Reaction | None:
    """F3. A clean departure outdates the leaver without any handler, so a serving peer gets the lock first.

    Only after that is `drbdadm down` enough: the peer may have begun to serve since this look. Without a hand-over the
    connection is broken by force, which asks no peer, and makes the kernel of one that serves call its handler.
    """
    kernel, memory, peer = look.kernel, look.memory, look.site.peer_name
    if memory.wish is not Wish.LEAVE or look.primary or not look.stopped:
        return None
    if look.now < memory.retry_at:
        return Reaction("F3", f"tries again to leave: {lock_text(look)}", wake_at=memory.retry_at)
    down: tuple[Step, ...] = ((Kind.DOWN, DRBD_LIMIT_S),)
    if memory.handed_over:
        return Reaction("F3", f"leaves; {peer} has the lock", down)
    if kernel.connected and kernel.peer_role is Role.PRIMARY:
        if kernel.peer_current and look.now < look.leaving_since + HAND_OVER_S:
            return Reaction("F3", f"leaves while {peer} serves", ((Kind.HAND_OVER, LOCK_LIMIT_S),))
        why = f"the handler of {peer} must run: {lock_text(look)}"
    else:
        due = TAKEOVER_S + look.leaving_since
        if look.leaving_since > memory.wish_at and kernel.connected and kernel.together and look.now < due:
            return Reaction("F3", f"lets {peer} take over", wake_at=due)
        why = f"leaves; {peer} does not serve, or is missing"
    if kernel.connection is not Connection.STANDALONE:
        down = ((Kind.FORCE_DISCONNECT, DRBD_LIMIT_S), *down)
    return Reaction("F3", why, down)


def diverged(look: Look) -> Reaction | None:
    """F12. The replicas differ, each with writes of its own: no program may choose which of them to discard."""
    if not look.seen.split_brain or look.kernel.connection is not Connection.STANDALONE:
        return None
    cure = f"`hapair recover-split-brain {look.site.resource} --victim NODE` on both nodes"
    return Reaction("F12", f"split brain: a person must choose which replica to discard: {cure}")


def reconnect(look: Look) -> Reaction | None:
    """A connection that the kernel gave up (two Primaries met, a refused handshake) is tried again, slowly."""
    kernel, memory = look.kernel, look.memory
    if kernel.connection is not Connection.STANDALONE or not kernel.volumes or memory.wish is Wish.LEAVE:
        return None
    if look.seen.split_brain:
        return None
    if look.now < memory.reconnect_at or (look.primary and not look.confirmed):
        return None
    return Reaction("reconnect", "stand-alone", ((Kind.RECONNECT, DRBD_LIMIT_S),))


def promote(look: Look) -> Reaction | None:
    """F6. Promotion goes through the lock: conditional write first, then `drbdadm primary`.

    "Peer outdated" persists in DRBD's meta-data, so the kernel may never call the handler; and without a look at the
    lock a stale node would serve.
    """
    if look.primary or look.memory.wish is Wish.LEAVE:
        return None
    barrier = _barrier(look)
    if barrier is not None:
        return barrier
    if look.now < look.memory.retry_at:
        return Reaction("F6", look.memory.trouble or lock_text(look), wake_at=look.memory.retry_at)
    return _promote_connected(look) if look.kernel.connected else _promote_alone(look)


def _barrier(look: Look) -> Reaction | None:
    """What forbids promotion whatever the lock says: the peer serves, a person, settings, the replica (F4, F5, F9)."""
    kernel, peer = look.kernel, look.site.peer_name
    if kernel.connected and kernel.peer_role is Role.PRIMARY:
        return Reaction("standby", f"{peer} is Primary")
    if look.memory.held:
        return Reaction("held", f"demoted by hand: until {peer} serves, or `{look.site.resource} primary`")
    if look.seen.refused:
        return Reaction("F11", look.seen.refused, wake_at=look.now + RETRY_S)
    bad_disk = _bad_disk(look)
    if bad_disk is not None:
        return bad_disk
    if not look.stopped:
        return Reaction("services", "services of this Secondary stop first")
    return None


def _bad_disk(look: Look) -> Reaction | None:
    """F4, F5, F9: a replica that failed once, is not whole and current, or is too old, is never promoted."""
    if look.seen.tombstone:
        return Reaction("F4", TOMBSTONE)
    if look.seen.unjudged and not (look.kernel.together and look.memory.store_away):
        return Reaction("F9", look.seen.unjudged)
    if not look.kernel.claimable:
        states = ", ".join(volume.disk.value for volume in look.kernel.volumes) or "no disk"
        return Reaction("F5", f"own data is not good enough ({states}): waits for {look.site.peer_name}")
    return None


def _promote_connected(look: Look) -> Reaction | None:
    """Both here, nobody serves: the preferred node, the one that is to take over, or the only one with current data."""
    kernel, memory = look.kernel, look.memory
    if kernel.together:
        first = look.site.preferred or memory.takeover or memory.wish is Wish.PRIMARY
        due = (look.now if memory.connected_at is None else memory.connected_at) + (0.0 if first else PREFERRED_WAIT_S)
        if look.now < due:
            return Reaction("preferred", f"lets {look.site.peer_name} go first: it is preferred", wake_at=due)
        steps: tuple[Step, ...] = ((Kind.RECORD_PROMOTION, LOCK_LIMIT_S), (Kind.PROMOTE, DRBD_LIMIT_S))
        return Reaction("F6", "Connected, both UpToDate, nobody serves", steps)
    if kernel.data_good and kernel.peer_lacks_data:
        steps = ((Kind.TAKE_SOLO, LOCK_LIMIT_S), (Kind.PROMOTE, DRBD_LIMIT_S))
        return Reaction("F6", "the only node with current data", steps)
    return Reaction("handshake", "the replicas compare their data")


def _promote_alone(look: Look) -> Reaction | None:
    """F6, F10. Not before T_grace, in which an old Primary removes itself; then the lock decides."""
    if look.kernel.connection is Connection.CONNECTED:
        return Reaction("handshake", "the replicas shake hands")
    due = (look.now if look.memory.lost_at is None else look.memory.lost_at) + look.site.times.grace_s
    if look.now < due and not look.confirmed:
        return Reaction("F10", f"{look.site.peer_name} is missing: waits T_grace", wake_at=due)
    steps = ((Kind.TAKE_SOLO, LOCK_LIMIT_S), (Kind.PROMOTE, DRBD_LIMIT_S))
    return Reaction("F6", f"{look.site.peer_name} is missing", steps)


# --- services --------------------------------------------------------------------------------------------------------


def probe_services(look: Look) -> Reaction | None:
    """After a start or a failure the agent looks before it acts: LXD may run already."""
    if look.seen.lxd_active is None and look.now >= look.memory.services_retry_at:
        return Reaction("services", "not looked at yet", ((Kind.PROBE, DRBD_LIMIT_S),))
    return None


def stop_services(look: Look) -> Reaction | None:
    """I5. A Secondary runs no service, or two nodes answer for one address; and services stop before a demotion."""
    if not (look.seen.mounted or look.seen.lxd_active) or not (_to_stop(look) or not look.primary):
        return None
    if look.primary and look.kernel.suspended:
        return Reaction("services", "I/O is suspended: nothing can be stopped until it goes on")
    return Reaction("services", _asked(look) if look.primary else "Secondary", ((Kind.STOP, look.site.times.stop_s),))


def start_services(look: Look) -> Reaction | None:
    """A Primary whose writes are safe (peer current, or SOLO confirmed) mounts, starts LXD and announces addresses."""
    memory = look.memory
    if not look.primary or memory.paused or memory.half_stopped or _to_stop(look):
        return None
    if (look.seen.mounted and look.seen.lxd_active) or look.kernel.suspended:
        return None
    if not (look.kernel.peer_current or look.confirmed):
        return None
    if look.now < memory.services_retry_at:
        return Reaction(
            "services", f"the start failed, tries again: {memory.trouble}", wake_at=memory.services_retry_at
        )
    return Reaction("services", "Primary", ((Kind.START, look.site.times.start_s),))


# --- shared ----------------------------------------------------------------------------------------------------------


def _remove(rule: str, why: str) -> Reaction:
    return Reaction(rule, why, ((Kind.REMOVE_NODE, 1.0),))


def _to_stop(look: Look) -> bool:
    return look.memory.wish in (Wish.SECONDARY, Wish.SUSPEND, Wish.LEAVE) or look.memory.handed_over


def _asked(look: Look) -> str:
    return f"asked to: {look.memory.wish.value}" if look.memory.wish else "the data is on the peer only"


def lock_text(look: Look) -> str:
    """Say what is known of the lock, for people."""
    lock = look.memory.lock
    record: LockRecord | None = lock.record if lock is not None else look.seen.note
    if record is None:
        return f"the lock is unknown ({lock.text})" if lock is not None else "the lock was not read yet"
    site = look.site
    owner = {site.me: "this node", site.peer: site.peer_name}.get(record.owner, record.owner)
    text = f"the lock is {record.state.value} (epoch {record.epoch}, {owner})"
    if record.state is LockState.SOLO and record.owner == site.peer:
        text += f": only {owner} has every acknowledged write"
    return text


URGENT: tuple[Rule, ...] = (primary_without_data, lock_was_lost, lock_never_came, half_stopped)
CONTROL: tuple[Rule, ...] = (
    diverged,
    take_lock,
    resume_io,
    without_local_disk,
    bring_up,
    demote,
    leave,
    promote,
    stay,
    release,
    reconnect,
)
WATCH: tuple[Rule, ...] = (watch_lock, judge)
SERVICES: tuple[Rule, ...] = (probe_services, stop_services, start_services)
