"""The pair as a whole: from nothing to a container that answers, and back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from lab import paths
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks, TimedOut
from lab.hosts.render import render_all
from lab.hosts.site import Site
from lab.log import Steps
from lab.providers import client, hostlibvirt, memory, seed, virtual
from lab.providers.base import CLEAN, Hypervisor, Lab, LabPlan, Libvirt, Node, Provider
from lab.providers.box import Box
from lab.providers.choice import stretch
from lab.providers.client import RunningLab, RunningNode
from lab.providers.plan import Artifacts, make_plan, with_machines
from lab.providers.programs import with_programs
from lab.providers.provision import ANSWERS, boot_id, power_down
from lab.providers.supervisor import PLAN

SERVING_S = 90.0
VIRTUAL_SERVING_S = 180.0
FREE_BYTES = 2 << 30
"""What a lab's overlays and disks may grow to while scenarios run."""
FULL_BYTES = 16 << 20
"""With less than this, what fails on a disk fails because it is full."""

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
INPUTS = "inputs.json"
"""In a lab's folder: what it was made of, so that a second `lab.up` knows its own."""
COMING = "coming-up"
"""In the folder of a lab that has never been up: what brings it up is at work, or was killed."""
FOR_ONCE = "for-once"
"""In the folder of a lab that whoever brought it up destroys at its end, unless it is killed."""

DOWN = "down"
"""In a lab's folder: the nodes were shut down cleanly, and may be started again from their disks."""


@dataclass(frozen=True)
class Pair:
    """A running lab and the site that it follows."""

    lab: RunningLab
    site: Site

    def node(self, name: str) -> RunningNode:
        """Return a node by its name.

        Raises:
            BadInput: the lab has no such node.
        """
        if name not in self.lab.nodes:
            raise BadInput(f"the lab has no node {name!r}", f"name one of {', '.join(self.lab.nodes)}")
        return self.lab.nodes[name]

    def serving(self) -> str | None:
        """Return the node whose container answers the third node just now, or None."""
        return self._serving(Deadline.after(1))

    def wait_serving(self, deadline: Deadline) -> str:
        """Wait until every container answers the third node; return the node that serves the first of them.

        Raises:
            TimedOut: one did not; the text says what the nodes themselves report.
        """
        node = self._serving(deadline)
        if node is None:
            raise TimedOut(f"the container does not answer; {self._reports()}", "invoke lab.logs shows the journals")
        return node

    def switchover(self, resource: str, deadline: Deadline) -> str:
        """Move a resource to the other node, as an administrator does; return the node that serves then.

        Raises:
            CommandFailed: the active node refused.
            TimedOut: the other did not take over.
        """
        active = self.wait_serving(deadline)
        self.lab.nodes[active].run([resource, "secondary"], limit_s=deadline.left_s)
        return wait_until("the other node serves", lambda: self._other_than(active), deadline)

    def _other_than(self, node: str) -> str | None:
        found = self.serving()
        return found if found != node else None

    def _serving(self, deadline: Deadline) -> str | None:
        answer = ""
        for container in self.site.containers.values():
            command = ["python3", "-c", ANSWERS, str(container.addresses[0])]
            try:
                done = self.lab.nodes["third"].run(command, limit_s=max(deadline.left_s, 0.1))
            except HapairError:  # no answer in time, or the third node is off itself
                return None
            answer = answer or done.text.strip()
        # A frozen node would take long not to answer, and one that is off has no boot.
        on = [node for name in self.site.nodes if (node := self.lab.nodes[name]).state() == "on"]
        return next((node.name for node in on if answer and boot_id(node) == answer), None)

    def reports(self) -> dict[str, object]:
        """Return what `hapair status --json` says on each node of the pair; a string where it says nothing."""
        nodes = [self.lab.nodes[name] for name in self.site.nodes]
        with ThreadPoolExecutor(len(nodes)) as pool:  # an emulated one takes seconds to start the program
            return dict(zip(self.site.nodes, pool.map(self._report, nodes), strict=True))

    def _report(self, node: Node) -> object:
        if node.state() != "on":
            return f"{node.name} is {node.state()}"
        try:
            said: object = json.loads(node.run(["hapair", "status", "--json"], limit_s=10).stdout)
            return said
        except (HapairError, ValueError) as error:
            return str(error).splitlines()[0]

    def _reports(self) -> str:
        return json.dumps(self.reports())


