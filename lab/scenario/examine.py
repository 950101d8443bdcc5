"""Ask the nodes, the store and the container what the invariants need to know at the end of a scenario."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from lab.deadline import Deadline, wait_until
from lab.errors import HapairError, TimedOut
from lab.providers.base import CLEAN, Lab, Node
from lab.scenario import invariants
from lab.scenario.observed import NODES, Expectation, Facts, NodeFacts
from lab.scenario.place import Place
from lab.scenario.recorder import parse_events2
from lab.scenario.verdict import Outcome
from lab.scenario.workload import page

Tell = Callable[[str], None]

LIMIT_S = 15.0  # one question; a healthy node answers within a second
SCRUB_LIMIT_S = 60.0
WHOLE = {"connection": "Connected", "disk": "UpToDate", "peer-disk": "UpToDate", "out-of-sync": "0"}
DUMP = ("drbdsetup", "events2", "--now", "--timestamps", "--statistics")
# A container runs on a node when its payload cgroup has processes, whatever any daemon believes.
RUNNING = (
    "find",
    "/sys/fs/cgroup",
    "-path",
    "*lxc.payload.*/cgroup.events",
    "-exec",
    "grep",
    "-l",
    "populated 1",
    "{}",
    "+",
)


def _silently(_: str) -> None:
    """Hear nothing: a wait asks again anyway."""


def impairments(lab: Lab) -> tuple[str, ...] | None:
    """Return the links that a fault is still in force on, as `node/network`."""
    try:
        links = lab.status().links
    except HapairError:
        return None
    bad = [link for link in links if link.outward != CLEAN or link.inward != CLEAN]
    return tuple(f"{link.node}/{link.network}" for link in bad)


def node_facts(node: Node, mount: str, tell: Tell = _silently) -> NodeFacts:
    """Ask one node; what it does not answer stays None, and `tell` hears why."""
    dump = _ask(node, DUMP, tell)
    if dump is None:
        return NodeFacts()
    state = drbd_state(dump)
    units = _ask(node, ("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager"), tell)
    out_of_sync = state.get("out-of-sync", "")
    return NodeFacts(
        role=state.get("role"),
        disk=state.get("disk"),
        connection=state.get("connection"),
        peer_disk=state.get("peer-disk"),
        out_of_sync=int(out_of_sync) if out_of_sync.isdigit() else None,
        suspended=state.get("suspended"),
        failed_units=None if units is None else tuple(line.split()[0] for line in units.splitlines() if line.strip()),
        leftovers=_leftovers(node, state.get("role", ""), mount, tell),
        containers=_containers(node, tell),
    )


def drbd_state(dump: str) -> dict[str, str]:
    """Return role, disk, connection, … of one resource with one volume from an events2 dump."""
    wanted = {
        "resource": ("role", "suspended"),
        "connection": ("connection",),
        "device": ("disk",),
        "peer-device": ("peer-disk", "out-of-sync"),
    }
    state: dict[str, str] = {}
    for line in dump.splitlines():
        event = parse_events2(line, "dump")
        for key in wanted.get(event.text("object"), ()) if event else ():
            if event and event.text(key):
                state[key] = event.text(key)
    return state


def facts(
    lab: Lab,
    place: Place,
    *,
    baseline: Sequence[str],
    impairments: Sequence[str] | None,
    tell: Tell = _silently,
) -> Facts:
    """Ask everything; a scrub runs on the node that has the file system mounted. `tell` hears what got no answer."""
    third = lab.nodes["third"]
    with ThreadPoolExecutor(2) as pool:
        read = pool.submit(page, third, f"http://{place.address}/cgi-bin/read")
        lock = pool.submit(_lock, third, place.lock_url)
        nodes = _both(lab, place, tell)
        primaries = [name for name, seen in nodes.items() if seen.role == "Primary"]
        code, text, errors = _scrub(lab.nodes[primaries[0]], place.mount, tell) if primaries else (None, "", None)
        listed = read.result()
    return Facts(
        nodes=nodes,
        lines=None if listed is None else tuple(listed.splitlines()),
        baseline=tuple(baseline),
        macs=place.macs,
        owners=place.owners,
        clients=place.clients,
        lock_name=place.lock_name,
        lock=lock.result(),
        impairments=None if impairments is None else tuple(impairments),
        scrub_code=code,
        scrub_text=text,
        device_errors=errors,
    )


def wait_healed(lab: Lab, place: Place, deadline: Deadline, *, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait until a cheap look at both nodes and the lock finds them healed; `meanwhile` is called before each look.

    Raises:
        TimedOut: the deadline passed; the message says what is still wrong.
    """
    wrong = "nothing was asked yet"

    def healed() -> bool:
        nonlocal wrong
        meanwhile()
        wrong = _apart(lab)
        if wrong:
            return False
        with ThreadPoolExecutor(1) as pool:
            lock = pool.submit(_lock, lab.nodes["third"], place.lock_url)
            now = Facts(nodes=_both(lab, place, _silently), lock=lock.result(), impairments=())
        verdict = invariants.heals((), now, Expectation())
        wrong = verdict.why
        return verdict.outcome is Outcome.VALID

    try:
        wait_until("the pair has healed", healed, deadline, pause_s=0.3)
    except TimedOut:
        raise TimedOut(f"the pair has not healed in time: {wrong}") from None


