"""`drbd-fence accept-restored RESOURCE`: a person vouches for a store that was put back from a backup (F9).

Each node keeps the highest epoch that it has seen and believes no lower one: a restored lock tells yesterday's truth,
and the replica that it names may lack today's writes. While both replicas are UpToDate the truth is plain: SHARED.
Otherwise the person says which node has every acknowledged write, and no other node serves before that one is back.
"""

from __future__ import annotations

import argparse
import sys
from typing import Sequence

from hapair.config import BadConfig, Config, load
from hapair.decisions import DecisionLog
from hapair.fence.base import BadStore
from hapair.fence.site import fence_of, open_store
from hapair.fencing import Held, no_guard
from hapair.guards import Guards
from hapair.paths import Paths
from hapair.say import complain, say

LOG_LIMIT_S = 2.0


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run the command; 0: done, 1: refused or failed, 2: bad input."""
    paths = paths or Paths()
    given = _parser().parse_args(list(argv))
    try:
        config = load(paths.config)
        open_store(config.store, paths)
    except (BadConfig, BadStore) as bad:
        return complain(str(bad), 2)
    fault = _fault(config, given)
    if fault:
        return complain(fault, 2)
    name, guards = given.resource, Guards(paths, given.resource, config.resources[given.resource].minor)
    objection = guards.release()
    if objection and not given.owner:
        return complain(f"{objection}: say with --owner which node has every acknowledged write", 1)
    owner = {"": "", config.node: config.me.uuid, config.peer: config.other.uuid}[given.owner]
    fence = fence_of(config, name, paths)
    guard = no_guard if given.owner else guards.release
    reason = f"restored store accepted: {given.reason.strip()}"
    answer = fence.accept_restored(given.stored, given.seen, owner, guard, reason)
    if answer.held is not Held.HELD or answer.record is None:
        return complain(f"{answer.held.value}: {answer.text}", 1)
    done = f"{answer.record.state.value} {given.owner}".strip()
    log = DecisionLog(paths.decisions, journal=False)
    log.add(name, rule="F9", action="accept a restored store", outcome=done, why=given.reason.strip(), durable=True)
    log.drain(LOG_LIMIT_S)
    say(f"the lock is {done}, epoch {answer.record.epoch}; the other node may have to be told too")
    return 0


def _fault(config: Config, given: argparse.Namespace) -> str:
    """Return what is wrong with the words, or ""."""
    if given.resource not in config.resources:
        return f"no such resource: {given.resource}; this site has {', '.join(config.resources)}"
    if given.owner not in ("", config.node, config.peer):
        return f"--owner {given.owner}: the nodes are {config.node} and {config.peer}"
    if not given.reason.strip():
        return "--reason: say why; it stays in the lock's history"
    if not _confirmed(given.resource, given.confirm):
        return f"not confirmed: the name of the resource, {given.resource}, was not typed"
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drbd-fence accept-restored", description="Go on with a fence store that was put back from a backup."
    )
    parser.add_argument("resource")
    parser.add_argument("--stored", type=int, required=True, metavar="EPOCH", help="the epoch that the store has now")
    parser.add_argument("--seen", type=int, required=True, metavar="EPOCH", help="the highest that this node has seen")
    parser.add_argument("--reason", required=True, metavar="TEXT", help="kept in the lock's history")
    parser.add_argument(
        "--owner", default="", metavar="NODE", help="who has every acknowledged write; none while both are UpToDate"
    )
    parser.add_argument("--confirm", metavar="RESOURCE", help="the resource once more, where nobody can be asked")
    return parser


def _confirmed(resource: str, typed: str | None) -> bool:
    if typed is None:
        if not sys.stdin.isatty():
            return False
        say("What the backup of the store does not know counts no more. Type the name of the resource to go on:")
        typed = sys.stdin.readline().strip()
    return typed == resource