def folder_of(name: str) -> Path:
    """Return the folder of the lab called `name`.

    Raises:
        BadInput: the name is none.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name for a lab", "use up to 31 small letters, digits and dashes")
    return paths.labs() / name


def bring_up(
    name: str,
    site: Site,
    artifacts: Artifacts,
    progress: Steps,
    *,
    seed_number: int = 0,
    hypervisor: Hypervisor | None = None,
    for_once: bool = False,
) -> Pair:
    """Bring a lab up until its container answers; one that runs already, made of the same, is left as it is.

    Args:
        seed_number: of the cables' random faults.
        hypervisor: what virtual machines run on; without one the nodes are User-Mode Linux.
        for_once: a new one is destroyed by its maker in any case, or by `clear` when that was killed.

    Raises:
        BadInput: a lab of that name was made of something else, or was left behind by a run that died.
        HostLacks: too little disk or memory, or the disk became full meanwhile.
        HapairError: a node did not come up, or the container does not answer.
    """
    stretch(hypervisor)
    check_start(name, site)
    folder = folder_of(name)
    trees = {node: tree.tar() for node, tree in render_all(site).items()}
    if artifacts.programs:
        trees = {node: with_programs(tree, artifacts.programs, site.programs) for node, tree in trees.items()}
    plain = seed.Inputs(site, trees, make_plan(site, name, artifacts, seed_number), artifacts.without_box)
    inputs = plain
    if hypervisor:
        inputs = replace(plain, plan=with_machines(plain.plan, hypervisor), digests=artifacts.digests)
    with client.locked(folder):
        if folder.exists():
            return _again(folder, site, inputs, progress)
        if inputs.plan.hypervisor and inputs.plan.hypervisor.host:
            hostlibvirt.check_free(inputs.plan)  # before anything that fails would remove what is another's
        try:
            if artifacts.box:
                lent = seed.ensure(plain, progress) if virtual.borrows(artifacts.box) else None
                made = _first_virtual(folder, inputs, artifacts.box, progress, lent)
            else:
                made = _first(folder, inputs, seed.ensure(inputs, progress), progress)
            if for_once:
                (folder / FOR_ONCE).touch()
            (folder / COMING).unlink()
            return made
        except BaseException as error:
            full = isinstance(error, Exception) and shutil.disk_usage(folder.parent).free < FULL_BYTES
            client.destroy(folder)
            if full:
                # Whatever failed first: with no room for a log, it often says nothing of that.
                raise HostLacks(
                    f"the disk of {folder.parent} became full while the lab came up",
                    f"free {FREE_BYTES >> 20} MiB there, or more; then bring it up again",
                ) from error
            raise


def _make_folder(folder: Path, inputs: seed.Inputs) -> None:
    folder.mkdir(mode=0o700)
    (folder / COMING).touch()
    (folder / PLAN).write_text(inputs.plan.dump())
    (folder / INPUTS).write_text(json.dumps({"key": inputs.key, "site": inputs.site.model_dump(mode="json")}))


def _first(folder: Path, inputs: seed.Inputs, planted: Path, progress: Steps) -> Pair:
    _make_folder(folder, inputs)
    with progress.step("booting three nodes", estimate_s=6) as step:
        seed.plant(inputs.plan, planted, folder)
        lab = client.start(inputs.plan, folder)
        _wait_ready(lab)
        modes = {node.mode for node in lab.status().nodes.values()}
        step.note(f"User-Mode Linux, {'/'.join(sorted(modes))} mode")
    pair = Pair(lab, inputs.site)
    with progress.step("waiting for the container", estimate_s=8):
        pair.wait_serving(Deadline.after(SERVING_S))
    return pair


def _first_virtual(folder: Path, inputs: seed.Inputs, box: Box, progress: Steps, lent: Path | None) -> Pair:
    _make_folder(folder, inputs)
    pair = Pair(virtual.make(folder, inputs, box, progress, lent), inputs.site)
    with progress.step("waiting for the container", estimate_s=20):
        pair.wait_serving(Deadline.after(VIRTUAL_SERVING_S))
    with progress.step("snapshot of all nodes", estimate_s=1):
        _each([pair.node(name) for name in pair.site.nodes], _wait_settled)
        pair.lab.snapshot()
    return pair


def _again(folder: Path, site: Site, inputs: seed.Inputs, progress: Steps) -> Pair:
    """Take up a lab that exists: running and made of the same, or cleanly down."""
    name = folder.name
    if (folder / COMING).exists():
        raise _left_behind(folder)
    if json.loads((folder / INPUTS).read_text())["key"] != inputs.key:
        raise BadInput(
            f"the name {name!r} is in use by a lab made of another site, provider, kernel or image",
            f"take another --name, or remove it first: invoke lab.destroy --name {name}",
        )
    there = LabPlan.load((folder / PLAN).read_text()).hypervisor
    if there and inputs.plan.hypervisor and there.host != inputs.plan.hypervisor.host:
        where = "the host's libvirt" if there.host else "a libvirt of its own"
        raise BadInput(
            f"the lab {name!r} runs on {where}",
            f"take another --name, or remove it first: invoke lab.destroy --name {name}",
        )
    if client.running(folder):
        lab = client.attach(folder)
    else:
        with progress.step("booting three nodes", estimate_s=6):
            lab = client.start(LabPlan.load((folder / PLAN).read_text()), folder)
            (folder / DOWN).unlink()  # not earlier: a start that fails leaves the disks as they were
            _wait_ready(lab)
    pair = Pair(lab, site)
    with progress.step("waiting for the container", estimate_s=8):
        pair.wait_serving(Deadline.after(SERVING_S))
    return pair


def attach(name: str) -> Pair:
    """Return the running lab called `name`.

    Raises:
        BadInput: no such lab runs; the hint says how to bring it up.
    """
    folder = folder_of(name)
    if not (folder / INPUTS).exists() or not client.running(folder):
        if _dead(folder):
            raise _left_behind(folder)
        state = "is down" if (folder / DOWN).exists() else "does not run"
        raise BadInput(f"the lab {name!r} {state}", f"invoke lab.up --name {name}")
    site = Site.model_validate(json.loads((folder / INPUTS).read_text())["site"])
    lab = client.attach(folder)
    stretch(lab.plan.hypervisor)
    return Pair(lab, site)


def provider_of(name: str) -> Provider | None:
    """Return what the nodes of an existing lab are; None: there is no lab of that name."""
    plan = folder_of(name) / PLAN
    return LabPlan.load(plan.read_text()).provider if plan.exists() else None


def libvirt_of(name: str) -> Libvirt | None:
    """Return which libvirt daemon an existing lab is on; None: there is no lab of that name, or it is on none."""
    plan = folder_of(name) / PLAN
    hypervisor = LabPlan.load(plan.read_text()).hypervisor if plan.exists() else None
    return None if hypervisor is None else "host" if hypervisor.host else "own"


@contextmanager
def reserved(name: str) -> Iterator[None]:
    """Keep a lab to one run at a time for as long as the context lasts: two that reset it would judge each other.

    Raises:
        BadInput: another run has it.
    """
    lock = FileLock(f"{folder_of(name)}.run.lock", timeout=0)
    lock_folder = Path(lock.lock_file).parent
    lock_folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise BadInput(
            f"another run of scenarios uses the lab {name!r}", "wait for its end, or give --lab NAME"
        ) from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def reset(pair: Pair, progress: Steps) -> None:
    """Heal every cable and put all nodes back to what they were when the lab had come up.

    User-Mode Linux starts again from the seed's disks; virtual machines go on from their snapshot.

    Raises:
        HostLacks: the seed is in the cache no more.
        HapairError: as `bring_up`.
    """
    lab = pair.lab
    plan = LabPlan.load((lab.folder / PLAN).read_text())
    with progress.step("putting all nodes back", estimate_s=4):
        if plan.hypervisor:
            _heal(lab)
            lab.restore()
            virtual.set_clocks(lab, pair.site)
        else:
            _replant(lab, plan)
        _wait_ready(lab)
    with progress.step("waiting for the container", estimate_s=8):
        pair.wait_serving(Deadline.after(SERVING_S))


def _heal(lab: Lab) -> None:
    for link in lab.status().links:
        lab.set_link(link.node, link.network, "both", CLEAN)


def _replant(lab: RunningLab, plan: LabPlan) -> None:
    planted = seed.find(json.loads((lab.folder / INPUTS).read_text())["key"])
    _each(lab.nodes.values(), lambda node: node.power_off())
    _heal(lab)
    seed.plant(plan, planted, lab.folder)
    _each(lab.nodes.values(), lambda node: node.power_on())


def shut_down(pair: Pair, progress: Steps) -> None:
    """Power the nodes off as an administrator does, the standby first, and keep their disks for the next start.

    Raises:
        HapairError: a node is frozen.
        TimedOut: a node did not power off.
    """
    active = pair.serving()
    order = sorted(pair.site.nodes, key=lambda name: name == active)
    for name in order:
        with progress.step(f"shutting {name} down", estimate_s=5):
            power_down(pair.lab.nodes[name])
    third = pair.lab.nodes["third"]
    if third.state() == "on":
        third.run(["sync"], limit_s=10)
    third.power_off()
    with client.locked(pair.lab.folder):  # nobody takes it for dead in between
        client.stop(pair.lab.folder)
        (pair.lab.folder / DOWN).touch()


def destroy(name: str) -> bool:
    """End and remove the lab called `name`, whatever state it is in; return whether there was one."""
    folder = folder_of(name)
    found = folder.exists()
    client.destroy(folder)
    return found


def clear(name: str) -> bool:
    """Destroy what a killed command left of a lab: one that never came up, or that was for once; return whether.

    The caller has it `reserved`. Any other stays, whatever state it is in.

    Raises:
        BadInput: another command is at work on it.
    """
    folder = folder_of(name)
    with client.locked(folder):
        left = (folder / COMING).exists() or (folder / FOR_ONCE).exists()
        if left:
            client.destroy(folder)
    return left


def names() -> list[str]:
    """Return the names of all labs on this machine."""
    if not paths.labs().is_dir():
        return []
    return sorted(entry.name for entry in paths.labs().iterdir() if (entry / INPUTS).exists())


def check_start(name: str, site: Site) -> None:
    """Refuse before anything is built or started what cannot come up.

    Raises:
        BadInput: the name is none, or that of a lab which a killed run left behind; or no lab can have this store.
        HostLacks: too little disk or memory for a lab that does not run yet.
    """
    if site.store.kind != "http" or site.store.credentials or site.store.ca:
        raise BadInput(
            f"store: a lab's third node keeps a plain HTTP store only, and this site's is of kind {site.store.kind}"
            + (" with credentials or certificates" if site.store.kind == "http" else ""),
            f"rehearse with a copy of the site file whose store is url: http://{site.lab.third.address.ip}:8440",
        )
    folder = folder_of(name)
    if _dead(folder):
        raise _left_behind(folder)
    if not client.running(folder):
        _check_room(site)


def _dead(folder: Path) -> bool:
    """Return whether a lab is neither up nor cleanly down: what ran it was killed."""
    return folder.exists() and not client.running(folder) and not (folder / DOWN).exists()


def _left_behind(folder: Path) -> BadInput:
    return BadInput(
        f"the lab {folder.name!r} was left behind by a run that died; its consoles and disks are in {folder}",
        f"invoke lab.destroy --name {folder.name}   removes it; then bring it up again",
    )


def _check_room(site: Site) -> None:
    """Refuse to start what this machine has no room for.

    Raises:
        HostLacks: too little disk or memory.
    """
    folder = paths.labs()
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < FREE_BYTES:
        raise HostLacks(
            f"{folder} has {free_bytes >> 20} MiB free, a lab needs {FREE_BYTES >> 20}",
            "free some, or set XDG_STATE_HOME to a folder with more room",
        )
    have_mb, need_mb = memory.available_bytes() >> 20, needed_memory_mb(site)
    if have_mb < need_mb:
        raise HostLacks(
            f"{have_mb} MiB of memory are available, the three nodes may use {need_mb}",
            "stop other programs, or lower lab.memory_mb in the site file",
        )


def needed_memory_mb(site: Site) -> int:
    """Return what the three nodes may use together, in MiB."""
    return len(site.nodes) * site.lab.memory_mb + site.lab.third_memory_mb


def _wait_ready(lab: Lab) -> None:
    deadline = Deadline.after(SERVING_S)
    _each(lab.nodes.values(), lambda node: node.wait_ready(deadline))


def _wait_settled(node: Node) -> None:
    """Wait until no unit is about to start, so that the snapshot shows a pair at rest."""

    def settled() -> bool:
        return not node.run(["systemctl", "list-jobs", "--no-legend", "--quiet"], limit_s=SERVING_S).stdout.strip()

    wait_until(f"{node.name} has started all units", settled, Deadline.after(SERVING_S), pause_s=0.5)


def _each(nodes: Collection[Node], act: Callable[[Node], None]) -> None:
    with ThreadPoolExecutor(len(nodes)) as pool:
        for done in [pool.submit(act, node) for node in nodes]:
            done.result()
