"""The rendered files are accepted by the programs that read them on the nodes, and faulty ones are not."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings

from lab import proc
from lab.errors import HostLacks
from lab.hosts.render import render_all
from lab.hosts.site import Site
from lab.hosts.tree import File, Tree
from lab.hosts.validate import VALIDATORS, Unreadable, validate
from tests.unit.hosts.sites import Data, example_site, valid

pytestmark = pytest.mark.spawns
PROGRAMS = {
    "drbdadm": ("drbdadm", "drbd-utils"),
    "sysctl": ("sysctl", "procps"),
    "systemd": ("systemd-analyze", "systemd"),
}


@functools.cache
def rendered() -> Mapping[str, Tree]:
    return render_all(example_site(), runtime=b"archive")


def needs(validator: str) -> None:
    """Skip, saying why, where the validator's program is missing."""
    if validator in PROGRAMS:
        try:
            proc.which(*PROGRAMS[validator])
        except HostLacks as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("validator", VALIDATORS)
def test_accepted(validator: str) -> None:
    needs(validator)
    verdicts = [it for it in validate(rendered()) if it.validator == validator]
    assert [it.node for it in verdicts] == ["n1", "n2"]
    assert all(it.files > 0 and not it.note for it in verdicts)


@pytest.mark.parametrize(
    ("path", "old", "new", "said"),
    [
        ("/etc/drbd.d/global_common.conf", "fencing resource", "fencings resource", "drbdadm: .*fencings"),
        ("/etc/drbd.d/r0.res", "timeout 9;", "timeout 700;", r"drbdadm: .*timeout 700 .*out of range"),
        ("/etc/drbd.d/r0.res", "on n1 {", "on elsewhere {", "drbdadm: no resource r0"),
        ("/etc/drbd.conf", "global_common", "missing", "drbdadm: "),
        ("/etc/hapair/hapair.json", '"n1"', "n1", "json: /etc/hapair/hapair.json"),
        ("/etc/hapair/r0.preseed.yaml", "config:", "config: {", "yaml: /etc/hapair/r0.preseed.yaml"),
        ("/etc/sysctl.d/60-hapair.conf", "kernel.panic = 1", "kernel.panic 1", "sysctl: .*invalid syntax"),
        ("/etc/systemd/system/hapair-agent.service", "Type=notify", "Tpye=notify", "systemd: .*Tpye"),
        ("/etc/systemd/system/r0.mount", "Where=/r0", "Where=/r1", "systemd: .*r0.mount"),
        ("/etc/systemd/system/r0lxd.service", "KillMode=process", "KillMode=never", "systemd: .*never"),
        ("/etc/systemd/system/r0lxd.service", "ExecStart=/usr", "ExecStart=usr", "systemd: "),
    ],
)
def test_refused(path: str, old: str, new: str, said: str) -> None:
    needs(said.split(":", maxsplit=1)[0])
    entry = rendered()["n1"].entries[path]
    assert isinstance(entry, File)
    assert old in entry.data.decode()
    broken = replace(entry, data=entry.data.replace(old.encode(), new.encode(), 1))
    with pytest.raises(Unreadable, match=f"n1: {said}"):
        validate({"n1": Tree({**rendered()["n1"].entries, path: broken})})


def test_all_refusals_are_shown() -> None:
    junk = {path: File(b"{junk", validator=kind) for path, kind in (("/etc/a", "json"), ("/etc/b", "yaml"))}
    with pytest.raises(Unreadable) as caught:
        validate({"n1": Tree({**rendered()["n1"].entries, **junk})})
    assert "json: /etc/a" in caught.value.message
    assert "yaml: /etc/b" in caught.value.message


def test_a_missing_program_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(program: str, package: str = "") -> str:
        raise HostLacks(f"{program} is not installed", f"apt-get install {package}")

    monkeypatch.setattr(proc, "which", nothing)
    notes = {it.validator: str(it) for it in validate({"n1": rendered()["n1"]})}
    assert notes["drbdadm"] == "n1: drbdadm: not checked: drbdadm is not installed (apt-get install drbd-utils)"
    assert notes["json"] == "n1: json: 1 files accepted"


@given(valid())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_sites_are_accepted(data: Data) -> None:
    for validator in PROGRAMS:
        needs(validator)
    verdicts = validate(render_all(Site.model_validate(data), runtime=b"archive"))
    assert all(not it.note for it in verdicts)
