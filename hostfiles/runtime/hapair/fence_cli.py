"""`drbd-fence lock|unlock|status|history|probe|init RESOURCE`: the recipe's words and exit codes, conditional writes.

What fails names the lock's place in the store, and what to do about it.
`drbd-fence steal` is in `override`, `drbd-fence accept-restored` in `restored`.
"""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Dict, List, Sequence, Union

from hapair.config import BadConfig, Config, load
from hapair.fence.base import BadStore
from hapair.fence.site import fence_of, open_store
from hapair.fencing import Answer, Fence, Held
from hapair.guards import Guards
from hapair.lock import Former, LockRecord
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.states import Role
from hapair.status import lock_fields

USAGE = """usage: drbd-fence lock|unlock|status|history|probe|init RESOURCE; --json with status and history
       drbd-fence steal|accept-restored --help"""
TIME = "%Y-%m-%d %H:%M:%S UTC"


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run one command; 0: success, 1: failure, 2: bad input."""
    paths = paths or Paths()
    commands: Dict[str, Callable[[Config, Fence, Guards], int]] = {
        "lock": _lock,
        "unlock": _unlock,
        "status": _status,
        "status --json": _status_json,
        "history": _history,
        "history --json": _history_json,
        "probe": _probe,
        "init": _init,
    }
    if argv[:1] == ["steal"]:
        from hapair import override  # noqa: PLC0415 - the other words need none of it

        return override.main(argv[1:], paths)
    if argv[:1] == ["accept-restored"]:
        from hapair import restored  # noqa: PLC0415 - the other words need none of it

        return restored.main(argv[1:], paths)
    asked = "-h" in argv or "--help" in argv
    words = [word for word in argv if word != "--json"]
    command = "" if asked or len(words) != 2 else words[0] if len(argv) == 2 else f"{words[0]} --json"
    if command not in commands:
        return _usage(asked=asked)
    try:
        config = load(paths.config)
        open_store(config.store, paths)
    except (BadConfig, BadStore) as bad:
        return complain(str(bad), 2)
    resource = words[1]
    if resource not in config.resources:
        return complain(f"no such resource: {resource}; this site has {', '.join(config.resources)}", 2)
    guards = Guards(paths, resource, config.resources[resource].minor)
    return commands[command](config, fence_of(config, resource, paths), guards)


def _usage(*, asked: bool) -> int:
    if not asked:
        return complain(USAGE, 2)
    say(USAGE)
    return 0


def _lock(config: Config, fence: Fence, guards: Guards) -> int:
    """Take the lock by hand; never from under a connected peer that serves: it would go once it lost this node."""

    def objection() -> str:
        kernel = guards.kernel()
        if kernel is not None and kernel.connected and kernel.peer_role is Role.PRIMARY:
            return f"{config.peer} is connected and serves: `{fence.resource} secondary` there moves the services"
        return guards.claim()

    return _told(config, fence, fence.take(objection))


def _unlock(config: Config, fence: Fence, guards: Guards) -> int:
    return _told(config, fence, fence.release(guards.release))


def _status(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    answer = fence.read()
    if answer.record is None:
        return _told(config, fence, answer)
    record = answer.record
    say(f"{fence.resource}: {_text(config, answer)}, written by {_name(config, record.writer)} at {_when(record.time)}")
    if record.reason:
        say(f"  because: {record.reason}")
    say(f"  in {config.store.place(fence.name)}")
    return 0


def _status_json(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    answer = fence.read()
    if answer.record is None:
        return _told(config, fence, answer)
    place = config.store.place(fence.name)
    say(json.dumps({**lock_fields(config, answer.record), "reason": answer.record.reason, "place": place}, indent=2))
    return 0


def _history(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    answer = fence.read()
    if answer.record is None:
        return _told(config, fence, answer)
    for one in _versions(config, answer.record):
        line = f"{_when(one['time'])}  epoch {one['epoch']}  {one['state']} {one['owner']}  by {one['writer']}"
        say(f"{line}  {one['reason']}".rstrip())
    return 0


def _history_json(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    answer = fence.read()
    if answer.record is None:
        return _told(config, fence, answer)
    say(json.dumps(_versions(config, answer.record), indent=2))
    return 0


def _versions(config: Config, record: LockRecord) -> List[Dict[str, Any]]:
    """Return the versions of the lock that are known, oldest first, the one in force last."""
    versions: List[Union[Former, LockRecord]] = [*record.history, record]
    return [
        {
            "epoch": one.epoch,
            "state": one.state.value,
            "owner": _name(config, one.owner),
            "writer": _name(config, one.writer),
            "time": one.time,
            "reason": one.reason,
        }
        for one in versions
    ]


def _probe(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    """F11: a store that ignores conditions is refused; asked on an object beside the lock, which stays as it is."""
    place = config.store.place(fence.name)
    wrong = fence.conditions_hold()
    if wrong:
        return complain(f"{wrong}\n  asked beside {place}; the lock itself was not touched", 1)
    say(f"the store honours conditions (asked beside {place})")
    return 0


def _init(config: Config, fence: Fence, guards: Guards) -> int:
    """Create the lock, SHARED: only while both sides hold everything, only where there is none (FAILOVER.md, 2)."""
    objection = guards.release()
    if objection:
        return complain(f"{objection}: a lock is made only while both replicas hold everything", 1)
    wrong = fence.conditions_hold()
    if wrong:
        return complain(f"{wrong}\n  asked beside {config.store.place(fence.name)}; no lock was made", 1)
    answer = fence.create(guards.release)
    if answer.held is Held.REFUSED:
        return complain(f"there is a lock already: {_text(config, answer)}, in {config.store.place(fence.name)}", 1)
    return _told(config, fence, answer)


def _told(config: Config, fence: Fence, answer: Answer) -> int:
    if answer.held is Held.HELD:
        say(_text(config, answer))
        return 0
    refused = answer.held is Held.REFUSED and answer.record is not None
    why = f"the lock is {_text(config, answer)}" if refused else answer.text or _text(config, answer)
    return complain(f"{answer.held.value}: {why}\n  in {config.store.place(fence.name)}", 1)


def _text(config: Config, answer: Answer) -> str:
    if answer.record is None:
        return answer.text
    record = answer.record
    return f"{record.state.value} {_name(config, record.owner)}, epoch {record.epoch}"


def _name(config: Config, uuid: str) -> str:
    return {config.me.uuid: config.node, config.other.uuid: config.peer}.get(uuid, uuid)


def _when(seconds: float) -> str:
    return time.strftime(TIME, time.gmtime(seconds))
