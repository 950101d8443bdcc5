"""Which libvirt daemon a lab takes, and what it asks of the host's: a fake virsh keeps its machines in files."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks
from lab.providers import client, daemon, hostlibvirt, inlet, libvirt, vagrant, volumes
from lab.providers.base import Hypervisor, LabPlan
from lab.providers.hostlibvirt import Verdict, choose, judge
from lab.providers.plan import Artifacts, make_plan, with_machines
from tests.fakes.programs import Fakes
from tests.unit.hosts.sites import example_site

RUNS, NONE = Verdict(usable=True, text="it answers"), Verdict(usable=False, text="there is none", cure="start it")
HOST = Hypervisor("hapair/debian-12", "1.1.7", kvm=False, host=True)
# A daemon of one folder: machines and pools are files in it; a running machine has an `on` beside it.
VIRSH = """
cd "$(dirname "$0")/daemon" || exit 1
[ -e down ] && { echo "error: failed to connect to the hypervisor
error: Failed to connect socket to '/run/libvirt/libvirt-sock': No such file or directory" >&2; exit 1; }
shift 3
case "$1" in
list) if [ "$2" = --all ]; then ls machines; else ls on; fi ;;
pool-list) ls pools ;;
vol-list) ls volumes | sed 's#.*# & /place/&#' ;;
domstate) if [ -e "on/$2" ]; then echo running; else echo shut off; fi ;;
destroy) rm "on/$2" ;;
undefine) rm "machines/$2" ;;
vol-delete) [ -e "locked" ] && { echo "error: volume is in use" >&2; exit 1; }; rm "volumes/$2" ;;
pool-undefine) rm "pools/$2" ;;
pool-define-as) touch "pools/$2" ;;
capabilities) echo "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel>" ;;
event) sleep 60 ;;
esac
"""


@pytest.fixture
def plan() -> LabPlan:
    artifacts = Artifacts(Path("/cache/linux"), "k" * 64, Path("/cache/root.ext4"), "i" * 64)
    return with_machines(make_plan(example_site(), "example", artifacts), HOST)


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a daemon that has a lab's remains, and a machine of somebody else's."""
    fakes.add("virsh", script=VIRSH)
    monkeypatch.setattr(hostlibvirt, "IMAGES", tmp_path / "images")
    state = fakes.folder / "daemon"
    for name in ("machines", "on", "pools", "volumes"):
        (state / name).mkdir(parents=True)
    for name in ("machines/hapair-example-n1", "machines/hapair-example-n2", "machines/other", "on/hapair-example-n2",
                 "on/other", "pools/hapair-example", "pools/default", "volumes/n1.r0-data.qcow2"):  # fmt: skip
        (state / name).touch()
    return state


def refuse() -> Verdict:
    raise AssertionError("nobody needed to know")


def test_by_itself_a_lab_takes_the_hosts_daemon_where_it_may() -> None:
    found = choose(None, "auto", lambda: RUNS, root=False)
    assert found.host and str(found) == "libvirt host: it answers (the other: --libvirt own)"
    assert "private daemon of the lab's own, for there is none" in str(choose(None, "auto", lambda: NONE, root=True))
    assert "a session daemon" in choose(None, "auto", lambda: NONE, root=False).why


def test_what_is_asked_for_goes_before_the_site_file() -> None:
    own = choose("own", "host", refuse, root=True)
    assert not own.host and own.why == "you asked for it"
    assert choose(None, "session", refuse, root=False) == hostlibvirt.Choice(host=False, why="the site file says so")
    assert choose("host", "own", lambda: RUNS).host
    with pytest.raises(HostLacks, match="there is none") as caught:
        choose(None, "host", lambda: NONE)
    assert "start it" in caught.value.hint and "--libvirt own" in caught.value.hint
    with pytest.raises(BadInput, match="root has no session"):
        choose("session", "auto", refuse, root=True)
    with pytest.raises(BadInput, match="no libvirt daemon is called 'remote'"):
        choose("remote", "auto", refuse)


@pytest.mark.parametrize(
    ("said", "text", "cure"),
    [
        ("error: Failed to connect socket to '/s': No such file or directory", "runs no libvirt", "systemctl start"),
        ("error: Failed to connect socket to '/s': Permission denied", "may not use", "usermod -aG libvirt"),
        ("error: authentication unavailable: no polkit agent available", "may not use", "log in again"),
        ("error: this function is not supported by the connection driver", "not supported", "pool-list"),
    ],
)
def test_why_the_hosts_daemon_cannot_be_used_is_told_apart(said: str, text: str, cure: str) -> None:
    verdict = judge(f"error: failed to connect to the hypervisor\n{said}\n")
    assert not verdict.usable and text in verdict.text and cure in verdict.cure


@pytest.mark.spawns
def test_the_hosts_daemon_is_tried_by_using_it(host: Path, fakes: Fakes) -> None:
    assert hostlibvirt.probe().usable
    assert fakes.calls("virsh")[-1][1:] == ["-q", "-c", "qemu:///system", "pool-list", "--all", "--name"]
    (host / "down").touch()
    assert "runs no libvirt daemon" in hostlibvirt.probe().text
    fakes.add("virsh", delay_s=30)
    pytest.MonkeyPatch().setattr(hostlibvirt, "TRY_S", 0.2)
    assert "does not answer within" in hostlibvirt.probe().text


def test_on_the_host_a_lab_has_pool_and_box_of_its_own(plan: LabPlan) -> None:
    made = plan.hypervisor
    assert made and made.pool == "hapair-example" and made.pool_folder == "/var/lib/libvirt/images/hapair-example"
    assert vagrant.volume(made).startswith("hapair-example-VAGRANTSLASH-debian-12_vagrant_box_image_1.1.7")
    assert hostlibvirt.domains(plan) == ["hapair-example-n1", "hapair-example-n2"]
    assert LabPlan.load(plan.dump()) == plan


