"""The invariants of a pair, as pure functions over a finished (or growing) history and the facts at its end.

The numbers are those of the catalogue of scenarios. Nothing here asks a node anything: what was not observed makes a
verdict unknown, never valid.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from lab.scenario import invariants_lock
from lab.scenario.history import Event
from lab.scenario.observed import (
    NODES,
    Ack,
    Expectation,
    Facts,
    NodeFacts,
    Seen,
    acks,
    boots,
    faults,
    first_after,
    gaps,
    promotions,
    takeovers,
)
from lab.scenario.recovery import MOST_OF_PARTS, parts, recovery_s
from lab.scenario.verdict import Verdict, invalid, nothing, together, unknown, valid

Invariant = Callable[[Sequence[Event], Facts, Expectation], Verdict]

# DRBD 8.4's worker writes a new UUID to disk inside rcu_read_lock() once the fence handler has succeeded
# (drbd_state.c, w_after_conn_state_ch(), from Linux 3.10 to 7.2). A kernel with preemptible RCU says so, once a boot; a
# reader that sleeps delays others there, and nothing else.
HARMLESS_WARNING, HARMLESS_CAUSE = "rcu_note_context_switch", "drbd_uuid_new_current"
TRACE_S = 1.0  # between a warning's first line and the last of its trace
CLOCK_S = 0.25  # far below the time between the last answer of one node and the promotion of the other
FENCED = {"3", "4", "7"}  # exit codes of fence-peer that DRBD 8.4 takes as success; 5 is fail-open and never returned


def audit(events: Sequence[Event], facts: Facts, expectation: Expectation) -> dict[str, Verdict]:
    """Judge every invariant; one that raises is unknown, with its traceback."""
    return {name: guarded(check, events, facts, expectation) for name, check in INVARIANTS.items()}


def guarded(check: Invariant, events: Sequence[Event], facts: Facts, expectation: Expectation) -> Verdict:
    """Run one check; whatever it raises means that nobody knows."""
    try:
        return check(events, facts, expectation)
    except Exception:
        return unknown(traceback.format_exc())


def no_write_lost(events: Sequence[Event], facts: Facts, _: Expectation) -> Verdict:
    """I1: every acknowledged write is in the final list, once; and nothing is there that nobody sent."""
    done = acks(events)
    if not done:
        return unknown("nothing was acknowledged, so nothing was put to the test")
    if facts.lines is None:
        return unknown("the list in the container could not be read at the end")
    there = Counter(facts.lines) - Counter(facts.baseline)
    sent = {f"{e.text('seq')} {e.text('nonce')}" for e in events if e.source == "client" and e.kind == "invoke"}
    return together(
        [
            nothing("acknowledged and lost", [f"{a.line} (at {a.t:.3f})" for a in done if a.line not in there]),
            nothing("there more than once", [line for line, count in there.items() if count > 1]),
            nothing("there though nobody sent it", [repr(line) for line in there if line not in sent]),
            valid(f"{len(done)} acknowledged, all there; {len(sent) - len(done)} of unknown outcome"),
        ]
    )


def never_two_primaries(events: Sequence[Event], _: Facts, expectation: Expectation) -> Verdict:
    """I2: a node acknowledges after the other one only when it was promoted in between; no split brain was logged.

    A split brain that the scenario forces may be logged; the turns hold all the same.
    """
    split = [str(e) for e in events if e.kind == "kernel" and "split-brain" in e.text("text").lower()]
    unfollowed = [node for node in NODES if not any(_follows(e, node, "journal") for e in events)]
    return together(
        [
            in_turns(events, [Seen(a.boot, a.started, a.t, f"ack of {a.line}") for a in acks(events)]),
            valid() if expectation.split_brain else nothing("the kernel says", split),
            *_clocks(events),
            unknown(f"nobody followed the journal of {' and '.join(unfollowed)}") if unfollowed else valid(),
        ]
    )


def _clocks(events: Sequence[Event]) -> list[Verdict]:
    """Clocks that nobody could read, or that drift, make the order of events of different nodes worthless."""
    read: dict[str, list[Event]] = {}
    for event in events:
        if event.kind == "clock":
            read.setdefault(f"{event.text('node')} {event.text('boot')}".strip(), []).append(event)
    return [unknown(f"the clock of {name} is not known well enough") for name, seen in read.items() if _vague(seen)]


def _vague(clock: Sequence[Event]) -> bool:
    low = min(e.number("offset_s") - e.number("margin_s") for e in clock)
    high = max(e.number("offset_s") + e.number("margin_s") for e in clock)
    return not high - low <= CLOCK_S  # also when one of them is NaN


def one_address(events: Sequence[Event], facts: Facts, expectation: Expectation) -> Verdict:
    """I5: never two MAC addresses or two boots that answer for the container in overlapping time.

    A node that was paused and goes on answers what had piled up, until its agent runs: `thaw_s` of the expectation.
    """
    by_http = [
        Seen(e.text("boot"), e.number("started"), e.t, "GET id")
        for e in events
        if e.source == "probe" and e.kind == "id"
    ]
    claims = [e for e in events if e.source == "probe" and e.kind == "arp"]
    by_arp = [Seen(e.text("mac"), e.t, e.t, "ARP") for e in claims]
    twice = [node for node, seen in facts.nodes.items() if seen.containers]
    return together(
        [
            in_turns(events, _settled(events, by_http, boots(events), expectation.thaw_s)),
            in_turns(events, _settled(events, by_arp, facts.macs, expectation.thaw_s), facts.macs),
            unknown("no HTTP answer was seen") if not by_http else valid(),
            unknown("no ARP answer was seen") if not by_arp else valid(),
            nothing("the container runs on both nodes at the end", twice if len(twice) > 1 else []),
            valid(f"{len(by_http)} HTTP and {len(by_arp)} ARP answers, one answerer at a time"),
        ]
    )


def _settled(
    events: Sequence[Event], seen: Sequence[Seen], node_of: Mapping[str, str], thaw_s: float
) -> Sequence[Seen]:
    """Leave out what a node that was paused has answered within `thaw_s` of its thaw."""
    thaws = [(e.text("node"), e.t) for e in events if e.kind == "heal" and e.text("name") == "freeze" and thaw_s]
    return [
        one
        for one in seen
        if not any(node_of.get(one.who) == node and t - CLOCK_S <= one.t <= t + thaw_s for node, t in thaws)
    ]


def recovers(events: Sequence[Event], _: Facts, expectation: Expectation) -> Verdict:
    """I6: after each fault the next write is acknowledged within the bound, with the stated number of failovers.

    A takeover after a power loss is also held against its own parts: time in which nobody does anything is a defect.
    """
    done = acks(events)
    if not done:
        return unknown("nothing was acknowledged, so nothing was put to the test")
    moved = takeovers(events)
    verdicts = [_recovery(fault, events, done, expectation) for fault in faults(events)]
    if expectation.failovers is not None and len(moved) != expectation.failovers:
        seen = ", ".join(f"{node} at {t:.3f}" for t, node in moved) or "none"
        blind = [node for node, spans in gaps(events, "events2").items() if spans[0][1] == float("inf")]
        wrong = f"{len(moved)} failovers instead of {expectation.failovers} ({seen})"
        verdicts.append(unknown(f"{wrong}, but nobody followed {blind}") if blind else invalid(wrong))
    longest, began = longest_gap(events)
    if expectation.gap_s is not None and longest > expectation.gap_s:
        verdicts.append(
            invalid(f"{longest:.2f} s without an acknowledgement from {began:.3f}, {expectation.gap_s:g} s allowed")
        )
    return together([*verdicts, valid(f"longest gap {longest:.2f} s, {len(moved)} failovers")])


def _recovery(fault: Event, events: Sequence[Event], done: Sequence[Ack], expectation: Expectation) -> Verdict:
    took = recovery_s(fault, events, done)
    bound = fault.number("bound_s") if fault.number("bound_s") > 0 else expectation.recovery_s
    if took is not None:
        text = f"first write acknowledged {took:.2f} s after {fault.text('name')} of {fault.text('node')}"
        return _in_parts(fault, events, took, text) if took <= bound else invalid(f"{text}, bound {bound:g} s")
    ended = max((e.t for e in events if e.source == "client"), default=fault.t)
    text = f"no write acknowledged after {fault.text('name')} of {fault.text('node')} at {fault.t:.3f}"
    if ended - fault.t > bound:
        return invalid(f"{text}, within {ended - fault.t:.1f} s; bound {bound:g} s")
    return unknown(f"{text}, but the client ended {ended - fault.t:.1f} s later")


def _in_parts(fault: Event, events: Sequence[Event], took_s: float, text: str) -> Verdict:
    """A takeover within its bound must not have idled either."""
    try:
        found = parts(fault, events, took_s)
    except LookupError as unseen:
        return unknown(f"{text}, but {unseen}")
    if found is None:
        return valid(text)
    text = f"{text}, {found}"
    return valid(text) if found.ratio <= MOST_OF_PARTS else invalid(f"{text}; {MOST_OF_PARTS:g} times allowed")


def longest_gap(events: Sequence[Event]) -> tuple[float, float]:
    """Return (seconds, wall time at which it began) of the longest time without an acknowledgement."""
    moments = [e.t for e in events if e.source == "client" and e.kind == "ack"]
    moments += [e.t for e in events if e.source == "client" and e.kind == "stop"]
    return max(((b - a, a) for a, b in pairwise(moments)), default=(0.0, 0.0))


def heals(events: Sequence[Event], facts: Facts, _: Expectation) -> Verdict:
    """I8: in the end Connected, UpToDate on both, lock SHARED, nothing out of sync, failed or left over.

    What a comparison of the replicas (`drbdadm verify`) found is told by a call of the helper `out-of-sync`, also when
    a later write has covered the difference.
    """
    verdicts = [_healed(node, facts.nodes.get(node, NodeFacts())) for node in NODES]
    helpers = [e for e in events if e.kind == "drbd" and e.text("change") == "call"]
    verdicts.append(
        nothing("times the replicas differed", [str(e) for e in helpers if e.text("helper") == "out-of-sync"])
    )
    if facts.lock is None:
        verdicts.append(unknown("the lock could not be read"))
    elif facts.lock.get("state") != "SHARED":
        verdicts.append(invalid(f"the lock is {facts.lock.get('state')} of {facts.lock.get('owner')}, not SHARED"))
    if facts.impairments is None:
        verdicts.append(unknown("nobody looked for impairments of the links"))
    elif facts.impairments:
        verdicts.append(invalid(f"impairments left: {', '.join(facts.impairments)}"))
    return together(verdicts)


def _healed(node: str, seen: NodeFacts) -> Verdict:
    wanted = {
        "connection": (seen.connection, "Connected"),
        "disk": (seen.disk, "UpToDate"),
        "peer-disk": (seen.peer_disk, "UpToDate"),
        "out-of-sync": (seen.out_of_sync, 0),
        "suspended": (seen.suspended, "no"),
        "failed units": (seen.failed_units, ()),
        "leftovers": (seen.leftovers, ()),
    }
    return together(
        unknown(f"{node}: {name} could not be read") if found is None else invalid(f"{node}: {name} is {found}")
        for name, (found, good) in wanted.items()
        if found != good
    )


def file_system_sound(_: Sequence[Event], facts: Facts, __: Expectation) -> Verdict:
    """I9: a scrub of the mounted file system found nothing, and its device counters are all zero."""
    if facts.scrub_code is None or facts.device_errors is None:
        return unknown("no scrub was run, or the device counters could not be read")
    counted = [f"{name} {count}" for name, count in facts.device_errors.items() if count]
    return together(
        [
            invalid(f"btrfs scrub ended with {facts.scrub_code}: {facts.scrub_text}") if facts.scrub_code else valid(),
            nothing("device counters", counted),
        ]
    )


def handler_ran(events: Sequence[Event], _: Facts, expectation: Expectation) -> Verdict:
    """I10: fence-peer ran where it had to, ended with a success code, and no kernel complained."""
    helpers = [e for e in events if e.kind == "drbd" and e.text("helper") == "fence-peer"]
    ended = [e for e in helpers if e.text("change") == "response"]
    # events2 shows wait()'s status: the exit code times 256
    failed = [
        str(e)
        for e in ended
        if str(int(e.number("status")) // 256) not in FENCED and e.source not in expectation.may_fail
    ]
    ran = {e.source for e in ended}
    complaints = [str(e) for e in events if e.kind == "kernel" and e.flag("bug") and not _harmless(e, events)]
    return together(
        [
            nothing("fence-peer failed", failed),
            nothing("fence-peer never ended on", [node for node in expectation.fences if node not in ran]),
            nothing("the kernel says", complaints),
        ]
    )


def _harmless(complaint: Event, events: Sequence[Event]) -> bool:
    """True for the one known warning that says nothing about the pair; see HARMLESS_WARNING."""
    if HARMLESS_WARNING not in complaint.text("text"):
        return False
    return any(
        e.kind == "kernel" and e.source == complaint.source and HARMLESS_CAUSE in e.text("text")
        for e in events
        if 0 <= e.t - complaint.t <= TRACE_S
    )


def never_stale(events: Sequence[Event], facts: Facts, _: Expectation) -> Verdict:
    """I11: a node that starts to acknowledge holds every write acknowledged before: by its own list, and by order."""
    done = acks(events)
    if not done:
        return unknown("nothing was acknowledged, so nothing was put to the test")
    runs = _runs(done)
    lists = [e for e in events if e.source == "client" and e.kind == "list"]
    verdicts = [check for run in runs[1:] for check in (_held(run, done, lists), _behind(run, done, facts.lines))]
    return together([*verdicts, valid(f"{len(runs) - 1} changes of the serving boot, nothing missing after any")])


def _runs(done: Sequence[Ack]) -> list[list[Ack]]:
    runs: list[list[Ack]] = []
    for ack in done:
        if not runs or runs[-1][-1].boot != ack.boot:
            runs.append([])
        runs[-1].append(ack)
    return runs


def _held(run: Sequence[Ack], done: Sequence[Ack], lists: Sequence[Event]) -> Verdict:
    """The list that was read as soon as the run's boot answered must hold what was acknowledged before the run."""
    boot = run[0].boot
    listed = next((e for e in lists if e.text("boot") == boot and e.t >= run[0].t), None)
    if listed is None:
        return unknown(f"the list of boot {boot} was not read when it began at {run[0].t:.3f}")
    there, began = set(listed.lines("lines")), min(ack.started for ack in run)
    missing = [f"{a.line} (at {a.t:.3f})" for a in done if a.t < began and a.line not in there]
    return nothing(f"acknowledged before boot {boot} began, and not there", missing)


