"""Faults of the host programs on a node: a handler that misbehaves, an agent that hangs or is killed, other texts."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress

from lab.deadline import Deadline
from lab.errors import HapairError
from lab.providers.base import Lab
from lab.scenario.changed import Change, changed
from lab.scenario.faults import placed
from lab.scenario.history import History

FOLDER = "/usr/lib/hapair"
HANDLER = f"{FOLDER}/fence-peer"
PLANTED = f"{FOLDER}/fence-peer.planted"
REAL = f"{FOLDER}/real/fence-peer"  # the programs go by the name that they are called by
ARCHIVE = f"{FOLDER}/hapair.pyz"
AGENT = "hapair-agent.service"
ANSWERS = "until hapair status > /dev/null; do sleep 0.1; done"  # nothing outside tells that a new agent listens
KILLED = f"until systemctl kill --kill-who=main --signal=KILL {AGENT} 2> /dev/null; do sleep 0.05; done"
LIMIT_S = 20.0
BACK_S = 40.0  # a node that removed itself is up again within this
Fault = AbstractContextManager[None]


class ProgramFaults:
    """What can be wrong with the programs of one node."""

    def __init__(self, lab: Lab, history: History) -> None:
        self._lab, self._history = lab, history

    def handler(self, node: str, name: str, script: str) -> Fault:
        """Let DRBD find this shell script as its fence-peer handler; "" lets it find nothing.

        `REAL` in the script calls the real one.
        """

        def put() -> None:
            if script:
                self._run(node, "mkdir", "-p", f"{FOLDER}/real")
                self._run(node, "ln", "-sfn", "../hapair.pyz", REAL)
                text = f"#!/bin/sh\n# Planted.\nREAL={REAL}\n{script}\n"
                self._lab.nodes[node].put(text.encode(), PLANTED, 0o755)
            self._run(node, "ln", "-sfn", PLANTED if script else f"{FOLDER}/nowhere", HANDLER)

        def heal() -> None:
            self._lab.nodes[node].wait_ready(Deadline.after(BACK_S))
            self._run(node, "ln", "-sfn", "hapair.pyz", HANDLER)
            # What still runs of it would hold up the next call; there may be nothing.
            self._lab.nodes[node].run(["pkill", "-KILL", "-f", f"^/bin/sh {HANDLER}"], limit_s=LIMIT_S, check=False)

        return placed(self._history, f"handler_{name}", node, put, heal)

    def agent_hangs(self, node: str) -> Fault:
        """Stop the agent in its tracks; systemd's watchdog kills it in the end."""

        def heal() -> None:
            with suppress(HapairError):  # the node or that agent may be gone meanwhile
                self._signal(node, "CONT")

        return placed(self._history, "agent_hangs", node, lambda: self._signal(node, "STOP"), heal)

    def kill_agent(self, node: str) -> None:
        """Kill the agent with SIGKILL, as soon as there is one; systemd starts it again.

        Not a fault that an outage is counted from.
        """
        # One that was just killed may not have been started again yet, and nothing outside tells when it is.
        self._run(node, "sh", "-c", KILLED)
        self._history.note("scenario", "agent_killed", node=node)

    def change(self, node: str, *changes: Change) -> None:
        """Give a node other host programs, for good: until the pair is made new. Returns when its new agent answers.

        Raises:
            HapairError: what is to be changed is not there.
        """
        there = self._lab.nodes[node]
        there.put(changed(there.get(ARCHIVE), changes), ARCHIVE, 0o755)
        self._run(node, "sync")  # the root disk forgets what it has not written, too
        self.kill_agent(node)
        self._run(node, "sh", "-c", ANSWERS)

    def _signal(self, node: str, name: str) -> None:
        self._run(node, "systemctl", "kill", "--kill-who=main", f"--signal={name}", AGENT)

    def _run(self, node: str, *argv: str) -> None:
        self._lab.nodes[node].run(argv, limit_s=LIMIT_S)
