"""The pair as a whole. Who serves is asked of mocks; what comes up and goes down is a real supervisor, whose kernels
are stand-ins (kernel.py) and whose seed is made up. Nothing runs on a stand-in that would touch this machine.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lab import log, paths, proc
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks, TimedOut
from lab.hosts.site import Site
from lab.providers import client, memory, pair, seed, virtual
from lab.providers.base import CLEAN, Impairment, LabPlan
from lab.providers.box import Box
from lab.providers.client import RunningLab, RunningNode
from lab.providers.pair import DOWN, INPUTS, Pair
from lab.providers.plan import Artifacts, make_plan
from lab.providers.record import Record, identity
from lab.providers.supervisor import PLAN
from tests.unit.hosts import sites
from tests.unit.hosts.sites import example_site
from tests.unit.scenario.fakes import FakeLab

KERNEL = Path(__file__).with_name("kernel.py")
SEED = "planted by the seed"
Usage = namedtuple("Usage", "total used free")


# --- asked of mocks


@pytest.fixture
def fake(tmp_path: Path) -> FakeLab:
    lab = FakeLab(tmp_path)
    lab.nodes["third"].says["python3 -c *"] = "boot-n1\n"
    return lab


def over(lab: FakeLab) -> Pair:
    return Pair(cast(RunningLab, lab), example_site())


def test_who_serves_is_the_node_whose_boot_answers(fake: FakeLab) -> None:
    assert over(fake).serving() == "n1"
    fake.nodes["third"].says["python3 -c *"] = "boot-n2"
    assert over(fake).serving() == "n2"
    assert over(fake).wait_serving(Deadline.after(1)) == "n2"
    assert fake.nodes["third"].ran[0].endswith(" 192.0.2.88")


def test_virtual_machines_are_kept_as_they_are_when_all_their_units_have_started(
    fake: FakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LXD's start would run out of time in one that is put back long afterwards."""
    jobs = iter(("12 r0lxd.service start running\n", ""))
    fake.nodes["n1"].says["systemctl list-jobs *"] = ""
    fake.nodes["n2"].says["systemctl list-jobs *"] = partial(next, jobs)
    left: list[list[str]] = []
    monkeypatch.setattr(fake, "snapshot", lambda: left.append(list(jobs)), raising=False)
    monkeypatch.setattr(virtual, "make", lambda *_: fake)
    monkeypatch.setattr(pair, "_make_folder", lambda *_: None)
    inputs, box = cast(seed.Inputs, SimpleNamespace(site=example_site())), cast(Box, None)
    pair._first_virtual(tmp_path, inputs, box, log.silent(), None)
    assert left == [[]], "one snapshot, when n2 had told twice"


@pytest.mark.parametrize("answer", ["an earlier boot", "", 1])
def test_nobody_serves(fake: FakeLab, answer: str | int) -> None:
    fake.nodes["third"].says["python3 -c *"] = answer
    fake.nodes["n1"].files["/proc/sys/kernel/random/boot_id"] = b""  # as from one that does not answer yet
    fake.nodes["n2"].power_off()
    assert over(fake).serving() is None


def test_a_third_node_that_is_off_sees_nobody(fake: FakeLab) -> None:
    fake.nodes["third"].power_off()
    assert over(fake).serving() is None


def test_a_frozen_node_is_not_asked(fake: FakeLab) -> None:
    fake.nodes["third"].says["python3 -c *"] = "boot-n2"
    fake.nodes["n1"].freeze()
    asked: list[str] = []
    fake.nodes["n1"].get = lambda path: asked.append(path) or b""  # type: ignore[method-assign,func-returns-value] # a fake's ear
    assert over(fake).serving() == "n2"
    assert asked == []


def test_waiting_in_vain_tells_what_the_nodes_report(fake: FakeLab) -> None:
    fake.nodes["third"].says["python3 -c *"] = 1
    fake.nodes["n1"].says["hapair status --json"] = '{"role": "Secondary"}'
    fake.nodes["n2"].power_off()
    with pytest.raises(TimedOut, match="the container does not answer") as caught:
        over(fake).wait_serving(Deadline.after(0))
    assert '{"n1": {"role": "Secondary"}, "n2": "n2 is off"}' in caught.value.message
    fake.nodes["n1"].says["hapair status --json"] = "no JSON"
    assert str(over(fake).reports()["n1"]).startswith("Expecting value")