def _behind(run: Sequence[Ack], done: Sequence[Ack], lines: Sequence[str] | None) -> Verdict:
    """What was acknowledged before this run began must stand before the run's first line."""
    if lines is None:
        return unknown("the list in the container could not be read at the end")
    place = {line: number for number, line in enumerate(lines)}
    began = min(ack.started for ack in run)
    own = min((place[ack.line] for ack in run if ack.line in place), default=len(lines))
    late = [a.line for a in done if a.t < began and place.get(a.line, -1) > own]
    return nothing(f"written down only after boot {run[0].boot} had begun", late)


def in_turns(events: Sequence[Event], seen: Sequence[Seen], node_of: Mapping[str, str] | None = None) -> Verdict:
    """Judge whether the answers came from one node at a time, with a promotion before each change.

    An answer of a node to a request sent after another node had answered needs a promotion of that node in between.
    Requests under way at the same time that two nodes answered cannot be ordered: unknown.

    Args:
        node_of: which node an answerer is; the boot ids of the history unless given.
    """
    known = boots(events) if node_of is None else node_of
    strangers = sorted({s.who for s in seen if s.who not in known})
    promoted, blind = promotions(events), gaps(events, "events2")
    verdicts = [unknown(f"{', '.join(strangers)} answered, and nobody knows which node that is")] if strangers else []
    verdicts += _sequential([s for s in seen if s.who in known], known, promoted, blind)
    verdicts += _concurrent([s for s in seen if s.who in known], known)
    return together(verdicts)


