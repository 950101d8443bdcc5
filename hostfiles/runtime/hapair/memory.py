"""What the policy remembers of one resource between two looks, and how looks, answers and wishes change it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from hapair.actions import LOCK_KINDS, SERVICE_KINDS, Kind, Outcome, Verdict
from hapair.lock import LockRecord, closed_to
from hapair.states import Connection, Kernel, Role, Settings

LOCK_RETRY_S = 0.3
"""Pause between attempts on the lock while I/O waits for it; T_selffence bounds the whole."""
EVENT_LAG_S = 0.2
"""How long after a command of DRBD its event may still be on the way; until then a look may show the state before."""
RETRY_S = 2.0
"""Pause before a failed step of DRBD or of the services is tried again."""
HALF_STOPPED = {Kind.STOP: "the services did not stop in time", Kind.DEMOTE: "drbdadm secondary failed"}
RECONNECT_S = 10.0
"""Pause before a connection that the kernel gave up is tried again."""


class Wish(Enum):
    """What a person or the shutdown asked for."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    SUSPEND = "suspend"
    LEAVE = "leave"


@dataclass(frozen=True)
class Seen:
    """The lock as the store answered at `at`, the moment the question began; no record: unknown, `text` says why."""

    at: float
    record: LockRecord | None
    text: str = ""


@dataclass(frozen=True)
class Memory:
    """One resource. All times are monotonic seconds; nothing of this survives the agent, and nothing needs to.

    Attributes:
        lost_at: since when the peer is missing (from the agent's start on); None while it is connected.
        connected_at: since when the peer is connected.
        peer_served: the peer was Primary during this connection.
        takeover: the peer stepped down during this connection, so this node is to serve.
        alone_since: since when this node is Primary without a peer that is Connected and UpToDate.
        lock: the last answer of the store.
        held: a person demoted this node; until the peer serves or is lost, or `primary` is asked for.
        paused: a person stopped the services of this Primary.
        no_data_since: since when this node is a disconnected Primary without current data.
        wish, wish_at: the request in progress, and since when.
        demoted_at: when this node last became Secondary by our own action.
        handed_over: the lock was handed to the peer in this connection; this node must not serve until promoted anew.
        half_stopped: a demotion ran out of time; the text says where.
        left: the resource is down because of a wish to leave.
        up_until: until then the event of the last `drbdadm adjust` may still be on its way.
        half_up: why `drbdadm adjust` failed, so that the resource may be there without its disk or connection.
        judge_at: a replica that was attached without the store is not judged before this moment (F9).
        store_away: the store did not answer when it was asked about that.
        trouble: why the last step of DRBD or of the services failed, or why a lock that is open to this node was
            refused; empty after one that did not.
        retry_at, services_retry_at, reconnect_at: nothing of that kind before this moment.
        rule, waiting, waiting_since: what the policy does or waits for, for people.
        wake_at: when to look again even if nothing happens; None: only events matter.
    """

    lost_at: float | None
    waiting_since: float
    connected_at: float | None = None
    role: Role = Role.UNKNOWN
    peer_role: Role = Role.UNKNOWN
    peer_served: bool = False
    takeover: bool = False
    alone_since: float | None = None
    lock: Seen | None = None
    held: bool = False
    paused: bool = False
    no_data_since: float | None = None
    wish: Wish | None = None
    wish_at: float = 0.0
    demoted_at: float | None = None
    handed_over: bool = False
    half_stopped: str = ""
    left: bool = False
    up_until: float = 0.0
    half_up: str = ""
    judge_at: float = 0.0
    store_away: bool = False
    trouble: str = ""
    retry_at: float = 0.0
    services_retry_at: float = 0.0
    reconnect_at: float = 0.0
    rule: str = ""
    waiting: str = ""
    wake_at: float | None = None


def begin(now: float) -> Memory:
    """Return the memory of an agent that starts now: the peer counts as missing from this moment."""
    return Memory(lost_at=now, waiting_since=now, reconnect_at=now + RECONNECT_S)


def looked(memory: Memory, kernel: Kernel, now: float) -> Memory:
    """Return the memory after a look: connections made and lost, roles changed."""
    changed = (memory.role, memory.peer_role) != (kernel.role, kernel.peer_role)
    if changed:
        # Whatever was waited for may have come.
        memory = replace(memory, retry_at=0.0)
    if kernel.connected and memory.connected_at is None:
        # A lock that was handed over before a reconnection may have been released since.
        handed_over = memory.handed_over and kernel.role is Role.PRIMARY
        memory = replace(
            memory, connected_at=now, lost_at=None, peer_served=False, takeover=False, handed_over=handed_over
        )
    elif not kernel.connected and memory.connected_at is not None:
        memory = replace(
            memory,
            connected_at=None,
            lost_at=now,
            peer_served=False,
            takeover=False,
            held=memory.held and memory.wish is Wish.SECONDARY,
            reconnect_at=now + RECONNECT_S,
        )
    if kernel.connected and kernel.peer_role is Role.PRIMARY:
        memory = replace(memory, peer_served=True, takeover=False, held=False)
    elif kernel.connected and memory.peer_served:
        memory = replace(memory, peer_served=False, takeover=True)
    alone = kernel.role is Role.PRIMARY and not kernel.peer_current
    no_data = kernel.role is Role.PRIMARY and kernel.connection is not Connection.CONNECTED and not kernel.data_good
    alone_since = _since(memory.alone_since, now) if alone else None
    no_data_since = _since(memory.no_data_since, now) if no_data else None
    # A copy of this many fields takes a good part of a decision.
    if (alone_since, no_data_since) != (memory.alone_since, memory.no_data_since):
        memory = replace(memory, alone_since=alone_since, no_data_since=no_data_since)
    if not changed:
        return memory
    return replace(memory, role=kernel.role, peer_role=kernel.peer_role)