@pytest.mark.spawns
def test_a_name_that_is_taken_on_the_host_is_refused(host: Path, plan: LabPlan) -> None:
    with pytest.raises(BadInput, match="hapair-example-n1 and hapair-example-n2 and hapair-example already"):
        hostlibvirt.check_free(plan)
    hostlibvirt.check_free(replace(plan, name="another"))
    assert (host / "machines/other").exists()


@pytest.mark.spawns
def test_destroying_a_lab_removes_what_it_has_on_the_host_and_nothing_else(
    host: Path, plan: LabPlan, tmp_path: Path, fakes: Fakes
) -> None:
    folder = tmp_path / "labs" / "example"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.dump())
    (tmp_path / "images" / "hapair-example").mkdir(parents=True)
    client.destroy(folder)
    assert sorted(path.name for path in host.rglob("*") if path.is_file()) == ["default", "other", "other"]
    assert not folder.exists() and not (tmp_path / "images" / "hapair-example").exists()
    undefined = [call for call in fakes.calls("virsh") if "undefine" in call]
    assert len(undefined) == 2 and all("--snapshots-metadata" in call for call in undefined)


@pytest.mark.spawns
def test_what_cannot_be_removed_is_named_and_the_lab_stays(host: Path, plan: LabPlan, tmp_path: Path) -> None:
    folder = tmp_path / "labs" / "example"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.dump())
    (host / "locked").touch()
    with pytest.raises(HapairError, match=r"volume n1.r0-data.qcow2: .*volume is in use"):
        client.destroy(folder)
    (host / "down").touch()
    with pytest.raises(HapairError, match="host's libvirt daemon does not answer") as caught:
        client.destroy(folder)
    assert "rm -r" in caught.value.hint and (folder / "plan.json").exists()
    (host / "down").unlink()
    (host / "locked").unlink()
    client.destroy(folder)
    assert not folder.exists()


@pytest.mark.spawns
def test_files_go_through_the_hosts_daemon(fakes: Fakes, tmp_path: Path) -> None:
    fakes.add("virsh")
    (tmp_path / libvirt.URI_FILE).write_text(libvirt.HOST_URI)
    pool = volumes.of(tmp_path, replace(HOST, pool="hapair-example"))
    pool.put(tmp_path / "box.img", "v", shared=True)
    pool.get("v", tmp_path / "out")
    made, filled, taken = (call[4:] for call in fakes.calls("virsh"))
    assert made[:4] == ["vol-create-as", "hapair-example", "v", "0"]
    assert filled[:3] == ["vol-upload", "v", str(tmp_path / "box.img")]
    assert taken[:3] == ["vol-download", "v", str(tmp_path / "out")]


def test_in_a_folder_only_what_is_never_written_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / libvirt.URI_FILE).write_text("qemu:///session")
    (tmp_path / volumes.FOLDER).mkdir()
    (tmp_path / "disk").write_bytes(b"disk")
    pool = volumes.of(tmp_path, Hypervisor("b", "1", kvm=False))
    pool.put(tmp_path / "disk", "shared", shared=True)
    pool.put(tmp_path / "disk", "copy")
    pool.get("copy", tmp_path / "out")
    assert (tmp_path / "pool/shared").samefile(tmp_path / "disk")
    assert not (tmp_path / "pool/copy").samefile(tmp_path / "disk")
    assert (tmp_path / "out").read_bytes() == b"disk"


class Ear:
    """A machine that keeps what it hears."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def on_event(self, kind: str, what: str, detail: str) -> None:
        raise AssertionError(f"{kind} {what} {detail}: the host's machines outlive its daemon")

    def on_state(self, state: str) -> None:
        self.states.append(state)


@pytest.mark.spawns
def test_a_daemon_that_was_restarted_is_followed_again(host: Path, plan: LabPlan, tmp_path: Path) -> None:
    async def scenario() -> None:
        made = daemon.Daemon(tmp_path, plan)
        first, second = Ear(), Ear()
        made.machines.update({"hapair-example-n1": first, "hapair-example-n2": second})
        await made.start(tmp_path)
        try:
            assert 64055 in made.users
            (host / "down").touch()
            assert made._events
            made._events.kill()
            async with asyncio.timeout(20):
                while made._again is None:
                    await asyncio.sleep(0.01)  # until the end of its events is read
                assert not first.states
                (host / "down").unlink()
                await made._again
            assert (first.states, second.states) == (["shut off"], ["running"])
        finally:
            await made.stop()

    asyncio.run(scenario())


def test_only_the_machines_user_may_call_and_the_console_is_kept(tmp_path: Path) -> None:
    users: list[int] = []

    async def scenario() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        transcript = inlet.Transcript(tmp_path / "n1.console")
        door = inlet.Inlet(port, lambda: users, transcript.take)
        door.open()
        with pytest.raises(HostLacks, match=f"port {port} "):
            inlet.Inlet(port, lambda: users, transcript.take).open()
        for who, text in (([], b"forged\n"), ([os.geteuid()], b"booting\n"), ([os.geteuid()], b"again\n")):
            users[:] = who
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            await asyncio.to_thread(
                wait_until, "it was read or refused",
                lambda text=text: not users or text in (tmp_path / "n1.console").read_bytes()
                if (tmp_path / "n1.console").exists() else not users,
                Deadline.after(5),
            )  # fmt: skip
            await asyncio.sleep(0.05)  # a refusal leaves nothing to wait for
            writer.close()
        door.close()
        transcript.close()

    asyncio.run(scenario())
    assert (tmp_path / "n1.console").read_bytes() == b"booting\nagain\n"