def _sequential(
    seen: Sequence[Seen],
    node_of: Mapping[str, str],
    promoted: Mapping[str, list[float]],
    blind: Mapping[str, list[tuple[float, float]]],
) -> list[Verdict]:
    """Compare each answer with the last answer of the other node that was complete before it was asked for."""
    found: list[Verdict] = []
    complete = sorted(seen, key=lambda s: s.t)
    latest: dict[str, Seen] = {}
    place = 0
    for answer in sorted(seen, key=lambda s: s.started):
        while place < len(complete) and complete[place].t <= answer.started:
            latest[node_of[complete[place].who]] = complete[place]
            place += 1
        node = node_of[answer.who]
        for other, before in latest.items():
            if other == node:
                continue
            turn = first_after(promoted.get(node, []), before.t)
            if turn is not None and turn <= answer.t:
                continue
            text = (
                f"{node} answered ({answer.what}, asked at {answer.started:.3f}) after {other} had ({before.what} at "
                f"{before.t:.3f}), without a promotion in between"
            )
            unseen = any(start < answer.t and end > before.t for start, end in blind.get(node, []))
            found.append(unknown(f"{text} that anybody saw") if unseen else invalid(text))
    return found


def _concurrent(seen: Sequence[Seen], node_of: Mapping[str, str]) -> list[Verdict]:
    found: list[Verdict] = []
    last: dict[str, Seen] = {}
    for answer in sorted(seen, key=lambda s: s.started):
        node = node_of[answer.who]
        for other, before in last.items():
            if other != node and before.t > answer.started:
                found.append(
                    unknown(f"{other} ({before.what}) and {node} ({answer.what}) answered at once, at {answer.t:.3f}")
                )
        if node not in last or last[node].t < answer.t:
            last[node] = answer
    return found


def _follows(event: Event, node: str, stream: str) -> bool:
    return event.source == node and event.kind == "follow" and event.text("stream") == stream


INVARIANTS: Mapping[str, Invariant] = {
    "I1": no_write_lost,
    "I2": never_two_primaries,
    "I3": invariants_lock.lock_monotonic,
    "I4": invariants_lock.never_alone_without_lock,
    "I5": one_address,
    "I6": recovers,
    "I7": invariants_lock.never_alone_unconfirmed,
    "I8": heals,
    "I9": file_system_sound,
    "I10": handler_ran,
    "I11": never_stale,
    "I12": invariants_lock.released_rightly,
}
WATCHED: Mapping[str, Invariant] = {"I2": never_two_primaries, "I5": one_address}
"""Those that a growing history can already break."""
