"""`drbd-fence steal RESOURCE`: a person gives the lock to this node against the word of its owner (F8).

The lock has no time to live: a dead owner's lock is right, since it holds the only current copy. So this is for an
owner that will not return, and it loses what only that owner holds. The order is: STEALING, so that nobody can take
the lock; wait until a live owner has read that and removed itself (or take proof that its power is off); SOLO of this
node; only then `drbdadm primary --force`, where the replica is known to be behind. Whatever breaks off in between can
be taken up again or undone: the lock stays STEALING, which is closed to both nodes.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from time import sleep
from typing import Sequence

from hapair import proc, r0
from hapair.config import BadConfig, Config, load
from hapair.decisions import DecisionLog
from hapair.fence.base import BadStore
from hapair.fence.site import fence_of, open_store
from hapair.fencing import Answer, Fence, Held
from hapair.guards import Guards
from hapair.incarnation import unjudged
from hapair.lock import LockRecord, LockState, held_by
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.states import Disk, Kernel, Role, Times

FORCE_LIMIT_S = 30.0
"""For `drbdadm primary --force`; the kernel calls fence-peer in it, which may take T_selffence."""
LOG_LIMIT_S = 2.0
USABLE = (Disk.UP_TO_DATE, Disk.CONSISTENT, Disk.OUTDATED)
"""What a replica must be to be served by force: whole, even if old. An Inconsistent one is neither old nor new."""


@dataclass(frozen=True)
class Override:
    """One override: whose lock, at which version, and why; `proof` says how a person knows that its power is off."""

    config: Config
    fence: Fence
    guards: Guards
    paths: Paths
    epoch: int
    owner: str
    owner_name: str
    reason: str
    proof: str

    @property
    def resource(self) -> str:
        """The resource's name."""
        return self.fence.resource

    def objection(self) -> str:
        """Say why this node must not take the lock over right now, or ""; asked again right before each write."""
        kernel = self.guards.kernel()
        if kernel is None:
            return f"DRBD does not know {self.resource} here: start hapair-agent first"
        if kernel.role is Role.PRIMARY:
            return "this node is Primary already"
        if kernel.connected:
            peer = self.config.peer
            return f"{peer} is connected, so it lives: `{self.resource} secondary` there moves the services"
        return self._of_replica(kernel)

    def _of_replica(self, kernel: Kernel) -> str:
        if self.paths.tombstone(self.resource).exists():
            return "this disk failed once (tombstone)"
        found = unjudged(self.paths, self.resource)
        if found is not None:
            # The agent would never promote it, and the lock would keep the other node from serving, too.
            return found.why
        if not kernel.volumes or any(volume.disk not in USABLE for volume in kernel.volumes):
            states = ", ".join(volume.disk.value for volume in kernel.volumes) or "no disk"
            return f"this replica is not whole ({states}): it cannot be served even by force"
        return ""

    @property
    def behind(self) -> bool:
        """True when the kernel would refuse to promote this replica without force."""
        kernel = self.guards.kernel()
        return kernel is not None and not kernel.claimable