def _apart(lab: Lab) -> str:
    """Return what DRBD still has to do, or "": one question a node, so that asking often costs the nodes little."""
    with ThreadPoolExecutor(len(NODES)) as pool:
        asked = {name: pool.submit(_ask, lab.nodes[name], DUMP, _silently) for name in NODES}
        states = {name: drbd_state(answer.result() or "") for name, answer in asked.items()}
    return "; ".join(
        f"{name}: {key} is {states[name].get(key)}"
        for name in NODES
        for key, good in WHOLE.items()
        if states[name].get(key) != good
    )


def _both(lab: Lab, place: Place, tell: Tell) -> dict[str, NodeFacts]:
    with ThreadPoolExecutor(len(NODES)) as pool:
        asked = {name: pool.submit(node_facts, lab.nodes[name], place.mount, tell) for name in NODES}
        return {name: answer.result() for name, answer in asked.items()}


def _ask(node: Node, argv: Sequence[str], tell: Tell) -> str | None:
    try:
        return node.run(argv, limit_s=LIMIT_S).stdout.decode(errors="replace")
    except HapairError as error:
        tell(f"{node.name}: {error}")
        return None


def _leftovers(node: Node, role: str, mount: str, tell: Tell) -> tuple[str, ...] | None:
    """What a fault or an unfinished demotion left: shaping rules, and on a Secondary anything mounted of the volume."""
    rules, mounts = _ask(node, ("tc", "qdisc", "show"), tell), _ask(node, ("cat", "/proc/self/mounts"), tell)
    if rules is None or mounts is None:
        return None
    left = [rule for rule in rules.splitlines() if " netem " in rule or " tbf " in rule]
    if role != "Primary":
        left += [line.split()[1] for line in mounts.splitlines() if f"{line.split()[1]}/".startswith(f"{mount}/")]
    return tuple(left)


def _containers(node: Node, tell: Tell) -> tuple[str, ...] | None:
    try:
        found = node.run(RUNNING, limit_s=LIMIT_S, check=False).text  # grep's exit code says only whether it found any
    except HapairError as error:
        tell(f"{node.name}: {error}")
        return None
    return tuple(
        line.split("lxc.payload.", 1)[1].split("/")[0] for line in found.splitlines() if "lxc.payload." in line
    )


def _lock(third: Node, url: str) -> Mapping[str, object] | None:
    text = page(third, url)
    try:
        found = json.loads(text or "")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _scrub(node: Node, mount: str, tell: Tell) -> tuple[int | None, str, Mapping[str, int] | None]:
    try:
        done = node.run(["btrfs", "scrub", "start", "-B", mount], limit_s=SCRUB_LIMIT_S, check=False)
        stats = node.run(["btrfs", "device", "stats", mount], limit_s=LIMIT_S).text
        counted = dict(line.rsplit(maxsplit=1) for line in stats.splitlines() if line.strip())
        return done.code, " ".join((done.stdout + done.stderr).decode(errors="replace").split()), _numbers(counted)
    except (HapairError, ValueError) as error:
        tell(f"{node.name}: {error}")
        return None, "", None


def _numbers(texts: Mapping[str, str]) -> dict[str, int]:
    return {name: int(text) for name, text in texts.items()}