def test_a_switchover_asks_the_active_node_and_waits_for_the_other(fake: FakeLab) -> None:
    def leave() -> str:
        fake.nodes["third"].says["python3 -c *"] = "boot-n2"
        return ""

    fake.nodes["n1"].says["r0 secondary"] = leave
    assert over(fake).switchover("r0", Deadline.after(5)) == "n2"
    assert fake.nodes["n2"].ran == []
    fake.nodes["n2"].says["r0 secondary"] = ""
    with pytest.raises(TimedOut, match="the other node serves"):
        over(fake).switchover("r0", Deadline.after(0.1))


def test_a_node_that_is_none_is_refused(fake: FakeLab) -> None:
    assert over(fake).node("n2").name == "n2"
    with pytest.raises(BadInput, match="no node 'n3'") as caught:
        over(fake).node("n3")
    assert caught.value.hint == "name one of n1, n2, third"


# --- refused before anything is built or started


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of this test's own, and a machine with room."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, 64 << 30))
    return paths.labs()


@pytest.mark.parametrize("name", ["", "-a", "A", "a_b", "a/b", "..", "a" * 32, "a\n"])
def test_bad_names_are_refused(state: Path, name: str) -> None:
    for act in (pair.attach, pair.destroy, lambda name: pair.check_start(name, example_site())):
        with pytest.raises(BadInput, match="is no name for a lab"):
            act(name)
    assert not state.exists()


