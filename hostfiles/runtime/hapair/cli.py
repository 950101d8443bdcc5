"""`hapair SUBCOMMAND`: the agent, the departure, what people want to know, and what only people may decide.

What only one subcommand needs is imported in its function: the agent has to be there soon after its start.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Sequence

from hapair import server, status
from hapair.config import BadConfig, Config, load
from hapair.fence.base import BadStore
from hapair.fence.site import open_store
from hapair.guards import Guards
from hapair.memory import Wish
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.single import AnotherRuns, only_agent

STATUS_LIMIT_S = 15.0
BAD_INPUT_PAUSE_S = 5.0


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run one subcommand; return its exit code (0 done, 1 failed, 2 bad input)."""
    paths = paths or Paths()
    given = _parser().parse_args(list(argv))
    if given.command == "store":
        return _store(given.listen, Path(given.folder))
    try:
        config = load(paths.config)
    except BadConfig as bad:
        return _not_started(str(bad)) if given.command == "agent" else complain(str(bad), 2)
    resource = getattr(given, "resource", None)
    if resource is not None and resource not in config.resources:
        return complain(f"no such resource: {resource}; this site has {', '.join(config.resources)}", 2)
    commands: Dict[str, Callable[[], int]] = {
        "agent": lambda: _agent(config, paths),
        "leave": lambda: _leave(config, paths),
        "status": lambda: _status(paths, as_json=given.json),
        "explain": lambda: _explain(config, paths, given.resource, given.n),
        "recover-split-brain": lambda: _recover(config, paths, given),
        "preflight": lambda: _preflight(config, paths, given),
        "restored-replica": lambda: _restored_replica(config, paths, given),
        "clear-tombstone": lambda: _clear_tombstone(config, paths, given.resource),
    }
    return commands[given.command]()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hapair", description="Host programs of a hapair node.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("agent", help="follow DRBD and decide (the service)")
    commands.add_parser("leave", help="step down, hand the lock over and take DRBD down (before a shutdown)")
    shown = commands.add_parser("status", help="who serves, who holds the lock, what is waited for")
    shown.add_argument("--json", action="store_true", help="as JSON")
    served = commands.add_parser("store", help="the reference fence store, for a third machine")
    served.add_argument("--listen", required=True, metavar="ADDR:PORT")
    served.add_argument("--folder", required=True, metavar="DIR", help="where the locks and the request log are kept")
    cleared = commands.add_parser("clear-tombstone", help="let a disk that failed once claim again")
    cleared.add_argument("resource")
    explained = commands.add_parser("explain", help="the last decisions, with their rules and why")
    explained.add_argument("resource")
    explained.add_argument("-n", type=int, default=20, metavar="COUNT", help="how many (20)")
    checked = commands.add_parser("preflight", help="is everything as the protocol needs it? (rule F11)")
    checked.add_argument("resource", nargs="?")
    checked.add_argument("--json", action="store_true", help="as JSON, with fingerprints for --compare")
    checked.add_argument("--compare", metavar="FILE", help="the other node's --json: what must be the same there")
    recovered = commands.add_parser("recover-split-brain", help="discard one replica's changes, after saving them")
    recovered.add_argument("resource")
    recovered.add_argument("--victim", required=True, metavar="NODE", help="whose changes are discarded")
    recovered.add_argument("--dry-run", action="store_true", help="only show what this side has")
    recovered.add_argument("--confirm", metavar="NODE", help="the victim's name once more, where nobody can be asked")
    recovered.add_argument("--save", metavar="DIR", help="where the copy goes (/var/lib/hapair/discarded)")
    restored = commands.add_parser("restored-replica", help="what becomes of a replica that was put back (rule F9)")
    restored.add_argument("resource")
    way = restored.add_mutually_exclusive_group(required=True)
    way.add_argument("--discard", action="store_true", help="make it anew: the peer's data is copied to it in full")
    way.add_argument("--trust", action="store_true", help="attach it as it is: the peer's data is gone for good")
    restored.add_argument("--reason", default="", metavar="TEXT", help="for --trust; kept in the decision log")
    restored.add_argument("--confirm", metavar="RESOURCE", help="the resource once more, where nobody can be asked")
    return parser


def _status(paths: Paths, *, as_json: bool) -> int:
    try:
        reply = next(server.ask(paths.socket, {"op": "status"}, STATUS_LIMIT_S))
    except (OSError, StopIteration, ValueError) as bad:
        return complain(f"the agent does not answer ({bad or 'no reply'}): systemctl status hapair-agent", 1)
    if not reply.get("ok"):
        return complain(str(reply.get("text")), 1)
    say(json.dumps(reply["status"], indent=2) if as_json else status.text(reply["status"]))
    return 0