def _since(before: float | None, now: float) -> float:
    return now if before is None else before


def answered(memory: Memory, outcome: Outcome, site: Settings, now: float) -> Memory:
    """Return the memory after an action ended at `now`."""
    kind, verdict = outcome.action.kind, outcome.verdict
    if outcome.lock_asked and not _overtaken(memory, outcome):
        memory = replace(memory, lock=Seen(outcome.began, outcome.record, outcome.text))
    if kind is Kind.UP:
        memory = replace(memory, up_until=now + EVENT_LAG_S)
    if kind in (Kind.WATCH_LOCK, Kind.JUDGE):
        # They run beside other actions, whose retries and troubles are not their own.
        if kind is Kind.JUDGE:
            memory = replace(memory, judge_at=now + site.times.watch_s, store_away=verdict is Verdict.UNAVAILABLE)
        return memory
    if verdict is Verdict.DONE:
        return _done(replace(memory, trouble=""), kind, now)
    promotes = kind in (Kind.TAKE_SOLO, Kind.RECORD_PROMOTION) and verdict is Verdict.REFUSED
    too_old = promotes and outcome.record is not None and not closed_to(outcome.record, site.me)
    memory = replace(memory, trouble=outcome.text if verdict is Verdict.FAILED or too_old else "")
    if kind in (Kind.START, Kind.PROBE):
        return replace(memory, services_retry_at=now + RETRY_S)
    if kind in HALF_STOPPED:
        return replace(memory, half_stopped=outcome.text or HALF_STOPPED[kind])
    if kind is Kind.RECONNECT:
        return replace(memory, reconnect_at=now + RECONNECT_S)
    if kind is Kind.UP:
        memory = replace(memory, half_up=outcome.text or "drbdadm adjust failed")
    return replace(memory, retry_at=now + _pause(memory, kind, verdict, site))


def _overtaken(memory: Memory, outcome: Outcome) -> bool:
    """True for an answer that a later version of the lock overtook on its way: two questions may be under way."""
    known = memory.lock.record if memory.lock is not None else None
    return known is not None and outcome.record is not None and outcome.record.epoch < known.epoch


def _done(before: Memory, kind: Kind, now: float) -> Memory:
    if kind in SERVICE_KINDS:
        return before
    memory = replace(before, retry_at=0.0 if kind in LOCK_KINDS else now + EVENT_LAG_S)
    if kind is Kind.UP:
        # T_grace counts from here at the earliest: before that DRBD could not have met the peer.
        lost_at = memory.lost_at if memory.lost_at is None else now
        memory = replace(memory, left=False, half_up="", lost_at=lost_at, reconnect_at=now + RECONNECT_S)
    elif kind is Kind.PROMOTE:
        memory = replace(memory, handed_over=False, takeover=False)
    elif kind is Kind.HAND_OVER:
        memory = replace(memory, handed_over=True)
    elif kind is Kind.DEMOTE:
        memory = replace(memory, demoted_at=now, handed_over=False, paused=False)
    elif kind is Kind.DOWN:
        # Only a departure takes DRBD down. The resource may be gone, and the wish granted, before this outcome comes.
        memory = replace(memory, left=True)
    elif kind is Kind.RECONNECT:
        memory = replace(memory, reconnect_at=now + RECONNECT_S)
    return memory


def _pause(memory: Memory, kind: Kind, verdict: Verdict, site: Settings) -> float:
    """Return how long to wait before the next attempt: short while I/O or a person waits, T_watch otherwise."""
    if kind is Kind.TAKE_SOLO:
        return LOCK_RETRY_S if memory.alone_since is not None else site.times.watch_s
    if kind is Kind.HAND_OVER and memory.wish is Wish.LEAVE:
        return LOCK_RETRY_S
    if kind in (Kind.RECORD_PROMOTION, Kind.RELEASE, Kind.HAND_OVER, Kind.STAY) and verdict is Verdict.REFUSED:
        # What only a person can mend need not be asked for at once.
        return site.times.watch_s if memory.trouble else LOCK_RETRY_S
    return RETRY_S if verdict is Verdict.FAILED else site.times.watch_s


def wished(memory: Memory, wish: Wish, now: float) -> Memory:
    """Return the memory after a request came.

    `secondary` holds this node back from the first moment: the demotion's own event may come before its outcome.
    """
    memory = replace(memory, wish=wish, wish_at=now, retry_at=0.0)
    if wish is Wish.SECONDARY:
        return replace(memory, held=True)
    if wish is Wish.PRIMARY:
        return replace(memory, held=False, paused=False, services_retry_at=0.0)
    if wish is Wish.SUSPEND:
        return replace(memory, paused=True)
    return memory


def settled(memory: Memory, *, granted: bool) -> Memory:
    """Return the memory after a request ended; one that was given up leaves nothing behind."""
    if not granted and memory.wish is Wish.SECONDARY:
        memory = replace(memory, held=False)
    if not granted and memory.wish is Wish.SUSPEND:
        memory = replace(memory, paused=False)
    return replace(memory, wish=None, retry_at=0.0)
