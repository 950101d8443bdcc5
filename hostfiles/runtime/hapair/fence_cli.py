"""`drbd-fence lock|unlock|status|init RESOURCE`: the recipe's words and exit codes, on the conditional lock.

`drbd-fence steal` is in `override`.
"""

from __future__ import annotations

import json
from typing import Callable, Dict, Sequence

from hapair.config import BadConfig, Config, load
from hapair.fence.site import fence_of
from hapair.fencing import Answer, Fence, Held
from hapair.guards import Guards
from hapair.paths import Paths
from hapair.say import complain, say
from hapair.status import lock_fields

USAGE = "usage: drbd-fence lock|unlock|status|init RESOURCE, or drbd-fence steal --help"


def main(argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run one command; 0: success, 1: failure, 2: bad input."""
    paths = paths or Paths()
    commands: Dict[str, Callable[[Config, Fence, Guards], int]] = {
        "lock": _lock,
        "unlock": _unlock,
        "status": _status,
        "init": _init,
    }
    if argv[:1] == ["steal"]:
        from hapair import override  # noqa: PLC0415 - the other words need none of it

        return override.main(argv[1:], paths)
    if len(argv) != 2 or argv[0] not in commands:
        return complain(USAGE, 2)
    try:
        config = load(paths.config)
    except BadConfig as bad:
        return complain(str(bad), 2)
    resource = argv[1]
    if resource not in config.resources:
        return complain(f"no such resource: {resource}; this site has {', '.join(config.resources)}", 2)
    guards = Guards(paths, resource, config.resources[resource].minor)
    return commands[argv[0]](config, fence_of(config, resource, paths), guards)


def _lock(config: Config, fence: Fence, guards: Guards) -> int:
    return _told(config, fence.take(guards.claim))


def _unlock(config: Config, fence: Fence, guards: Guards) -> int:
    return _told(config, fence.release(guards.release))


def _status(config: Config, fence: Fence, guards: Guards) -> int:  # noqa: ARG001 - one shape for all commands
    answer = fence.read()
    if answer.record is None:
        return complain(f"unknown: {answer.text}", 1)
    say(json.dumps(lock_fields(config, answer.record), indent=2))
    return 0


def _init(config: Config, fence: Fence, guards: Guards) -> int:
    """Create the lock, SHARED: only while both sides hold everything, only where there is none (FAILOVER.md, 2)."""
    objection = guards.release()
    if objection:
        return complain(f"{objection}: a lock is made only while both replicas hold everything", 1)
    wrong = fence.conditions_hold()
    if wrong:
        return complain(wrong, 1)
    answer = fence.create(guards.release)
    if answer.held is Held.REFUSED:
        return complain(f"there is a lock already: {_text(config, answer)}", 1)
    return _told(config, answer)


def _told(config: Config, answer: Answer) -> int:
    if answer.held is Held.HELD:
        say(_text(config, answer))
        return 0
    return complain(f"{answer.held.value}: {answer.text or _text(config, answer)}", 1)


def _text(config: Config, answer: Answer) -> str:
    if answer.record is None:
        return answer.text
    fields = lock_fields(config, answer.record)
    return f"{fields['state']} {fields['owner']}, epoch {fields['epoch']}"
