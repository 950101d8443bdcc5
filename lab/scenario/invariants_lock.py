"""The invariants of the fence lock: I3, I4, I7, I12. Pure: the logs of store and proxy against DRBD's events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lab.scenario.history import Event
from lab.scenario.locks import Commit, Exchange, Span, Version, alone, commits, exchanges, solo_spans, spans
from lab.scenario.observed import NODES, Ack, Expectation, Facts, faults
from lab.scenario.verdict import Verdict, invalid, nothing, together, unknown, valid

CLOCK_S = 0.25  # as in lab.scenario.invariants: by how much two clocks may differ
UNSEEN = "nothing is known of the lock's history"


def lock_monotonic(events: Sequence[Event], _: Facts, __: Expectation) -> Verdict:
    """I3: each write's epoch is one more than the last; only lawful changes; nothing changes outside the log.

    SHARED → SHARED records a promotion, SOLO → SOLO a fresh fence of the owner or its hand-over to the peer
    (docs/failover.md says why). Anything else needs an override that the scenario noted.
    """
    made = commits(events)
    if not made:
        return unknown(UNSEEN)
    overridden = any(fault.text("name") == "override" for fault in faults(events))
    wrong: list[str] = []
    last: dict[str, Version] = {}
    for commit in made:
        before, after = commit.before, commit.after
        known = last.get(commit.name)
        if known is not None and before != known:
            wrong.append(f"{commit.name} at {commit.t:.3f} was {before}, not {known} any more")
        last[commit.name] = after
        if before is None:
            continue
        if after.epoch != before.epoch + 1:
            wrong.append(f"{after} after {before}")
        elif not overridden and not _lawful(before, after):
            wrong.append(f"{before} became {after}")
    return together([nothing("unlawful changes of the lock", wrong), valid(f"{len(made)} changes, in order")])


def _lawful(before: Version, after: Version) -> bool:
    change = (before.state, after.state)
    if change in (("SHARED", "SHARED"), ("SHARED", "SOLO")):
        return True
    if change == ("SOLO", "SHARED"):
        return after.writer == before.owner
    if change == ("SOLO", "SOLO"):
        return before.owner in (after.owner, after.writer)
    return False


def never_alone_without_lock(events: Sequence[Event], facts: Facts, expectation: Expectation) -> Verdict:
    """I4: every write acknowledged while the peer is not (Connected, UpToDate) falls under SOLO of that node."""
    made = [commit for commit in commits(events) if commit.name == facts.lock_name]
    if not made:
        return unknown(UNSEEN)
    surely, perhaps = alone(events, CLOCK_S)
    held = {node: solo_spans(made, uuid) for uuid, node in facts.owners.items()}

    def uncovered(found: Sequence[tuple[Ack, str]]) -> list[str]:
        return [_named(ack, node) for ack, node in found if not _covered(ack, held.get(node, []), expectation)]

    return together(
        [
            nothing("acknowledged alone, without the lock", uncovered(surely)),
            _open("acknowledged without the lock while nobody knows what the node saw", uncovered(perhaps)),
            valid(f"{len(surely)} writes acknowledged alone, all under SOLO of their node"),
        ]
    )


def _covered(ack: Ack, held: Sequence[tuple[float, float]], expectation: Expectation) -> bool:
    window_s = expectation.window_s
    return any(start - window_s <= ack.t and end >= ack.started for start, end in held)


def never_alone_unconfirmed(events: Sequence[Event], facts: Facts, expectation: Expectation) -> Verdict:
    """I7: whoever acknowledges alone was told before, by the store, that the lock is its own: unknown is never held."""
    surely, _ = alone(events, CLOCK_S)
    seen = [one for one in exchanges(events) if one.name == facts.lock_name]
    if not seen:
        return unknown("nobody followed the store's proxy")
    uuid_of = {node: uuid for uuid, node in facts.owners.items()}
    wrong = [
        _named(ack, node)
        for ack, node in surely
        if not _told(seen, node, uuid_of.get(node, ""), ack.t + expectation.window_s, facts.clients)
    ]
    return together(
        [nothing("acknowledged alone, unconfirmed", wrong), valid(f"{len(surely)} writes alone, each confirmed before")]
    )


def _told(seen: Sequence[Exchange], node: str, uuid: str, until: float, clients: Mapping[str, str]) -> bool:
    """True when the last version that the node was told by then is SOLO of its own."""
    told = [one.told for one in seen if one.told is not None and one.t <= until and clients.get(one.client) == node]
    return bool(told) and told[-1].state == "SOLO" and told[-1].owner == uuid


def released_rightly(events: Sequence[Event], facts: Facts, _: Expectation) -> Verdict:
    """I12: each release was sent by the owner, while both sides were Connected and UpToDate."""
    made = [commit for commit in commits(events) if commit.name == facts.lock_name]
    if not made:
        return unknown(UNSEEN)
    sent = {one.asked.attempt: one.came for one in exchanges(events) if one.asked is not None}
    seen = {node: spans(events, node) for node in NODES}
    releases = [c for c in made if c.before is not None and (c.before.state, c.after.state) == ("SOLO", "SHARED")]
    began = min((event.t for event in events if event.kind == "begin"), default=-math.inf)
    verdicts = [_release(one, sent, seen, facts) for one in releases if one.t >= began]
    return together([*verdicts, valid(f"{len(verdicts)} releases, each right")])


def _release(one: Commit, sent: Mapping[str, float], seen: Mapping[str, Sequence[Span]], facts: Facts) -> Verdict:
    before, after = one.before, one.after
    text = f"release at {one.t:.3f}, epoch {after.epoch}"
    if before is not None and after.writer != before.owner:
        return invalid(f"{text}: by {after.writer[:8]}, but the lock was {before}")
    t = sent.get(after.attempt, one.t)
    node = facts.owners.get(after.writer, "")
    states = {
        name: {span.current for span in found if span.start - CLOCK_S <= t <= span.end + CLOCK_S}
        for name, found in seen.items()
    }
    apart = [name for name, found in states.items() if found == {False}]
    if apart:
        return invalid(f"{text}: sent at {t:.3f} while {' and '.join(apart)} saw no two current replicas")
    if True not in states.get(node, set()):
        return unknown(f"{text}: nobody knows what {node or after.writer} saw at {t:.3f}")
    return valid()


def _named(ack: Ack, node: str) -> str:
    return f"{ack.line} (by {node or ack.boot} at {ack.t:.3f})"


def _open(what: str, found: Sequence[str]) -> Verdict:
    return unknown(nothing(what, found).why) if found else valid()
