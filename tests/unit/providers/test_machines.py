"""Virtual machines as far as they can be shown without one: plan, choice, state, daemon, Vagrant's folder and failures.

The daemon of `Machine` is a mock that answers nothing: what it would say is given to `on_event`.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lab import proc
from lab.errors import BadInput, HapairError, HostLacks
from lab.hosts.render import render_all
from lab.hosts.site import Site
from lab.paths import PROJECT
from lab.providers import choice, daemon, libvirt, memory, vagrant, virtual, volumes
from lab.providers.base import Hypervisor, LabPlan
from lab.providers.box import Box
from lab.providers.kvm import Outcome, Verdict
from lab.providers.plan import FILES, Artifacts, make_plan, with_machines
from lab.providers.provision import AGENT, without_agent
from lab.providers.vm import SNAPSHOT, VirtualMachine
from tests.fakes.programs import Fakes
from tests.unit.hosts import sites
from tests.unit.hosts.sites import example_site

MACHINES = Hypervisor("hapair/debian-12", "1.1.7", kvm=False)
WORKS, BROKEN = Verdict(Outcome.USABLE, "it boots"), Verdict(Outcome.HANGS, "a guest makes no progress")


@pytest.fixture
def plan() -> LabPlan:
    artifacts = Artifacts(Path("/cache/linux"), "k" * 64, Path("/cache/root.ext4"), "i" * 64)
    return with_machines(make_plan(example_site(), "example", artifacts), MACHINES)


def test_machines_have_ports_of_their_own_and_a_disk_with_their_files(plan: LabPlan) -> None:
    *pair, third = plan.nodes
    assert plan.provider == "vagrant" and third.virtual is None and third.interfaces[0].tunnel is None
    ports = []
    for node in pair:
        assert node.virtual
        ports += [node.virtual.control_port, node.virtual.console_port, node.virtual.ssh_port]
        for card in node.interfaces:
            assert card.tunnel
            ports += [card.tunnel.machine_port, card.tunnel.relay_port]
        assert [(disk.slot, disk.serial) for disk in node.disks] == [
            ("vdb", "r0-data"), ("vdc", "r0-meta"), ("vdd", FILES),
        ]  # fmt: skip
        assert not any(disk.log_slot for disk in node.disks)  # that is a thing of User-Mode Linux
    assert len(set(ports)) == len(ports) == 14
    assert LabPlan.load(plan.dump()) == plan


@pytest.mark.spawns
def test_disks_of_a_plain_pair_become_those_of_the_machines(tmp_path: Path, plan: LabPlan, fakes: Any) -> None:
    fakes.add("qemu-img", script='for last in "$@"; do :; done; echo converted >"$last"')
    lent, folder = tmp_path / "seed", tmp_path / "lab"
    (folder / "pool").mkdir(parents=True)
    virtual._lend(plan, lent, folder, volumes.FolderVolumes(folder / "pool", "", "default"))
    names = [f"{node}.r0-{part}" for node in ("n1", "n2") for part in ("data", "meta")]
    assert [call[-2] for call in fakes.calls("qemu-img")] == [str(lent / name) for name in names]
    assert {path.name for path in (folder / "pool").iterdir()} == {f"{name}.qcow2" for name in names}
    assert (folder / "pool/n1.r0-data.qcow2").read_text() == "converted\n"
    assert [path.name for path in folder.iterdir()] == ["pool"], "nothing stays beside the pool"


@pytest.mark.parametrize(("suite", "lends"), [("bookworm", True), ("trixie", False)])
def test_only_a_box_of_the_images_release_goes_on_from_its_disks(tmp_path: Path, suite: str, lends: bool) -> None:
    assert virtual.borrows(Box(tmp_path, "a/b", "1", "d", suite=suite)) is lends


def refuse() -> Verdict:
    raise AssertionError("nobody needed to know")


def chosen(site: Site, verdict: Verdict) -> choice.Choice:
    return choice.choose(None, site, lambda: verdict)


def test_what_is_asked_for_counts_then_the_site_file(tmp_path: Path) -> None:
    assert choice.choose("vagrant", example_site(), refuse).provider == "vagrant"
    site = sites.load(tmp_path, sites.put(sites.example(), ("lab", "provider"), "vagrant"))
    assert choice.choose("uml", site, refuse).provider == "uml"
    found = choice.choose(None, site, refuse)
    assert found.provider == "vagrant" and "site file" in found.why and found.other == "invoke lab.up --provider uml"
    with pytest.raises(BadInput, match="no provider is called 'qemu'"):
        choice.choose("qemu", site, refuse)


def test_vagrant_is_taken_by_itself_only_where_kvm_boots_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_path", lambda: str(tmp_path))
    none = choice.choose(None, example_site(), refuse)
    assert none.provider == "uml" and "vagrant" in none.why
    for program in choice.PROGRAMS:
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    assert chosen(example_site(), WORKS).provider == "vagrant"
    broken = chosen(example_site(), BROKEN)
    assert broken.provider == "uml" and "makes no progress" in broken.why


def test_only_emulated_machines_get_more_time_and_only_if_nobody_said_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HAPAIR_TIME_SCALE", raising=False)
    choice.stretch(None)
    choice.stretch(Hypervisor("b", "1", kvm=True))
    assert "HAPAIR_TIME_SCALE" not in os.environ
    monkeypatch.setenv("HAPAIR_TIME_SCALE", "2")
    choice.stretch(MACHINES)
    assert os.environ["HAPAIR_TIME_SCALE"] == "2"
    monkeypatch.delenv("HAPAIR_TIME_SCALE")
    choice.stretch(MACHINES)
    assert os.environ["HAPAIR_TIME_SCALE"] == choice.EMULATION_SCALE
    monkeypatch.setenv("HAPAIR_TIME_SCALE", "1")  # so that it is taken back afterwards


def machine(plan: LabPlan, folder: Path, log: list[dict[str, Any]]) -> VirtualMachine:
    def note(kind: str, **fields: object) -> None:
        log.append({"kind": kind, **fields})

    return VirtualMachine(plan.nodes[0], folder, "d", MACHINES, daemon=daemon.Daemon(folder, plan), log=note)


def test_a_machine_is_what_libvirt_says_it_is(plan: LabPlan, tmp_path: Path) -> None:
    async def scenario() -> None:
        log: list[dict[str, Any]] = []
        node = machine(plan, tmp_path, log)
        with pytest.raises(HapairError, match="n1 is off"):
            _ = node.line
        node.on_event("lifecycle", "Started", "Booted")
        assert (node.state, node.status().mode, node.status().ready) == ("on", "emulated", False)
        node.on_event("reboot", "", "")
        assert node.state == "on" and node.status().boots == 2
        node.on_event("lifecycle", "Stopped", "Shutdown")
        assert (node.state, node.status().note) == ("off", "powered itself off")
        node.on_event("lifecycle", "Started", "Booted")
        node.on_event("lifecycle", "Stopped", "Failed")
        assert node.status().note == "its process died"
        assert [entry.get("why") for entry in log] == ["on", "restart", "restart", "power-off", "on", "died"]

    asyncio.run(scenario())


def test_a_machine_that_is_not_ours_to_kill_is_killed_by_libvirt(
    plan: LabPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    async def scenario() -> None:
        node = machine(plan, tmp_path, [])

        async def virsh(*arguments: str) -> str:
            asked.append(arguments)
            node.on_event("lifecycle", "Stopped", "Destroyed")
            if len(asked) == 2:
                raise HapairError("virsh destroy d: Requested operation is not valid: domain is not running")
            return ""

        monkeypatch.setattr(node, "_virsh", virsh)
        monkeypatch.setattr(node, "_find", os.getpid)
        monkeypatch.setattr("lab.providers.vm.owner_of_process", lambda _: 64055)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        for boot in (1, 2):
            node.on_event("lifecycle", "Started", "Booted")
            assert node.pid is None, "another user's process is not put down to be killed"
            await node.power_off()
            assert (node.state, node.status().note, node.status().boots) == ("off", "power was cut", boot)

    asyncio.run(scenario())
    assert asked == [("destroy", "d"), ("destroy", "d")]


def test_a_machine_is_put_back_in_a_process_of_its_own(
    plan: LabPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    async def scenario() -> None:
        node = machine(plan, tmp_path, [])

        async def virsh(*arguments: str) -> str:
            asked.append(arguments)
            happens = {"destroy": ("Stopped", "Destroyed"), "start": ("Started", "Booted")}.get(arguments[0])
            if happens:
                node.on_event("lifecycle", *happens)
            return ""

        monkeypatch.setattr(node, "_virsh", virsh)
        monkeypatch.setattr(node, "_find", os.getpid)
        monkeypatch.setattr("lab.providers.vm.owner_of_process", lambda _: 64055)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        node.on_event("lifecycle", "Started", "Booted")
        for _ in ("on", "frozen"):
            await node.restore()
            assert node.state == "frozen"

    asyncio.run(scenario())
    once = [("destroy", "d"), ("start", "--paused", "d"), ("qemu-monitor-command", "d", "--hmp", f"loadvm {SNAPSHOT}")]
    assert asked == 2 * once


@pytest.mark.spawns
def test_a_machine_that_is_killed_while_libvirt_is_away_is_off(
    plan: LabPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        node = machine(plan, tmp_path, [])
        qemu = proc.spawn(["sleep", "60"])
        monkeypatch.setattr(node, "_find", lambda: qemu.pid)
        node.on_event("lifecycle", "Started", "Booted")
        async with asyncio.timeout(10):
            await node.power_off()
        assert (node.state, node.status().note) == ("off", "power was cut")
        assert qemu.wait(5) == -9

    asyncio.run(scenario())


def test_what_nobody_heard_is_learned_from_the_state(plan: LabPlan, tmp_path: Path) -> None:
    async def scenario() -> None:
        log: list[dict[str, Any]] = []
        node = machine(plan, tmp_path, log)
        for found, state in (("running", "on"), ("paused", "frozen"), ("running", "on"), ("shut off", "off")):
            node.on_state(found)
            node.on_state(found)
            assert node.state == state
        assert node.status().boots == 1
        assert [entry["kind"] for entry in log] == ["power", "exit"]

    asyncio.run(scenario())


def test_events_reach_the_machine_that_they_are_about(plan: LabPlan, tmp_path: Path) -> None:
    heard: list[tuple[str, str, str]] = []

    class Ear:
        def on_event(self, kind: str, what: str, detail: str) -> None:
            heard.append((kind, what, detail))

        def on_state(self, state: str) -> None:
            raise AssertionError(f"nobody looked whether it is {state}")

    async def scenario() -> None:
        made = daemon.Daemon(tmp_path, plan)
        made.machines["hapair-lab-n1"] = Ear()
        made._pipe, theirs = os.pipe()
        asyncio.get_running_loop().add_reader(made._pipe, made._read)
        text = "event 'lifecycle' for domain 'hapair-lab-n1': Stopped Shutdown\n"
        text += "event 'reboot' for domain 'hapair-lab-n1'\n"
        os.write(theirs, (text + "event 'lifecycle' for domain 'other': Started Booted\nevent 'rtc-cha").encode())
        made._read()
        assert heard == [("lifecycle", "Stopped", "Shutdown"), ("reboot", "", "")]
        os.close(theirs)
        made._read()
        assert heard[-1] == ("lifecycle", "Stopped", "Failed"), "with the daemon its machines are gone"

    asyncio.run(scenario())


def test_roots_daemon_sees_the_labs_folders_and_may_not_touch_the_network(tmp_path: Path, fakes: Any) -> None:
    for name in ("libvirtd", "bwrap", "setpriv"):
        fakes.add(name)
    (tmp_path / "run").mkdir()
    command = libvirt.private(tmp_path / "libvirt", tmp_path / "run", root=True)
    text = " ".join(command.argv)
    assert f"--bind {tmp_path / 'libvirt' / 'etc'} /etc/libvirt" in text and "--cap-drop CAP_NET_ADMIN" in text
    assert "--die-with-parent" in text and command.uri == f"qemu:///system?socket={command.socket}"
    assert 'user = "root"' in (tmp_path / "libvirt" / "etc" / "qemu.conf").read_text()


def test_what_is_bound_over_is_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        libvirt._place(tmp_path / "libvirt")
    finally:
        os.umask(before)
    assert (tmp_path / "libvirt").stat().st_mode & 0o777 == 0o755
    (tmp_path / "libvirt").chmod(0o700)
    libvirt._place(tmp_path / "libvirt")
    assert (tmp_path / "libvirt").stat().st_mode & 0o777 == 0o700, "what is there stays as it is"


def test_roots_daemon_gets_the_account_that_it_wants_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwd, group = tmp_path / "passwd", tmp_path / "group"
    passwd.write_text("root:x:0:0::/root:/bin/sh\n")
    group.write_text("root:x:0:\nlibvirt-qemu:x:64055:\n")
    (tmp_path / "lab").mkdir()
    lines = libvirt.ACCOUNTS.values()
    monkeypatch.setattr(libvirt, "ACCOUNTS", dict(zip((str(passwd), str(group)), lines, strict=True)))
    assert libvirt._accounts(tmp_path / "lab") == ["--ro-bind", str(tmp_path / "lab" / "passwd"), str(passwd)]
    assert (tmp_path / "lab" / "passwd").read_text().splitlines()[1].startswith("libvirt-qemu:x:64055:")


def test_a_users_daemon_lives_in_folders_of_the_lab(tmp_path: Path, fakes: Any) -> None:
    for name in ("libvirtd", "setpriv"):
        fakes.add(name)
    short = memory.private(Path("/tmp"))  # noqa: S108 - private, and as short as where it belongs
    try:
        command = libvirt.private(tmp_path / "libvirt", short, root=False)
        config = Path(command.env["XDG_CONFIG_HOME"])
        assert config.is_symlink() and config.resolve() == tmp_path / "libvirt" / "conf"
    finally:
        shutil.rmtree(short)
    longest = Path("/dev/shm") / short.name / config.name / libvirt.LONGEST_SOCKET  # noqa: S108 - only a name
    assert len(str(longest)) <= libvirt.SOCKET_BYTES
    config = tmp_path / "libvirt" / "conf"
    assert "security_driver" in (config / "libvirt" / "qemu.conf").read_text()
    assert "bwrap" not in " ".join(command.argv) and command.uri.startswith("qemu:///session?socket=")
    (tmp_path / ("long" * 20)).mkdir()
    with pytest.raises(HostLacks, match="sockets of virtual machines below it would need"):
        libvirt.private(tmp_path / "libvirt", tmp_path / ("long" * 20), root=False)


def test_the_box_is_laid_out_where_vagrant_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, box = tmp_path / "vagrant.d", Box(tmp_path / "box", "hapair/debian-12", "1.1.7", "d", "k")
    (theirs / "gems").mkdir(parents=True)
    monkeypatch.setenv("VAGRANT_HOME", str(theirs))
    box.folder.mkdir()
    box.image.write_bytes(b"disk")
    (tmp_path / "lab").mkdir()
    vagrant.prepare(tmp_path / "lab", box, MACHINES)
    home = tmp_path / "lab" / "vagrant-home"
    assert (home / "boxes/hapair-VAGRANTSLASH-debian-12/1.1.7/libvirt").resolve() == box.folder
    assert (home / "gems").resolve() == theirs / "gems"
    assert vagrant.volume(MACHINES) == "hapair-VAGRANTSLASH-debian-12_vagrant_box_image_1.1.7_box.img"


SAID = {
    "An action 'up' was attempted on the machine 'n1',\nbut another process is already executing an action": "wait for",
    "-netdev user,hostfwd=tcp:127.0.0.1:4567-:22: Could not set up host forwarding rule 'tcp:…'": "takes others",
    "-netdev socket,udp=127.0.0.1:1: can't bind ip=127.0.0.1 to socket: Address already in use": "takes others",
    "Call to virDomainCreateWithFlags failed: End of file while reading data: Input/output error": "libvirtd died",
    "Failed to connect socket to '/dev/shm/hapair-x/libvirt/libvirt-sock': Connection refused": "libvirtd died",
    "The provider 'libvirt' could not be found, but was requested to\nback the machine 'n1'.": "install the plugin",
    "qemu-img: error while writing: No space left on device": "make room",
    "something else": "see what it says",
}
"""The words of Vagrant 2.3.4, its plugin 0.11 and QEMU 7.2, and what the cure begins with."""


@pytest.mark.parametrize(("said", "cure"), SAID.items())
def test_a_failure_of_vagrant_comes_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, cure: str
) -> None:
    monkeypatch.setattr(libvirt, "virsh", lambda *_, **__: "qemu:///system")
    (tmp_path / libvirt.URI_FILE).write_text("qemu:///system?socket=/s")
    (tmp_path / vagrant.LOG).write_text(f"==> n1: Starting domain.\n{said}\n")
    failure = vagrant._failed(tmp_path, "vagrant up")
    assert said.splitlines()[0] in failure.message and cure in failure.hint


@pytest.mark.spawns
def test_what_vagrant_says_last_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fakes: Fakes) -> None:
    monkeypatch.setattr(libvirt, "virsh", lambda *_, **__: "qemu:///system")
    (tmp_path / libvirt.URI_FILE).write_text("qemu:///system?socket=/s")
    fakes.add("vagrant", script="for i in $(seq 100); do echo $i; done; echo 'no virtlogd' >&2; exit 1")
    with pytest.raises(HapairError, match="no virtlogd"):
        vagrant.up(tmp_path, lambda _: None)


def test_a_vagrant_that_ends_without_a_word_because_its_daemon_has_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> str:
        raise HapairError("it does not answer any more")

    monkeypatch.setattr(libvirt, "virsh", gone)
    (tmp_path / libvirt.URI_FILE).write_text("qemu:///system?socket=/s")
    (tmp_path / vagrant.LOG).write_text("==> n1: Waiting for machine to boot.\n")
    assert vagrant._failed(tmp_path, "vagrant up").hint == vagrant.DIED


def test_a_tree_without_the_agents_link_lacks_nothing_else() -> None:
    tree = render_all(example_site())["n1"].tar()

    def names(data: bytes) -> set[str]:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return set(tar.getnames())

    (gone,) = names(tree) - names(without_agent(tree))
    assert gone.endswith(f".wants/{AGENT}")


@pytest.mark.spawns
def test_the_vagrantfile_is_valid_with_a_plan(plan: LabPlan, tmp_path: Path) -> None:
    try:
        program = proc.which("vagrant")
    except HapairError:
        pytest.skip("Vagrant is not installed here")
    (tmp_path / "plan.json").write_text(plan.dump())
    env = {
        "HAPAIR_PLAN": str(tmp_path / "plan.json"), "HAPAIR_LIBVIRT_URI": "qemu:///session?socket=/s",
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"), "HOME": str(tmp_path),
    }  # fmt: skip
    done = proc.run([program, "validate", "--ignore-provider"], limit_s=50, env=env, cwd=PROJECT)
    assert "validated successfully" in done.text
    assert json.loads((tmp_path / "plan.json").read_text())["hypervisor"]["box"] == "hapair/debian-12"


PROCESSORS = """
require "json"
begin
  require "vagrant"