def _agent(config: Config, paths: Paths) -> int:
    """Run the agent. A store that cannot be used is told before anything is touched; what is up already needs care.

    The SDK of a cloud store is imported here, in the thread that has stack enough for it.
    """
    from hapair import agent  # noqa: PLC0415 - see the module's text

    try:
        open_store(config.store, paths)
    except BadStore as bad:
        up = [name for name, it in config.resources.items() if Guards(paths, name, it.minor).kernel() is not None]
        if not up:
            return _not_started(f"{bad}\nnothing was started")
        complain(f"{bad}\n{', '.join(up)} is up: going on, without the store", 0)
    try:
        with only_agent(paths):
            return agent.main(config, paths)
    except AnotherRuns as other:
        return complain(str(other), 1)


def _not_started(why: str) -> int:
    """Say what a person has to mend; under systemd, which starts the agent again at once, not ten times a second."""
    code = complain(why, 2)
    if "NOTIFY_SOCKET" in os.environ:
        # Nothing announces that a file was mended.
        time.sleep(BAD_INPUT_PAUSE_S)
    return code


def _leave(config: Config, paths: Paths) -> int:
    """F3, through the agent while it lives, else with an agent of our own that does nothing but leave."""
    limit_s = server.limit_of(Wish.LEAVE, config.times) + 5.0
    try:
        for reply in server.ask(paths.socket, {"op": "leave"}, limit_s):
            say(str(reply.get("text") or reply.get("waiting")))
            if reply.get("done"):
                return 0 if reply.get("ok") else 1
    except OSError:
        pass
    say("no agent answers: leaving without it")
    from hapair import agent  # noqa: PLC0415 - see the module's text

    try:
        with only_agent(paths):
            return agent.Agent(config, paths).run(leave_only=True)
    except AnotherRuns as other:
        return complain(f"{other}; it does not answer", 1)


def _store(listen: str, folder: Path) -> int:
    from hapair import store  # noqa: PLC0415 - see the module's text

    address, _, port = listen.rpartition(":")
    if not address or not port.isdigit():
        return complain(f"--listen {listen}: ADDR:PORT is expected, like 192.0.2.20:8440", 2)
    try:
        running = store.serve(address.strip("[]"), int(port), folder)
    except OSError as bad:
        return complain(f"cannot serve on {listen} from {folder}: {bad}", 1)
    say("serving on {}:{}".format(*running.server_address[:2]))
    try:
        running.serve_forever()
    except KeyboardInterrupt:
        return 130
    return 0


def _explain(config: Config, paths: Paths, resource: str, count: int) -> int:
    from hapair import explain  # noqa: PLC0415 - see the module's text

    try:
        entries = explain.last_decisions(paths.decisions, resource, max(1, count))
    except OSError as bad:
        return complain(f"{paths.decisions}: {bad.strerror}", 1)
    names = {config.me.uuid: config.node, config.other.uuid: config.peer}
    say(explain.text(entries, names) if entries else f"{resource}: nothing was decided yet")
    return 0


def _preflight(config: Config, paths: Paths, given: argparse.Namespace) -> int:
    from hapair import preflight  # noqa: PLC0415 - see the module's text

    names = (given.resource,) if given.resource else tuple(config.resources)
    compare = Path(given.compare) if given.compare else None
    return preflight.run(config, paths, names, as_json=given.json, compare=compare)


def _recover(config: Config, paths: Paths, given: argparse.Namespace) -> int:
    from hapair import split_brain  # noqa: PLC0415 - see the module's text

    if given.victim not in (config.node, config.peer):
        return complain(f"--victim {given.victim}: the nodes are {config.node} and {config.peer}", 2)
    folder = Path(given.save) if given.save else paths.state / "discarded"
    recovery = split_brain.Recovery(config, paths, given.resource, given.victim)
    return split_brain.run(recovery, folder=folder, confirm=given.confirm, dry_run=given.dry_run)


def _restored_replica(config: Config, paths: Paths, given: argparse.Namespace) -> int:
    from hapair import restored_replica  # noqa: PLC0415 - see the module's text

    if given.trust and not given.reason.strip():
        return complain("--reason: say why this replica is to be trusted; it stays in the decision log", 2)
    replica = restored_replica.Restored(config, paths, given.resource, given.confirm)
    return replica.trust(given.reason.strip()) if given.trust else replica.discard()


def _clear_tombstone(config: Config, paths: Paths, resource: str) -> int:
    """F4: the disk may claim again once it was synchronised in full: Connected, both sides UpToDate."""
    mark = paths.tombstone(resource)
    if not mark.exists():
        say(f"{resource}: there is no tombstone")
        return 0
    objection = Guards(paths, resource, config.resources[resource].minor).release()
    if objection:
        return complain(f"{resource}: {objection}; let it synchronise first", 1)
    mark.unlink()
    say(f"{resource}: cleared")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
