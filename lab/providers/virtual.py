"""A pair of virtual machines, from their box to agents that run; lab.providers.pair has what comes before and after."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from lab.deadline import Deadline
from lab.hosts.site import Site
from lab.log import Steps
from lab.providers import client, image, seed, vagrant, volumes
from lab.providers.base import Hypervisor, LabPlan, Node
from lab.providers.box import INITRD, KERNEL, Box
from lab.providers.client import RunningLab
from lab.providers.plan import QCOW2
from lab.providers.provision import fill, start_agents, without_agent
from lab.providers.seed import Inputs
from lab.providers.volumes import Volumes

BOOT_S = 240.0
CONVERT_S = 30.0
CLOCK_S = 10.0
COMMAND_S = 30.0


def borrows(box: Box) -> bool:
    """Return whether the machines of a box can go on from disks that User-Mode Linux nodes have filled.

    So they can when it holds the root image's release: the same LXD reads what the same LXD has written.
    """
    return box.suite == image.SUITE


def make(folder: Path, inputs: Inputs, box: Box, progress: Steps, lent: Path | None = None) -> RunningLab:
    """Let Vagrant make the machines of a plan, and set the pair up as soon as their control lines answer.

    Args:
        lent: the folder of a seed of User-Mode Linux nodes to go on from; without one the machines use their own
            seed, or make it.

    Raises:
        HostLacks: a program is missing.
        HapairError: Vagrant failed, or a step on a node did.
    """
    vagrant.prepare(folder, box, _hypervisor(inputs.plan))
    planted = lent or seed.kept(inputs)
    if planted:
        seed.copy(_others(inputs.plan), planted, folder)
    with progress.step("booting two virtual machines and a third node", estimate_s=40) as step:
        lab = client.start(inputs.plan, folder)
        step.note("filling the storage pool")
        _fill_pool(folder, inputs, box, planted, lent)
        pool = ThreadPoolExecutor(2)
        try:
            made = pool.submit(vagrant.up, folder, lambda line: step.note(line[:60]))
            filled = pool.submit(_set_up, lab, inputs, step.note, planted=bool(planted))
            # In this thread nothing but waiting, so that Ctrl-C is heard. The failure that came first tells most.
            done, _ = wait((made, filled), return_when=FIRST_EXCEPTION)
            for future in sorted(done, key=lambda future: future is not made):
                future.result()
        finally:
            # Not waiting: what still runs ends with the lab, which whoever called takes down when this fails.
            pool.shutdown(wait=False, cancel_futures=True)
    return lab


def _set_up(lab: RunningLab, inputs: Inputs, note: Callable[[str], None], *, planted: bool) -> None:
    deadline = Deadline.after(BOOT_S)
    for node in lab.nodes.values():
        node.wait_ready(deadline)
    if not planted:
        fill(lab, inputs.site, inputs.trees, note)
        _keep(lab, inputs)
    start_agents(lab, inputs.site)


def _keep(lab: RunningLab, inputs: Inputs) -> None:
    """Keep DRBD's disks and the third node for the next lab, as they are while nothing uses them."""
    for node in lab.nodes.values():
        node.run(["sync"], limit_s=COMMAND_S)
        node.freeze()  # QEMU writes everything out when it stops a machine
    try:
        seed.keep(inputs, partial(_take_disks, lab, inputs.plan))
    finally:
        for node in lab.nodes.values():
            node.thaw()


def _take_disks(lab: RunningLab, plan: LabPlan, target: Path) -> None:
    pool = volumes.of(lab.folder, _hypervisor(plan))
    for name in _data(plan):
        pool.get(name, target / name)
    seed.copy(_others(plan), lab.folder, target)


def _hypervisor(plan: LabPlan) -> Hypervisor:
    if plan.hypervisor is None:
        raise AssertionError("a plan of virtual machines")
    return plan.hypervisor


def _data(plan: LabPlan) -> list[str]:
    """Return the disks in the pool that a seed is made of."""
    return [disk.file for node in plan.nodes if node.virtual for disk in node.disks if disk.size_bytes]


def _others(plan: LabPlan) -> list[str]:
    """Return the disks in the lab's folder that a seed is made of."""
    return [f"{node.name}.cow" for node in plan.nodes if not node.virtual]


def _fill_pool(folder: Path, inputs: Inputs, box: Box, planted: Path | None, lent: Path | None) -> None:
    """Put everything into the pool that the machines will open: the box, the nodes' files, a seed's disks."""
    hypervisor = _hypervisor(inputs.plan)
    pool = volumes.of(folder, hypervisor)
    pool.put(box.image, vagrant.volume(hypervisor), shared=True)
    if hypervisor.host and hypervisor.direct:  # else QEMU reads them from the box, or there are none
        pool.put(box.kernel, KERNEL)
        pool.put(box.initrd, INITRD)
    for node in inputs.plan.nodes:
        if node.virtual:
            archive, disk = folder / f"{node.name}.files.tar", folder / f"{node.name}.files.qcow2"
            archive.write_bytes(without_agent(inputs.trees[node.name]))
            volumes.as_qcow2(archive, disk, CONVERT_S)
            pool.put(disk, disk.name)
            archive.unlink()
            disk.unlink()
    if lent:
        _lend(inputs.plan, lent, folder, pool)
    elif planted:
        for name in _data(inputs.plan):
            pool.put(planted / name, name)
    pool.refresh()


def _lend(plan: LabPlan, lent: Path, folder: Path, pool: Volumes) -> None:
    """Put the disks of User-Mode Linux nodes where those of a plan's machines are expected; `folder` has room."""
    for name in _data(plan):
        volumes.as_qcow2(lent / name.removesuffix(QCOW2), folder / name, CONVERT_S)
        pool.put(folder / name, name)
        (folder / name).unlink()


def set_clocks(lab: RunningLab, site: Site) -> None:
    """Set the clocks of machines that were put back to an earlier state."""
    for name in site.nodes:
        node: Node = lab.nodes[name]
        node.wait_ready(Deadline.after(CLOCK_S))
        node.run(["date", "-s", f"@{time.time():.6f}"], limit_s=CLOCK_S)
