"""The failover policy: a look, the memory and the time in; actions and the new memory out. Pure.

Rules come in four groups. URGENT ones remove the node and hold whatever else is going on. CONTROL ones change DRBD
and the lock, SERVICES ones the mount and LXD, the one of WATCH reads the lock. In each group the first rule that has
something to do wins, and nothing is started while an earlier action list of that group still runs. The model checker
drives this same function.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Tuple

from hapair import rules
from hapair.actions import Action, Kind
from hapair.memory import RETRY_S, Memory, Wish, looked
from hapair.rules import Look, Reaction
from hapair.states import Kernel, Observation, Role, Settings

LOOKING = "F11: the configuration is being looked at"
"""A refusal that ends by itself, within a second."""

Decision = Tuple[Tuple[Action, ...], Memory]


def decide(site: Settings, seen: Observation, memory: Memory, now: float) -> Decision:
    """Return what to do now, and what to remember.

    Args:
        site: who is who, and the time limits.
        seen: the state of this resource as it was last reported.
        memory: what the previous call returned, after the answers that came since (`memory.answered`).
        now: monotonic seconds, the same clock as all times in `memory`.
    """
    if not seen.complete:
        return (), replace(memory, wake_at=None)
    memory = looked(memory, seen.kernel or Kernel(site.resource), now)
    if seen.kernel is None:
        return _absent(seen, memory, now)
    look = Look(site, seen, seen.kernel, memory, now)
    urgent = _spoken(rules.URGENT, look)
    if urgent and urgent[-1].steps:
        return urgent[-1].actions(), _remember(memory, urgent[-1:], now)
    control = () if seen.control_busy else _spoken(rules.CONTROL, look)
    services = () if seen.services_busy else _spoken(rules.SERVICES, look)
    watch = () if seen.watch_busy else _spoken(rules.WATCH, look)
    spoken = (*control, *services, *watch, *urgent)
    actions = tuple(action for reaction in spoken for action in reaction.actions())
    busy = seen.control_busy or seen.services_busy or seen.watch_busy
    memory = replace(memory, wake_at=None) if busy and not spoken else _remember(memory, spoken, now)
    if look.alone and not look.confirmed:
        # Whatever else runs or waits, the self-removal must not be missed.
        memory = replace(memory, wake_at=_earliest(memory.wake_at, look.selffence_at))
    return actions, memory


def refusal(site: Settings, seen: Observation, memory: Memory, wish: Wish) -> str:
    """Return why `wish` cannot be granted at all right now; empty when it can be tried."""
    kernel = seen.kernel
    if wish is Wish.LEAVE:
        # The machine goes down, whatever a person asked for before.
        return ""
    if memory.wish is not None:
        return f"another request ({memory.wish.value}) is in progress"
    if not seen.complete or kernel is None:
        return memory.half_up or "DRBD does not know the resource yet"
    if wish is Wish.PRIMARY and kernel.role is not Role.PRIMARY:
        return _never_promoted(site, seen, kernel)
    return "this node is not Primary" if wish is Wish.SUSPEND and kernel.role is not Role.PRIMARY else ""


def _never_promoted(site: Settings, seen: Observation, kernel: Kernel) -> str:
    """Return what forbids a promotion until somebody has done something about it, or ""."""
    if kernel.connected and kernel.peer_role is Role.PRIMARY:
        return f"{site.peer_name} is Primary: run `{site.resource} secondary` there"
    if seen.tombstone:
        return rules.TOMBSTONE
    return "" if seen.refused == LOOKING else seen.refused


def granted(seen: Observation, memory: Memory, wish: Wish) -> bool:
    """True once everything that `wish` asked for is so."""
    if wish is Wish.LEAVE:
        return memory.left
    stopped = not seen.mounted and seen.lxd_active is False and not seen.services_busy
    role = seen.kernel.role if seen.kernel is not None else Role.SECONDARY
    if wish is Wish.PRIMARY:
        return role is Role.PRIMARY and seen.mounted and seen.lxd_active is True
    if wish is Wish.SECONDARY:
        return role is Role.SECONDARY and stopped
    return stopped


def _absent(seen: Observation, memory: Memory, now: float) -> Decision:
    """The kernel does not know the resource: bring it up, unless this node leaves."""
    if memory.wish is Wish.LEAVE and seen.control_busy:
        # What brings it up just now would do so after the departure.
        return (), memory
    if memory.wish is Wish.LEAVE and now < memory.up_until:
        # So would what has just brought it up.
        wait = Reaction("up", "brings DRBD up", wake_at=memory.up_until)
        return (), _remember(memory, (wait,), now)
    if memory.wish is Wish.LEAVE or memory.left:
        return (), _remember(replace(memory, left=True), (Reaction("F3", "has left"),), now)
    if seen.control_busy:
        return (), memory
    if seen.refused:
        wait = Reaction("F11", seen.refused, wake_at=now + RETRY_S)
        return (), _remember(memory, (wait,), now)
    up = Reaction("up", "DRBD does not know the resource", ((Kind.UP, rules.DRBD_LIMIT_S),))
    if memory.half_up:
        up = rules.up_again(memory, now)
    elif now < memory.retry_at:
        # What was just brought up is told by an event that may still be on its way.
        up = Reaction("up", "brings DRBD up", wake_at=memory.retry_at)
    return up.actions(), _remember(memory, (up,), now)


def _spoken(group: tuple[rules.Rule, ...], look: Look) -> tuple[Reaction, ...]:
    """Return what the rules of a group say, up to and including the first one that has something to do."""
    said: list[Reaction] = []
    for rule in group:
        reaction = rule(look)
        if reaction is not None:
            said.append(reaction)
            if reaction.steps:
                break
    return tuple(said)


def _remember(memory: Memory, spoken: tuple[Reaction, ...], now: float) -> Memory:
    """Note for people what is done or waited for, and since when; and when to look again."""
    wake_at: float | None = None
    for reaction in spoken:
        wake_at = _earliest(wake_at, reaction.wake_at)
    if not spoken:
        since = now if memory.waiting else memory.waiting_since
        if (memory.wake_at, memory.rule, memory.waiting) == (None, "", ""):
            return memory
        return replace(memory, wake_at=wake_at, rule="", waiting="", waiting_since=since)
    # What is being done tells more than what is waited for.
    said = next((reaction for reaction in spoken if reaction.steps), spoken[0])
    if (memory.wake_at, memory.rule, memory.waiting) == (wake_at, said.rule, said.why):
        return memory
    since = memory.waiting_since if said.why == memory.waiting else now
    return replace(memory, wake_at=wake_at, rule=said.rule, waiting=said.why, waiting_since=since)


def _earliest(one: float | None, other: float | None) -> float | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)
