"""A prompt on the pair at the point of failure, before anything is torn down."""

from __future__ import annotations

import sys

from lab import log
from lab.errors import HapairError
from lab.providers.base import Lab

COMMAND_LIMIT_S = 120.0


def drop(lab: Lab, why: str) -> None:
    """Run what the user types in a node (`n1 drbdadm status`), until `quit` or the end of the input."""
    names = ", ".join(lab.nodes)
    log.say(f"{why}\nThe lab {lab.name} is as the scenario left it: NODE COMMAND… runs there ({names}); quit goes on.")
    while True:
        sys.stderr.write("hapair> ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() in ("quit", "exit", "q"):
            return
        if line.strip():
            log.out(answer(lab, line.strip()))


def answer(lab: Lab, line: str) -> str:
    """Return what one line's command printed, with its exit code when that is not 0."""
    name, _, command = line.partition(" ")
    if name not in lab.nodes or not command.strip():
        return f"write NODE COMMAND…, with one of {', '.join(lab.nodes)}"
    try:
        done = lab.nodes[name].run(["sh", "-c", command], limit_s=COMMAND_LIMIT_S, check=False)
    except HapairError as error:
        return str(error)
    text = (done.stdout + done.stderr).decode(errors="replace").rstrip("\n")
    return f"{text}\n[exit code {done.code}]" if done.code else text
