"""`r0 …`, by the name of a resource: the recipe's words, for any number of resources.

`primary`, `secondary` and `suspend` go through the agent, so that no promotion goes past the lock (F6).
"""

from __future__ import annotations

from typing import Dict, Sequence

from hapair import proc, server
from hapair.config import BadConfig, Resource, load
from hapair.memory import Wish
from hapair.paths import Paths
from hapair.say import complain, say

WISHES = {wish.value: wish for wish in (Wish.PRIMARY, Wish.SECONDARY, Wish.SUSPEND)}
ANYWAY = "--anyway"
USAGE = """usage: {name} primary           serve here: lock, promote, mount, start LXD
       {name} secondary         stop the services and step down; the peer takes over
                                either of them with --anyway: although LXD, liblxc or id maps of the nodes differ
       {name} suspend           stop the services, stay Primary
       {name} status            state of DRBD, lock and services
       {name} init ARGS…        lxd init
       {name} lxd ARGS…         lxd
       {name} enter CONTAINER   a shell in a container
       {name} [lxc] ARGS…       lxc"""


def main(name: str, argv: Sequence[str], paths: Paths | None = None) -> int:
    """Run one command for the resource `name`; 0: done, 1: failed, 2: bad input."""
    paths = paths or Paths()
    try:
        config = load(paths.config)
    except BadConfig as bad:
        return complain(str(bad), 2)
    if name not in config.resources:
        return complain(f"no such resource: {name}; this site has {', '.join(config.resources)}", 2)
    if not argv or argv[0] in ("-h", "--help"):
        complain(USAGE.format(name=name), 0)
        return 0 if argv else 2
    word, rest = argv[0], list(argv[1:])
    anyway = rest == [ANYWAY] and word != Wish.SUSPEND.value
    if word in WISHES and (anyway or not rest):
        limit_s = server.limit_of(WISHES[word], config.times) + 5.0
        return _wish({"op": word, "resource": name, "anyway": anyway}, limit_s, paths)
    if word == "status" and not rest:
        from hapair import cli  # noqa: PLC0415 - the other words need none of it

        return cli.main(["status"], paths)
    return _lxd(config.resources[name], word, rest)


def _wish(question: Dict[str, object], limit_s: float, paths: Paths) -> int:
    """Ask the agent, print what it waits for, return how it ended."""
    try:
        for reply in server.ask(paths.socket, question, limit_s):
            if reply.get("done"):
                text = str(reply.get("text"))
                if reply.get("ok"):
                    say(text)
                    return 0
                return complain(text, 1)
            say(str(reply.get("waiting")))
    except (OSError, ValueError) as bad:
        return complain(f"the agent does not answer ({bad}): systemctl status hapair-agent", 1)
    return complain("the agent broke off", 1)


def _lxd(resource: Resource, word: str, rest: list[str]) -> int:
    """Become lxc or lxd with the resource's LXD_DIR."""
    if word == "init":
        command = ["lxd", "init", *rest]
    elif word in ("lxd", "lxc"):
        command = [word, *rest]
    elif word == "enter":
        if len(rest) != 1:
            return complain(f"usage: {resource.name} enter CONTAINER", 2)
        command = [
            "lxc",
            "exec",
            rest[0],
            "--",
            "sh",
            "-c",
            "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi",
        ]
    else:
        command = ["lxc", word, *rest]
    try:
        proc.replace_self(command, {"LXD_DIR": resource.lxd_dir})
    except OSError as bad:
        return complain(f"{command[0]}: {bad.strerror}", 1)
    return 0