rescue LoadError
  exit 3
end
Vagrant::Environment.new  # loads the plugins
exit 4 unless Vagrant.plugin("2").manager.providers.key?(:libvirt)
puts JSON.dump(JSON.parse(ARGV[0]).map { |variables|
  ENV.update(variables)
  told = Vagrant::Environment.new.machine(:n1, :libvirt).provider_config
  [told.driver, told.cpu_mode, told.cpu_model]
})
"""


@pytest.mark.spawns
def test_bare_machines_are_emulated_when_a_person_says_so_and_planned_ones_as_the_plan_says(
    plan: LabPlan, tmp_path: Path
) -> None:
    """Asked of the Vagrantfile by way of Vagrant itself and its plugin."""
    try:
        ruby = proc.which("ruby")
    except HapairError:
        pytest.skip("Ruby is not installed here")
    told = json.loads(plan.dump())
    (tmp_path / "kvm").write_text(json.dumps({**told, "hypervisor": {**told["hypervisor"], "kvm": True}}))
    (tmp_path / "emulated").write_text(json.dumps({**told, "hypervisor": {**told["hypervisor"], "kvm": False}}))
    asked = [
        {},
        {"HAPAIR_DRIVER": "qemu"},
        {"HAPAIR_DRIVER": "qemu", "HAPAIR_PLAN": str(tmp_path / "kvm")},
        {"HAPAIR_DRIVER": None, "HAPAIR_PLAN": str(tmp_path / "emulated")},
    ]
    env = {
        "HAPAIR_LIBVIRT_URI": "qemu:///session?socket=/s",
        "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"), "HOME": str(tmp_path),
    }  # fmt: skip
    done = proc.run([ruby, "-e", PROCESSORS, json.dumps(asked)], limit_s=50, env=env, cwd=PROJECT, check=False)
    if done.code in (3, 4):
        pytest.skip("Vagrant is not installed here, has a Ruby of its own, or no plugin for libvirt")
    kinds = [tuple(one) for one in json.loads(done.text.splitlines()[-1])]
    emulated = ("qemu", "custom", "Nehalem")
    usual = kinds[0]
    assert usual[0] == "kvm"
    assert kinds[1:] == [emulated, ("kvm", "host-passthrough", usual[2]), emulated]
