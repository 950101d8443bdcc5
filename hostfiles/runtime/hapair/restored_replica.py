"""`hapair restored-replica RESOURCE --discard|--trust`: a person decides about a replica that was put back (F9).

The agent does not attach a replica that is older than the one attached last (`incarnation`). With new meta-data it can
be nothing but the target of a full resync. Only where the peer's data is gone for good is there a reason to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from hapair import incarnation, proc
from hapair.config import Config
from hapair.decisions import DecisionLog
from hapair.fencing import Busy
from hapair.guards import Guards
from hapair.incarnation import Incarnation, Unknown
from hapair.paths import Paths
from hapair.say import complain, say, typed
from hapair.split_brain import Recovery

CREATE_S = 300.0
"""For `drbdadm create-md`, which writes the whole bitmap: 32 MiB for each TiB."""
IN_USE_S = 30.0
"""How long the agent may be at it: it waits for the store, then attaches."""
LOG_LIMIT_S = 2.0
INTERRUPTED = 130
"""128 and the number of SIGINT, as a shell has it."""


@dataclass(frozen=True)
class Restored:
    """The replica of one resource on this node; `confirm` is the resource's name typed in advance.

    Both ways return an exit code: 0 done, 1 refused or failed, 2 not confirmed, 130 interrupted.
    """

    config: Config
    paths: Paths
    resource: str
    confirm: str | None

    def discard(self) -> int:
        """Make the meta-data anew."""
        count = Incarnation(self.config, self.resource, self.paths)
        objection = Recovery(self.config, self.paths, self.resource, self.config.node).lock_objection()
        if objection:
            return complain(f"refused: {objection}", 1)
        peer = self.config.peer
        say(f"all that the replica of {self.resource} on {self.config.node} holds is lost by this. Until {peer} has")
        say(f"copied its data here in full, that of {peer} is the only one.")
        return self._alone(count, lambda: self._anew(count))

    def trust(self, reason: str) -> int:
        """Let the meta-data say that this replica is the one that was attached last."""
        count = Incarnation(self.config, self.resource, self.paths)
        say(f"the replica of {self.resource} on {self.config.node} counts as current by this, whatever it lacks:")
        say("what was written after this copy was made may be lost for good.")
        return self._alone(count, lambda: self._trusted(count, reason))

    def _alone(self, count: Incarnation, change: Callable[[], str]) -> int:
        """Do it while no agent attaches the replica; `change` returns what was done."""
        prompt = f"Type the name of the resource ({self.resource}) to go on:"
        try:
            if count.attached():
                return complain(f"refused: {self._in_use()}", 1)
            if not typed(self.resource, self.confirm, prompt):
                return complain(f"not confirmed: the name of the resource, {self.resource}, was not typed", 2)
            with count.alone(IN_USE_S):
                # Again: a person takes a while, and the agent does not wait.
                if count.attached():
                    return complain(f"refused: {self._in_use()}", 1)
                say(change())
        except (Busy, Unknown, OSError) as bad:
            return complain(f"{self.resource}: not done, run it again: {bad}", 1)
        except KeyboardInterrupt:
            return complain(f"{self.resource}: interrupted; `hapair status` says what became of it", INTERRUPTED)
        return 0

    def _in_use(self) -> str:
        return (
            f"DRBD has the replica of {self.resource} attached, so it was not refused: `hapair status`. To discard a "
            f"replica in use, `drbdadm detach {self.resource}` on the standby first"
        )

    def _anew(self, count: Incarnation) -> str:
        argv = ["drbdadm", "create-md", "--force", self.resource]
        done = proc.run(argv, CREATE_S)
        if not done.ok:
            raise Unknown(f"{' '.join(argv)}: {done.last_line}")
        try:
            # drbdadm leaves a random number there. With this one the replica counts as known, whoever attaches it.
            incarnation.write(count.volumes(), count.stored().number)
        except Unknown as why:
            say(f"WARNING: let nothing but hapair-agent attach it the first time: {why}")
        count.forget()
        self._log("discard the replica", "done", "a person gave it up: the peer's data is copied anew")
        known = self.config.resources[self.resource]
        attach = "the agent attaches it"
        if Guards(self.paths, self.resource, known.minor).kernel() is not None:
            attach = f"`drbdadm attach {self.resource}` attaches it"
        return f"{self.resource}: made anew; {attach}, and {self.config.peer} copies all of its data to it"

    def _trusted(self, count: Incarnation, reason: str) -> str:
        stored, volumes = count.stored().number, count.volumes()
        replica = incarnation.read(volumes)
        if not incarnation.older(replica, stored):
            return f"{self.resource}: this replica is not older than the one attached last: nothing was changed"
        incarnation.write(volumes, stored)
        count.forget()
        had = min(one.number for one in replica)
        self._log("trust the replica", f"incarnation {had} counts as {stored}", reason)
        return f"{self.resource}: incarnation {had} counts as {stored}; the agent attaches it. The lock decides as ever"

    def _log(self, action: str, outcome: str, why: str) -> None:
        log = DecisionLog(self.paths.decisions, journal=False)
        log.add(self.resource, rule="F9", action=action, outcome=outcome, why=why, durable=True)
        log.drain(LOG_LIMIT_S)