def bring_nothing_up(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring a lab up where neither seed nor supervisor may be touched."""

    def untouched(*_: object) -> None:
        pytest.fail("something was started")

    monkeypatch.setattr(seed, "ensure", untouched)
    monkeypatch.setattr(client, "start", untouched)
    pair.bring_up(name, example_site(), artifacts_in(tmp_path), log.silent())


def artifacts_in(folder: Path) -> Artifacts:
    image = folder / "root.ext4"
    image.touch()
    return Artifacts(KERNEL, "k" * 64, image, "i" * 64)


def test_a_lab_serves_one_run_at_a_time(state: Path) -> None:
    with pair.reserved("one"):
        with pytest.raises(BadInput, match="another run of scenarios uses the lab 'one'"), pair.reserved("one"):
            pass
        with pair.reserved("two"):
            pass
    with pair.reserved("one"):
        pass
    assert list(state.iterdir()) == []


def test_a_lab_left_behind_is_refused_with_its_cure(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "old").mkdir(parents=True)
    (state / "old" / PLAN).touch()
    with pytest.raises(BadInput, match="'old' was left behind by a run that died") as caught:
        bring_nothing_up("old", tmp_path, monkeypatch)
    assert caught.value.hint.startswith("invoke lab.destroy --name old ")
    assert pair.destroy("old")
    assert list(state.iterdir()) == []


def test_too_little_disk_is_refused(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, pair.FREE_BYTES - 1))
    with pytest.raises(HostLacks, match="has 2047 MiB free, a lab needs 2048") as caught:
        bring_nothing_up("new", tmp_path, monkeypatch)
    assert "XDG_STATE_HOME" in caught.value.hint
    assert list(state.iterdir()) == []


def test_too_little_memory_is_refused(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 2255 << 20)
    with pytest.raises(HostLacks, match="2255 MiB of memory are available, the three nodes may use 2256") as caught:
        bring_nothing_up("new", tmp_path, monkeypatch)
    assert "lab.memory_mb" in caught.value.hint
    assert list(state.iterdir()) == []


def test_a_provisioning_that_fails_leaves_no_lab(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Path:
        raise TimedOut("no")

    monkeypatch.setattr(seed, "ensure", fails)
    with pytest.raises(TimedOut):
        pair.bring_up("new", example_site(), artifacts_in(tmp_path), log.silent())
    assert list(state.iterdir()) == []


def test_a_disk_that_becomes_full_is_named_whatever_failed_of_it(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Path:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 64 << 30, 0))
        raise TimedOut("no")

    monkeypatch.setattr(seed, "ensure", fails)
    with pytest.raises(HostLacks, match=f"the disk of {state} became full while the lab came up"):
        pair.bring_up("new", example_site(), artifacts_in(tmp_path), log.silent())
    assert list(state.iterdir()) == []


def test_what_is_not_there_is_neither_attached_to_nor_destroyed(state: Path) -> None:
    with pytest.raises(BadInput, match="the lab 'new' does not run") as caught:
        pair.attach("new")
    assert caught.value.hint == "invoke lab.up --name new"
    assert pair.names() == []
    assert not pair.destroy("new")
    assert list(state.iterdir()) == []


def test_a_lab_that_is_down_is_attached_to_by_bringing_it_up(state: Path) -> None:
    (state / "new").mkdir(parents=True)
    (state / "new" / INPUTS).write_text("{}")
    (state / "new" / DOWN).touch()
    with pytest.raises(BadInput, match="the lab 'new' is down"):
        pair.attach("new")
    assert pair.names() == ["new"]


# --- a real supervisor


def small(site: Site, name: str, artifacts: Artifacts, number: int = 0) -> LabPlan:
    """A plan whose nodes need no memory to speak of."""
    plan = make_plan(site, name, artifacts, number)
    return replace(plan, nodes=tuple(replace(node, memory_mb=1) for node in plan.nodes))


@pytest.fixture
def room(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine where labs come up: kernels are stand-ins, and the container answers with the boot of everybody."""
    monkeypatch.setattr(pair, "make_plan", small)
    monkeypatch.setattr(pair, "ANSWERS", "print(open('/proc/sys/kernel/random/boot_id').read())")
    monkeypatch.setenv("HAPAIR_MEMORY_DIR", str(tmp_path))
    monkeypatch.setattr(proc, "INHERITED", (*proc.INHERITED, "HAPAIR_MEMORY_DIR"))

    def planted(inputs: seed.Inputs, _progress: log.Steps) -> Path:
        folder = paths.cache() / "seeds" / inputs.key
        folder.mkdir(parents=True, exist_ok=True)
        for node in inputs.plan.nodes:
            for file in (f"{node.name}.cow", *(disk.file for disk in node.disks)):
                (folder / file).write_text(SEED)
        (folder / seed.COMPLETE).touch()
        return folder

    monkeypatch.setattr(seed, "ensure", planted)
    yield state
    for folder in [path for path in state.iterdir() if path.is_dir()]:
        client.destroy(folder)
    assert not [path.name for path in tmp_path.glob("hapair-*")], "memory left behind"


def up(tmp_path: Path, site: Site | None = None, *, for_once: bool = False) -> Pair:
    return pair.bring_up("lab", site or example_site(), artifacts_in(tmp_path), log.silent(), for_once=for_once)


def quiet_power_down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cut the power of a stand-in instead: it would run `systemctl poweroff` on this machine."""
    order: list[str] = []

    def cut(node: RunningNode) -> None:
        order.append(node.name)
        node.power_off()

    monkeypatch.setattr(pair, "power_down", cut)
    return order


@pytest.mark.spawns
def test_what_is_cleared_is_a_lab_that_was_for_once_or_never_up(room: Path, tmp_path: Path) -> None:
    up(tmp_path)
    assert not pair.clear("lab") and client.running(room / "lab"), "a person's, and it runs"
    (room / "lab" / pair.COMING).touch()  # as if what brings it up had been killed
    with pytest.raises(BadInput, match="'lab' was left behind by a run that died"):
        up(tmp_path)
    assert pair.clear("lab")
    up(tmp_path, for_once=True)
    assert not (room / "lab" / pair.COMING).exists()
    assert pair.clear("lab") and not pair.clear("lab")
    assert pair.names() == []


@pytest.mark.spawns
def test_the_life_of_a_lab(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = up(tmp_path)
    folder = room / "lab"
    assert running.serving() == "n1"
    assert (folder / "n2.r0-data").read_text() == SEED
    assert pair.names() == ["lab"]
    before = running.lab.status()
    assert before.pid == up(tmp_path).lab.status().pid == pair.attach("lab").lab.status().pid
    assert pair.attach("lab").site == example_site()

    data = sites.put(sites.example(), ("times", "grace_s"), 9)
    with pytest.raises(
        BadInput, match="'lab' is in use by a lab made of another site, provider, kernel or image"
    ) as caught:
        up(tmp_path, sites.load(tmp_path, data))
    assert "take another --name" in caught.value.hint and "lab.destroy --name lab" in caught.value.hint
    assert running.lab.status() == before, "all of that changed nothing"

    order = quiet_power_down(monkeypatch)
    monkeypatch.setattr(Pair, "serving", lambda _: "n1")
    pair.shut_down(running, log.silent())
    assert order == ["n2", "n1"], "the standby first"
    assert (folder / DOWN).exists() and not client.running(folder)
    with pytest.raises(BadInput, match="the lab 'lab' is down"):
        pair.attach("lab")

    (folder / "n1.r0-data").write_text("written")  # not before: what no node has flushed is lost with its power
    start = client.start
    with monkeypatch.context() as broken:

        def fails(*_: object) -> RunningLab:
            raise HostLacks("no memory")

        broken.setattr(client, "start", fails)
        with pytest.raises(HostLacks):
            up(tmp_path)
    assert client.start is start
    again = up(tmp_path)
    assert (folder / "n1.r0-data").read_text() == "written"
    assert not (folder / DOWN).exists()

    record = Record.load(folder)
    assert record
    os.kill(again.lab.status().pid, signal.SIGKILL)
    wait_until("all of it died", lambda: not any(record.alive(name) for name in record.processes), Deadline.after(10))
    with pytest.raises(BadInput, match="left behind by a run that died"):
        pair.attach(folder.name)
    with pytest.raises(BadInput, match="left behind by a run that died"):
        up(tmp_path)
    assert pair.destroy("lab")
    assert list(room.iterdir()) == []


@pytest.mark.spawns
def test_a_reset_replants_the_disks_and_heals_the_links(room: Path, tmp_path: Path) -> None:
    running = up(tmp_path)
    lab, folder = running.lab, room / "lab"
    for disk in ("n1.r0-data", "third.cow"):
        (folder / disk).write_text("written by a scenario")
    lab.set_link("n1", "crossover", "in", Impairment(loss=0.5))
    lab.nodes["n1"].freeze()
    lab.nodes["n2"].power_off()
    boots = {name: node.boots for name, node in lab.status().nodes.items()}
    pair.reset(running, log.silent())
    status = lab.status()
    assert {disk: (folder / disk).read_text() for disk in ("n1.r0-data", "third.cow")} == {
        "n1.r0-data": SEED,
        "third.cow": SEED,
    }
    assert all(link.outward == CLEAN == link.inward for link in status.links)
    assert {name: node.boots for name, node in status.nodes.items()} == {name: it + 1 for name, it in boots.items()}
    assert {node.state for node in status.nodes.values()} == {"on"}

    shutil.rmtree(paths.cache() / "seeds")
    with pytest.raises(HostLacks, match="is in the cache no more"):
        pair.reset(running, log.silent())
    assert lab.status().nodes == status.nodes, "refused before anything was done"


@pytest.mark.spawns
def test_a_lab_that_is_interrupted_as_it_comes_up_is_removed(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def interrupted(self: Pair, deadline: Deadline) -> str:
        assert deadline.left_s > 0
        pids.append(self.lab.status().pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pair, "wait_serving", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up(tmp_path)
    assert list(room.iterdir()) == []
    assert identity(pids[0]) == (pids[0], 0), "its supervisor has ended"


def test_nodes_that_are_off_already_are_in_nobodys_way(
    fake: FakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "stop", lambda _: None)
    for node in fake.nodes.values():
        node.power_off()
    pair.shut_down(over(fake), log.silent())
    assert fake.commands == []
    assert (tmp_path / DOWN).exists()


def test_a_node_that_does_not_power_off_keeps_the_lab_running(
    fake: FakeLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "stop", lambda _: pytest.fail("the lab was stopped"))
    fake.nodes["n2"].freeze()
    with pytest.raises(HapairError, match="n2 is frozen"):
        pair.shut_down(over(fake), log.silent())
    assert not (tmp_path / DOWN).exists()
    assert fake.nodes["n1"].state() == "on"
