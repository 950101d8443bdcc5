"""The seed: what its key depends on, and provisionings that fail, are interrupted or meet each other.

Nodes are for the scenarios: here starting a lab makes its folder only, and provisioning writes its disks.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import log, paths
from lab.errors import HapairError, HostLacks, TimedOut
from lab.hosts.site import EXAMPLE, load_site
from lab.providers import client, seed
from lab.providers.base import LabPlan
from lab.providers.plan import Artifacts, make_plan
from lab.providers.supervisor import PLAN
from tests.unit.hosts import sites
from tests.unit.hosts.sites import example_site

KERNEL, IMAGE = "k" * 64, "i" * 64
TREES = {"n1": b"tree of n1", "n2": b"tree of n2"}
DISKS = {"n1.cow", "n2.cow", "third.cow", "n1.r0-data", "n1.r0-meta", "n2.r0-data", "n2.r0-meta"}


def inputs_of(folder: Path, data: sites.Data | None = None, name: str = "example", number: int = 0) -> seed.Inputs:
    site = sites.load(folder, data) if data else example_site()
    artifacts = Artifacts(folder / "linux", KERNEL, folder / "root.ext4", IMAGE)
    return seed.Inputs(site, TREES, make_plan(site, name, artifacts, number), artifacts.digests)


def changed(folder: Path, where: sites.Where, value: object) -> seed.Inputs:
    return inputs_of(folder, sites.put(sites.example(), where, value))


def with_disk(inputs: seed.Inputs, size_bytes: int) -> seed.Inputs:
    first, *others = inputs.plan.nodes
    data, meta = first.disks
    bigger = replace(first, disks=(replace(data, size_bytes=size_bytes), meta))
    return replace(inputs, plan=replace(inputs.plan, nodes=(bigger, *others)))


CHANGES: dict[str, Callable[[seed.Inputs, Path], seed.Inputs]] = {
    "the kernel": lambda it, _: replace(it, digests={**it.digests, "kernel": "x" * 64}),
    "the image": lambda it, _: replace(it, digests={**it.digests, "image": "x" * 64}),
    "a tree": lambda it, _: replace(it, trees={**TREES, "n2": b"another"}),
    "trees that changed places": lambda it, _: replace(it, trees={"n1": TREES["n2"], "n2": TREES["n1"]}),
    "a disk of the plan": lambda it, _: with_disk(it, 256 << 20),
    "the site's disks": lambda _, at: changed(at, ("lab", "data_mb"), 256),
    "another value of the site": lambda _, at: changed(at, ("times", "grace_s"), 9),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_input_changes_the_key(tmp_path: Path, change: Callable[[seed.Inputs, Path], seed.Inputs]) -> None:
    inputs = inputs_of(tmp_path)
    assert change(inputs, tmp_path).key != inputs.key


def test_another_way_of_provisioning_changes_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inputs_of(tmp_path).key
    monkeypatch.setattr(seed, "VERSION", seed.VERSION + 1)
    assert inputs_of(tmp_path).key != before


def test_nothing_else_changes_the_key(tmp_path: Path) -> None:
    inputs = inputs_of(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "site.yaml").write_text(f"# a remark\n{EXAMPLE.read_text()}")
    assert inputs_of(elsewhere, sites.example(), name="other", number=9).key == inputs.key
    assert replace(inputs, site=load_site(elsewhere / "site.yaml")).key == inputs.key
    assert replace(inputs, trees=dict(reversed(TREES.items()))).key == inputs.key
    assert len(inputs.key) == 24


class Provisioning:
    """What stands in for the nodes: counts, and does what a test asks for."""

    def __init__(self) -> None:
        self.runs = 0
        self.act: Callable[[], object] = lambda: None

    def start(self, plan: LabPlan, folder: Path) -> SimpleNamespace:
        folder.mkdir(mode=0o700)
        (folder / PLAN).write_text(plan.dump())
        (folder / "n1.console").write_text("n1 says")
        return SimpleNamespace(folder=folder, stop=lambda: None)

    def provision(self, lab: SimpleNamespace, *_: object) -> None:
        self.runs += 1
        self.act()
        for name in DISKS:
            (lab.folder / name).write_text(f"provisioned {name}")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Provisioning:
    made = Provisioning()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(client, "start", made.start)
    monkeypatch.setattr(seed, "provision", made.provision)
    return made


def ensure(tmp_path: Path) -> Path:
    return seed.ensure(inputs_of(tmp_path), log.silent())


def kept() -> set[str]:
    return {path.name for path in (paths.cache() / "seeds").iterdir() if path.suffix != ".lock"}


def test_it_is_provisioned_once_and_kept_for_its_user(tmp_path: Path, nodes: Provisioning) -> None:
    folder = ensure(tmp_path)
    assert ensure(tmp_path) == folder == seed.find(inputs_of(tmp_path).key)
    assert nodes.runs == 1
    assert {path.name for path in folder.iterdir()} == DISKS | {"complete"}
    assert (folder / "n1.cow").read_text() == "provisioned n1.cow"
    assert folder.stat().st_mode & 0o077 == 0
    assert kept() == {folder.name}


def test_it_is_planted_over_what_a_lab_has(tmp_path: Path, nodes: Provisioning) -> None:
    folder, lab = ensure(tmp_path), tmp_path / "lab"
    lab.mkdir()
    (lab / "n1.cow").write_text("written by a scenario, and longer than before")
    seed.plant(inputs_of(tmp_path).plan, folder, lab)
    assert {path.name: path.read_text() for path in lab.iterdir()} == {name: f"provisioned {name}" for name in DISKS}
    assert nodes.runs == 1


@pytest.mark.parametrize("error", [TimedOut("c1 does not answer", "look"), KeyboardInterrupt(), SystemExit(143)])
def test_a_provisioning_that_ends_early_leaves_its_consoles_only(
    tmp_path: Path, nodes: Provisioning, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    nodes.act = fail
    with pytest.raises(type(error)):
        ensure(tmp_path)
    consoles = paths.cache() / "seeds" / "failed" / inputs_of(tmp_path).key
    assert (consoles / "n1.console").read_text() == "n1 says"
    assert kept() == {"failed"}
    if isinstance(error, HapairError):
        assert error.hint == f"look\n  the consoles are in {consoles}"
    with pytest.raises(HostLacks, match="is in the cache no more"):
        seed.find(inputs_of(tmp_path).key)
    with pytest.raises(type(error)):  # the consoles of before are in nobody's way
        ensure(tmp_path)
    nodes.act = lambda: None
    ensure(tmp_path)
    assert nodes.runs == 3


def test_a_seed_that_was_copied_by_half_is_not_taken(
    tmp_path: Path, nodes: Provisioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        if source.name == "third.cow":
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_text("half a seed")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(seed, "copy_sparse", full)
        ensure(tmp_path)
    with pytest.raises(HostLacks, match="is in the cache no more") as caught:
        seed.find(inputs_of(tmp_path).key)
    assert caught.value.hint == "invoke lab.destroy, then invoke lab.up"
    assert (ensure(tmp_path) / "n1.cow").read_text() == "provisioned n1.cow"
    assert nodes.runs == 2


def test_what_a_killed_provisioning_left_is_cleared_away(tmp_path: Path, nodes: Provisioning) -> None:
    part = paths.cache() / "seeds" / f"{inputs_of(tmp_path).key}-part"
    part.parent.mkdir(parents=True)
    nodes.start(inputs_of(tmp_path).plan, part)
    (part / "n1.cow").write_text("half")
    assert (ensure(tmp_path) / "n1.cow").read_text() == "provisioned n1.cow"


def test_two_at_once_share_one_provisioning(tmp_path: Path, nodes: Provisioning) -> None:
    under_way, second_is_here = threading.Event(), threading.Event()

    def slow() -> None:
        under_way.set()
        assert second_is_here.wait(10)
        # Time for the second to get past a lock that is none; with one that works it waits.
        threading.Event().wait(0.2)

    nodes.act = slow
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ensure, tmp_path)
        assert under_way.wait(10)

        def late() -> Path:
            second_is_here.set()
            return ensure(tmp_path)

        second = pool.submit(late)
        assert first.result(20) == second.result(20)
    assert nodes.runs == 1
