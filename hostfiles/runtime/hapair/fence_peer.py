"""What the kernel's fence-peer call decides (F1, F2); the same in the agent and in a handler that goes direct."""

from __future__ import annotations

import time
from typing import Callable

from hapair.fencing import Fence, Held
from hapair.guards import Guards
from hapair.lock import LockState
from hapair.states import Role

PEER_FENCED = 4
OUTDATE_MYSELF = 6
FAILED = 1
"""Any code but 3, 4, 5, 6, 7 leaves I/O frozen. 5 is fail-open and never returned (FAILOVER.md)."""
RETRY_S = 0.1
"""Pause between attempts on a store that does not answer; no event announces its return."""

Remove = Callable[[str, str], None]


def decide(fence: Fence, guards: Guards, until: float, remove: Remove) -> tuple[int, str]:
    """Answer the kernel: the exit code, and why.

    Args:
        until: monotonic seconds; no attempt on the store goes on beyond it (F2).
        remove: called with the rule and the reason when this node is a Primary that lost.
    """
    text = "no time left"
    while time.monotonic() < until:
        answer = fence.take(guards.claim, until)
        record = answer.record
        if answer.held is Held.HELD and record is not None:
            return PEER_FENCED, f"SOLO confirmed, epoch {record.epoch}"
        if answer.held is Held.REFUSED and record is not None:
            return _refused(guards, answer.text, stealing=record.state is LockState.STEALING, remove=remove)
        text = answer.text
        # Nothing announces that the store answers again.
        time.sleep(max(0.0, min(RETRY_S, until - time.monotonic())))
    return FAILED, text


def _refused(guards: Guards, text: str, *, stealing: bool, remove: Remove) -> tuple[int, str]:
    """The lock is the peer's: a Primary must go at once, a Secondary outdates itself."""
    kernel = guards.kernel()
    if kernel is None or kernel.role is Role.UNKNOWN:
        return FAILED, f"{text}; own role unknown"
    if kernel.role is Role.PRIMARY:
        remove("F1", f"Primary without its peer, but {text}")
        return FAILED, text
    return (FAILED if stealing else OUTDATE_MYSELF), text
