"""F4: what a failed disk asks for; the same for the local-io-error handler and for the tests' model of it.

DRBD calls the handler in its worker, before it tells the peer that the disk is gone. When the handler is back, the
peer would acknowledge alone under SHARED, and the failed disk, should it revive, could claim later.
"""

from __future__ import annotations

from typing import Callable

from hapair.fencing import Fence, Held
from hapair.guards import Guards
from hapair.states import Role

Remove = Callable[[str, str], None]


def decide(fence: Fence, guards: Guards, remove: Remove) -> str:
    """Say what was done. The tombstone has been written already, so this replica claims nothing from here on.

    A Secondary returns at once: the kernel then tells the Primary, whose agent takes the lock; one round trip to the
    store is left in which it acknowledges alone under SHARED. A Primary hands the lock over while the peer is
    Connected and UpToDate, and steps down afterwards (rule F4 of the agent). Any other Primary keeps the lock, since
    nobody else has all of the data, and is removed.
    """
    kernel = guards.kernel()
    if kernel is not None and kernel.role is Role.SECONDARY:
        return "Secondary: the kernel tells the Primary"
    if kernel is None:
        why = "DRBD's state cannot be read"
    else:
        answer = fence.hand_over(guards.hand_over)
        if answer.held is Held.HELD and answer.record is not None:
            return f"handed the lock over, epoch {answer.record.epoch}"
        why = f"the lock was not handed over: {answer.text}"
    remove("F4", f"the local disk failed; {why}")
    return why