def wait_s(times: Times) -> float:
    """Return how long a live owner may need to notice and be gone, in seconds.

    It reads the lock every T_watch; T_grace is longer than T_selffence, the watchdog's time-out and a margin (F10).
    """
    return times.watch_s + times.grace_s


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run `drbd-fence steal`; 0: done, 1: refused or failed, 2: bad input, 130: interrupted."""
    paths = paths or Paths()
    given = _parser().parse_args(list(argv))
    try:
        config = load(paths.config)
        open_store(config.store, paths)
    except (BadConfig, BadStore) as bad:
        return complain(str(bad), 2)
    if given.resource not in config.resources:
        return complain(f"no such resource: {given.resource}; this site has {', '.join(config.resources)}", 2)
    uuids = {config.node: config.me.uuid, config.peer: config.other.uuid}
    if given.owner not in uuids:
        return complain(f"--owner {given.owner}: the nodes are {' and '.join(sorted(uuids))}", 2)
    if not given.reason.strip():
        return complain("--reason: say why; it stays in the lock's history", 2)
    override = Override(
        config=config,
        fence=fence_of(config, given.resource, paths),
        guards=Guards(paths, given.resource, config.resources[given.resource].minor),
        paths=paths,
        epoch=given.epoch,
        owner=uuids[given.owner],
        owner_name=given.owner,
        reason=given.reason.strip(),
        proof=given.powered_off_proof.strip(),
    )
    if not _confirmed(override, given.confirm, undo=given.undo):
        return complain(f"not confirmed: the name of the resource, {given.resource}, was not typed", 2)
    return _undo(override) if given.undo else _steal(override)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drbd-fence steal",
        description="Take the lock from an owner that will not return. What only that owner holds is lost.",
    )
    parser.add_argument("resource")
    parser.add_argument("--epoch", type=int, required=True, help="the lock's epoch, as `drbd-fence status` shows it")
    parser.add_argument("--owner", required=True, metavar="NODE", help="who owns the lock, as `drbd-fence status` says")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="kept in the lock's history")
    parser.add_argument("--confirm", metavar="RESOURCE", help="the resource once more, where nobody can be asked")
    parser.add_argument("--undo", action="store_true", help="give up an override that broke off: the lock as it was")
    parser.add_argument(
        "--powered-off-proof",
        default="",
        metavar="TEXT",
        help="how you know that the owner has no power; without it the owner gets the time to remove itself",
    )
    return parser


def _confirmed(override: Override, typed: str | None, *, undo: bool) -> bool:
    """Have the resource typed again."""
    if typed is None:
        if not sys.stdin.isatty():
            return False
        what = (
            "The lock becomes what it was before the override."
            if undo
            else f"Every write that only {override.owner_name} holds is lost; it can return only as the victim of "
            "`hapair recover-split-brain`, or by a full resync."
        )
        say(f"{what}\nType the name of the resource to go on:")
        typed = sys.stdin.readline().strip()
    return typed == override.resource


def _steal(override: Override) -> int:
    """STEALING, wait, SOLO, promote."""
    objection = override.objection()
    if objection:
        return complain(f"refused: {objection}", 1)
    began = override.fence.begin_override(override.epoch, override.owner, override.objection, override.reason)
    if _taken_before(override, began.record):
        return _finish(override, override.fence.take(override.objection, reason=override.reason))
    if began.held is not Held.HELD or began.record is None:
        return complain(_why_not(override, began), 1)
    stealing = began.record
    _log(override, "steal", f"STEALING, epoch {stealing.epoch}")
    say(f"the lock is STEALING, epoch {stealing.epoch}: neither node can take it")
    try:
        _wait(override)
        return _take(override, stealing)
    except KeyboardInterrupt:
        return complain(f"\ninterrupted: {_way_on(override, stealing)}", 130)


def _wait(override: Override) -> None:
    if override.proof:
        say(f"does not wait: {override.proof}")
        return
    limit_s = wait_s(override.config.times)
    say(f"waits {limit_s:g} s, in which {override.owner_name} sees it and removes itself, if it lives")
    # Nothing announces that a node which cannot be reached is gone.
    sleep(limit_s)


def _take(override: Override, stealing: LockRecord) -> int:
    proof = f"; powered off: {override.proof}" if override.proof else ""
    taken = override.fence.end_override(stealing, override.objection, f"{override.reason}{proof}")
    if taken.held is not Held.HELD or taken.record is None:
        return complain(f"{_why_not(override, taken)}\n{_way_on(override, stealing)}", 1)
    return _finish(override, taken)


def _taken_before(override: Override, record: LockRecord | None) -> bool:
    """True for an override that broke off after its SOLO was written: what is left is the promotion."""
    if record is None or not held_by(record, override.fence.me) or record.epoch != override.epoch:
        return False
    former = record.history[-1:]
    return bool(former) and (former[0].state, former[0].owner) == (LockState.STEALING, override.owner)


def _finish(override: Override, taken: Answer) -> int:
    """Promote, by force where the kernel knows that this replica is behind: the last step, under a confirmed SOLO."""
    if taken.held is not Held.HELD or taken.record is None:
        return complain(_why_not(override, taken), 1)
    _log(override, "steal", f"SOLO, epoch {taken.record.epoch}")
    say(f"the lock is SOLO of {override.config.node}, epoch {taken.record.epoch}")
    if override.behind:
        say("this replica is known to be behind: drbdadm primary --force")
        done = proc.run(["drbdadm", "primary", "--force", override.resource], FORCE_LIMIT_S)
        _log(override, "drbdadm primary --force", "done" if done.ok else done.last_line)
        if not done.ok:
            return complain(
                f"drbdadm primary --force {override.resource}: {done.last_line}; the lock is this node's", 1
            )
    return r0.main(override.resource, ["primary"], override.paths)


def _undo(override: Override) -> int:
    answer = override.fence.undo_override(override.epoch, f"override undone: {override.reason}")
    if answer.held is Held.REFUSED and answer.record is not None and answer.record.state is not LockState.STEALING:
        return complain(f"there is no override to undo: the lock is {_state(override, answer.record)}", 1)
    if answer.held is not Held.HELD or answer.record is None:
        return complain(_why_not(override, answer), 1)
    _log(override, "undo the override", f"{answer.record.state.value}, epoch {answer.record.epoch}")
    say(f"the lock is {_state(override, answer.record)} again")
    return 0


def _why_not(override: Override, answer: Answer) -> str:
    """Tell what stands in the way, with the words for the next attempt."""
    if answer.held is Held.UNAVAILABLE:
        return f"not done: {answer.text}"
    if answer.record is None:
        return f"refused: {answer.text}"
    now = f"the lock is {_state(override, answer.record)}"
    if answer.record.epoch != override.epoch or answer.record.owner != override.owner:
        return f"refused: {now}, not epoch {override.epoch} of {override.owner_name}: look at `drbd-fence status` again"
    if answer.record.state is LockState.STEALING:
        return f"refused: {now}, and its history does not tell what it was before: nothing can be put back"
    return f"refused: {now}: there is nothing to take: `{override.resource} primary` is enough"


def _state(override: Override, record: LockRecord) -> str:
    names = {override.fence.me: override.config.node, override.fence.peer: override.config.peer}
    of = "from" if record.state is LockState.STEALING else "of"
    return f"{record.state.value} {of} {names.get(record.owner, record.owner)}, epoch {record.epoch}"


def _way_on(override: Override, stealing: LockRecord) -> str:
    command = f"drbd-fence steal {override.resource} --epoch {stealing.epoch} --owner {override.owner_name} --reason …"
    return f"while the lock is STEALING nobody can take it. Take it up: {command}   Give it up: the same with --undo"


def _log(override: Override, action: str, outcome: str) -> None:
    log = DecisionLog(override.paths.decisions, journal=False)
    log.add(override.resource, rule="F8", action=action, outcome=outcome, why=override.reason, durable=True)
    log.drain(LOG_LIMIT_S)
