"""Checks of what the provider `vagrant` needs, each with its cure. None of them starts Vagrant or a daemon."""

from __future__ import annotations

import getpass
import grp
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lab import paths
from lab.errors import HapairError
from lab.providers import box, foreign, installed, kvm
from lab.providers.doctor import Finding, Grade, nearest, search_path
from lab.providers.installed import Distribution

PROGRAMS = {
    "libvirtd": "libvirt-daemon",
    "virsh": "libvirt-clients",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "ssh": "openssh-client",
}
SYSTEM_SOCKET = Path("/run/libvirt/libvirt-sock")
NEEDED_DISK_BYTES = 2 << 30
"""A box, its file for Vagrant, and what two nodes write over it."""
BOX_BUILD = "about 1 min"


def examine(*, wanted: bool, named: str = box.DEFAULT, version: str = "") -> Iterable[Finding]:
    """Yield every finding.

    Args:
        wanted: labs are to use this provider: what it lacks is a failure then, and a warning otherwise.
        named: the box that the site file names, and the `version` that it must have.
    """
    lack = Grade.BAD if wanted else Grade.WORSE
    at, found = installed.this(), installed.find()
    yield vagrant("vagrant", found.vagrant, at, lack)
    yield vagrant("vagrant-libvirt", found.plugin, at, lack)
    yield _programs(lack)
    yield added(named, version, lack) if foreign.is_foreign(named) else _box()
    yield _kvm()
    yield _group()
    yield _disk(lack)


def vagrant(what: str, version: str, at: Distribution, lack: Grade) -> Finding:
    """Judge the installed version of `vagrant` or `vagrant-libvirt` on a distribution."""
    lacking = installed.lacking(what, version)
    if lacking:
        return Finding(what, lack, lacking, installed.cure(what, at))
    return Finding(what, Grade.GOOD, version)


def _programs(lack: Grade) -> Finding:
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program, path=search_path()) is None]
    if missing:
        return Finding(
            "libvirt and QEMU", lack, f"missing: {', '.join(missing)}", f"apt-get install {' '.join(missing)}"
        )
    return Finding("libvirt and QEMU", Grade.GOOD, "installed")


def added(name: str, version: str, lack: Grade) -> Finding:
    """Judge a box of somebody else's that nodes are to be made of."""
    try:
        found = foreign.find(name, version)
    except HapairError as error:
        return Finding("box", lack, error.message, error.hint)
    return Finding("box", Grade.GOOD, f"{name} {found.version} in your Vagrant")


def _box() -> Finding:
    names = {release: f"hapair/{release}" for release in box.RELEASES}
    added = {name: installed.boxes(name) for name in names.values()}
    present = {name: box.version(release) for release, name in names.items()}
    return boxes(added, present, cached=[names[release] for release in names if box.cached(release)])


def boxes(added: Mapping[str, Collection[str]], present: Mapping[str, str], cached: Collection[str]) -> Finding:
    """Judge the boxes: versions `added` to the user's Vagrant, the `present` version of each, and those `cached`."""
    old = [(name, version) for name in added for version in added[name] if version != present[name]]
    built = ", ".join(f"{name} {present[name]}" for name in cached)
    text = f"in the cache: {built}" if built else f"none in the cache: a lab makes its own, in {BOX_BUILD}"
    if not old:
        return Finding("box", Grade.GOOD, text)
    cures = " && ".join(f"vagrant box remove {name} --box-version {version}" for name, version in old)
    stale = ", ".join(f"{name} {version}" for name, version in old)
    return Finding(
        "box", Grade.WORSE, f"{text}; Vagrant holds old ones: {stale}", f"{cures}; invoke lab.box makes new ones"
    )


def _kvm() -> Finding:
    nested = nesting(kvm.CPUINFO.read_text(encoding="utf-8"))
    ready = next((release for release in box.RELEASES if box.cached(release)), None)
    try:
        if ready is None:
            closed = kvm.access()
            if closed is None:
                text = f"{kvm.DEVICE} can be opened; whether it works shows once there is a box (invoke lab.box)"
                return Finding("kvm", Grade.GOOD, text + nested)
            verdict = closed
        else:
            made = box.find(ready)
            verdict = kvm.probe(made.kernel, made.kernel_digest)
    except HapairError as error:
        return Finding("kvm", Grade.WORSE, error.message, error.hint)
    if verdict.usable:
        return Finding("kvm", Grade.GOOD, verdict.text + nested)
    return Finding("kvm", Grade.WORSE, f"{verdict.text}{nested}; virtual machines would be emulated", verdict.cure)


def nesting(cpuinfo: str) -> str:
    """Return what to add about a machine that is a virtual one itself, told by the text of /proc/cpuinfo."""
    flags = next((line.split() for line in cpuinfo.splitlines() if line.startswith("flags")), [])
    return " (this machine is virtual itself: KVM in it is nested)" if "hypervisor" in flags else ""


def _group() -> Finding:
    subject = "group libvirt"
    if os.geteuid() == 0 or not _daemon_is_there():
        return Finding(subject, Grade.GOOD, "not needed: root and a lab's own libvirt daemon do without")
    try:
        group = grp.getgrnam("libvirt")
    except KeyError:
        return Finding(subject, Grade.GOOD, "not needed: there is no such group")
    return membership(getpass.getuser(), group.gr_mem, in_session=group.gr_gid in os.getgroups())


def _daemon_is_there() -> bool:
    try:
        return SYSTEM_SOCKET.exists()
    except PermissionError:  # a folder that is closed to everybody is no running daemon's
        return False


def membership(user: str, members: Collection[str], *, in_session: bool) -> Finding:
    """Judge whether a user may speak to the host's libvirt daemon; plain `vagrant up` needs it, labs do not."""
    subject = "group libvirt"
    if in_session:
        return Finding(subject, Grade.GOOD, f"{user} is in it")
    if user in members:
        return Finding(subject, Grade.WORSE, f"{user} is in it, but was not when this session began", "log in again")
    text = f"{user} is not in it: the host's libvirt is closed to plain `vagrant up`, and to labs"
    return Finding(subject, Grade.WORSE, text, f"as root: usermod -aG libvirt {user}; then log in again")


def _disk(lack: Grade) -> Finding:
    folder = paths.labs()
    free = shutil.disk_usage(nearest(folder)).free
    text = f"{free >> 20} MiB free, a box and two nodes need {NEEDED_DISK_BYTES >> 20}"
    if free < NEEDED_DISK_BYTES:
        return Finding("disk", lack, text, "free some, or set XDG_STATE_HOME and XDG_CACHE_HOME")
    return Finding("disk", Grade.GOOD, text)
