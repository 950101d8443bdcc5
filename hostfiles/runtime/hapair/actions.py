"""What the policy can ask for, and how it may end. Each action is idempotent and has a deadline. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hapair.lock import LockRecord


class Kind(Enum):
    """What is to be done; the value is the word in the decision log."""

    UP = "drbdadm adjust"
    RECONNECT = "drbdadm connect"
    READ_LOCK = "read the lock"
    WATCH_LOCK = "watch the lock"
    TAKE_SOLO = "take the lock alone"
    RELEASE = "release the lock"
    RECORD_PROMOTION = "record the promotion"
    HAND_OVER = "hand the lock over"
    STAY = "take the hand-over back"
    JUDGE = "judge the replica"
    PROMOTE = "drbdadm primary"
    DEMOTE = "drbdadm secondary"
    SUSPEND_IO = "drbdadm suspend-io"
    RESUME_IO = "drbdadm resume-io"
    FORCE_DISCONNECT = "drbdadm disconnect --force"
    DOWN = "drbdadm down"
    TOMBSTONE = "write the tombstone"
    PROBE = "look at the services"
    START = "start the services"
    STOP = "stop the services"
    REMOVE_NODE = "remove this node"


SERVICE_KINDS = frozenset((Kind.PROBE, Kind.START, Kind.STOP))
LOCK_KINDS = frozenset(
    (
        *(Kind.READ_LOCK, Kind.WATCH_LOCK, Kind.TAKE_SOLO),
        *(Kind.RELEASE, Kind.RECORD_PROMOTION, Kind.HAND_OVER, Kind.STAY),
    )
)


@dataclass(frozen=True)
class Action:
    """One thing to do, the rule that asked for it, why, and how long it may take (seconds)."""

    kind: Kind
    rule: str
    why: str
    limit_s: float


class Verdict(Enum):
    """How an action ended. REFUSED and UNAVAILABLE are the lock's answers: the peer holds it; nobody knows."""

    DONE = "done"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How an action ended; `began` is when it started (monotonic seconds), `record` the lock as it was last seen."""

    action: Action
    verdict: Verdict
    began: float
    text: str = ""
    record: LockRecord | None = None

    @property
    def lock_asked(self) -> bool:
        """True when the store was asked, so that `record` is an answer (None: unknown)."""
        return self.action.kind in LOCK_KINDS and self.verdict is not Verdict.FAILED
