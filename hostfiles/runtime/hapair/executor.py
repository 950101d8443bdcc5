"""Carries out the policy's actions for one resource. Each is idempotent, bounded, and raises nothing."""

from __future__ import annotations

import time
from typing import Callable, Dict, Tuple

from hapair import proc
from hapair.actions import LOCK_KINDS, Action, Kind, Outcome, Verdict
from hapair.fencing import Answer, Busy, Fence, Held, replace_file
from hapair.guards import Guards
from hapair.incarnation import Incarnation, PutBack, Unknown
from hapair.lock import Claim
from hapair.paths import Paths
from hapair.services import Services
from hapair.states import Role

Result = Tuple[Verdict, str]
VERDICTS = {Held.HELD: Verdict.DONE, Held.REFUSED: Verdict.REFUSED, Held.UNAVAILABLE: Verdict.UNAVAILABLE}
DEMOTE_PAUSE_S = 0.3
"""Pause before `drbdadm secondary` is tried again: udev may hold the device for a moment; no event tells when not."""
COMMANDS: Dict[Kind, Tuple[str, ...]] = {
    Kind.RECONNECT: ("drbdadm", "connect"),
    Kind.PROMOTE: ("drbdadm", "primary"),
    Kind.SUSPEND_IO: ("drbdadm", "suspend-io"),
    Kind.FORCE_DISCONNECT: ("drbdadm", "disconnect", "--force"),
    Kind.DOWN: ("drbdadm", "down"),
}


class Executor:
    """Runs actions, which come from three threads: DRBD and the lock, the services, the watch of the lock."""

    def __init__(
        self,
        resource: str,
        fence: Fence,
        guards: Guards,
        services: Services,
        *,
        paths: Paths,
        claim: Callable[[], Claim],
        incarnation: Incarnation,
    ) -> None:
        self._resource, self._fence, self._guards = resource, fence, guards
        self._services, self._paths, self._claim = services, paths, claim
        self._incarnation = incarnation
        self._done: Dict[Kind, Callable[[Action], Result]] = {
            Kind.UP: self._up,
            Kind.JUDGE: lambda _: self._judge(),
            Kind.DEMOTE: self._demote,
            Kind.RESUME_IO: self._resume_io,
            Kind.TOMBSTONE: self._tombstone,
            Kind.START: lambda action: _told(self._services.start(time.monotonic() + action.limit_s)),
            Kind.STOP: lambda action: _told(self._services.stop(time.monotonic() + action.limit_s)),
            Kind.PROBE: lambda action: (Verdict.DONE, ""),  # noqa: ARG005 - the lane looks after every action
        }

    def run(self, action: Action) -> Outcome:
        """Do one action and return how it ended."""
        began = time.monotonic()
        if action.kind in LOCK_KINDS:
            answer = self._lock(action.kind)
            verdict = VERDICTS[answer.held]
            if action.kind is Kind.RECORD_PROMOTION and answer.down and not self._guards.release():
                # F6: with the store down, Connected and both UpToDate: allowed, with a warning; the kernel arbitrates.
                return Outcome(action, Verdict.DONE, began, f"WARNING: without the lock: {answer.text}")
            # An UNAVAILABLE answer is "unknown", even where an older version was seen.
            known = None if answer.held is Held.UNAVAILABLE else answer.record
            return Outcome(action, verdict, began, answer.text, known)
        if action.kind in COMMANDS:
            done = proc.run([*COMMANDS[action.kind], self._resource], action.limit_s)
            verdict = Verdict.DONE if done.ok else Verdict.FAILED
            return Outcome(action, verdict, began, "" if done.ok else done.last_line)
        verdict, text = self._done[action.kind](action)
        return Outcome(action, verdict, began, text)

    def _lock(self, kind: Kind) -> Answer:
        if kind in (Kind.TAKE_SOLO, Kind.RECORD_PROMOTION):
            # What the store has not answered yet, it may answer now.
            verdict, wrong = self._judge()
            if verdict is Verdict.FAILED:
                return Answer(Held.UNAVAILABLE, text=wrong)
        if kind is Kind.TAKE_SOLO:
            kernel = self._guards.kernel()
            if kernel is not None and kernel.role is Role.PRIMARY:
                # It serves already, and with what, was told when it was promoted.
                return self._fence.take(self._guards.claim)
            return self._fence.take(self._guards.claim, claim=self._claim())
        if kind is Kind.RECORD_PROMOTION:
            return self._fence.record_promotion(self._claim())
        guarded: Dict[Kind, Callable[[], Answer]] = {
            Kind.RELEASE: lambda: self._fence.release(self._guards.release),
            Kind.HAND_OVER: lambda: self._fence.hand_over(self._guards.hand_over),
            Kind.STAY: lambda: self._fence.stay(self._guards.release),
        }
        return guarded.get(kind, self._fence.read)()

    def _up(self, action: Action) -> Result:
        """`drbdadm adjust`; before it attaches, the attach is counted, and a replica that was put back refused (F9)."""
        try:
            with self._incarnation.alone():
                remark = self._incarnation.count()
                done = proc.run(["drbdadm", "adjust", self._resource], action.limit_s)
        except (Busy, PutBack, Unknown, OSError) as bad:
            return Verdict.FAILED, str(bad)
        return (Verdict.DONE, remark) if done.ok else (Verdict.FAILED, done.last_line)

    def _judge(self) -> Result:
        """F9: now that the store may answer."""
        try:
            wrong = self._incarnation.judge()
        except (Unknown, OSError) as bad:
            return Verdict.UNAVAILABLE, str(bad)
        return (Verdict.FAILED, wrong) if wrong else (Verdict.DONE, "")

    def _demote(self, action: Action) -> Result:
        """`drbdadm secondary`, again while somebody holds the device, until the time is up."""
        until = time.monotonic() + action.limit_s
        while True:
            done = proc.run(["drbdadm", "secondary", self._resource], max(1.0, until - time.monotonic()))
            if done.ok:
                return Verdict.DONE, ""
            if time.monotonic() >= until:
                return Verdict.FAILED, f"drbdadm secondary: {done.last_line}"
            self._services.unmount()
            self._services.kill_users()
            # Nothing announces that the last user has closed the device.
            time.sleep(DEMOTE_PAUSE_S)

    def _resume_io(self, action: Action) -> Result:
        """F2: only while SOLO is confirmed (or the peer current again), under the local lock."""
        try:
            with self._fence.local_lock(action.limit_s):
                if self._fence.note() is None and self._guards.release():
                    return Verdict.FAILED, "SOLO is not confirmed any more"
                done = proc.run(["drbdadm", "resume-io", self._resource], action.limit_s)
                return (Verdict.DONE, "") if done.ok else (Verdict.FAILED, done.last_line)
        except (Busy, OSError) as bad:
            return Verdict.FAILED, str(bad)

    def _tombstone(self, action: Action) -> Result:
        try:
            replace_file(self._paths.tombstone(self._resource), action.why.encode(), durable=True)
        except OSError as bad:
            return Verdict.FAILED, str(bad)
        return Verdict.DONE, ""


def _told(result: tuple[bool, str]) -> Result:
    return (Verdict.DONE if result[0] else Verdict.FAILED), result[1]
