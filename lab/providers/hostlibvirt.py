"""The host's own libvirt daemon: whether a lab may use it, and what of a lab lies in it.

Its machines may run as another user, confined to what libvirt has labelled; so all that they open lies in a storage
pool of the lab's own at libvirt's place, and gets in and out through the daemon. A lab takes no network of the host.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lab.errors import BadInput, HapairError, HostLacks
from lab.proc import CommandFailed
from lab.providers import libvirt
from lab.providers.base import LIBVIRTS, LabPlan, Libvirt
from lab.providers.libvirt import HOST_URI as URI

IMAGES = Path("/var/lib/libvirt/images")
TRY_S = 10.0
REMOVE_S = 60.0
DAC = re.compile(r"<model>dac</model>.*?<baselabel type='(?:kvm|qemu)'>\+(\d+):", re.DOTALL)
"""In what `virsh capabilities` prints: the user that the daemon's machines run as."""


@dataclass(frozen=True)
class Verdict:
    """Whether the host's daemon can be used; `text` says what was found, `cure` what to do about it."""

    usable: bool
    text: str
    cure: str = ""


@dataclass(frozen=True)
class Choice:
    """Which daemon a lab takes, and why."""

    host: bool
    why: str

    def __str__(self) -> str:
        if self.host:
            return f"libvirt host: {self.why} (the other: --libvirt own)"
        return f"libvirt own: {self.why} (the other: --libvirt host)"


def choose(asked: str | None, said: Libvirt, probe: Callable[[], Verdict], *, root: bool | None = None) -> Choice:
    """Return the daemon for a lab.

    Args:
        asked: what the command line says; None: nothing.
        said: what the site file says.
        probe: tries the host's daemon; only called when it matters.
        root: whether the lab will run as root; default: as this process does.

    Raises:
        BadInput: no daemon has that name, or root asks for a session's.
        HostLacks: the host's daemon was asked for, and does not run or may not be used.
    """
    name = said if asked is None else named(asked)
    why = "the site file says so" if asked is None else "you asked for it"
    as_root = os.geteuid() == 0 if root is None else root
    if name == "session" and as_root:
        raise BadInput("root has no session daemon of libvirt's", "take --libvirt own, or run the lab as a user")
    if name in {"session", "own"}:
        return Choice(host=False, why=why)
    verdict = probe()
    if name == "host":
        if not verdict.usable:
            raise HostLacks(f"the host's libvirt cannot be used: {verdict.text}", f"{verdict.cure}; or --libvirt own")
        return Choice(host=True, why=why)
    kind = "a private daemon" if as_root else "a session daemon"
    text = verdict.text if verdict.usable else f"{kind} of the lab's own, for {verdict.text}"
    return Choice(host=verdict.usable, why=text)


def named(name: str) -> Libvirt:
    """Return the name of a kind of daemon.

    Raises:
        BadInput: it is none.
    """
    for known in LIBVIRTS:
        if name == known:
            return known
    raise BadInput(f"no libvirt daemon is called {name!r}", f"take one of: {', '.join(LIBVIRTS)}")


def probe() -> Verdict:
    """Try to use the host's daemon: connect, and ask for its storage pools, as a lab needs one."""
    try:
        done = libvirt.ask(URI, "pool-list", "--all", "--name", limit_s=TRY_S)
    except CommandFailed:
        text, cure = f"the host's daemon does not answer within {TRY_S:g} s", "as root: systemctl restart libvirtd"
        return Verdict(usable=False, text=text, cure=cure)
    except HostLacks as error:
        return Verdict(usable=False, text=error.message, cure=error.hint)
    if done.code:
        return judge(done.stderr.decode(errors="replace"))
    return Verdict(usable=True, text="the host's daemon runs, and answers you")


def judge(said: str) -> Verdict:
    """Tell what it means that virsh could not use the host's daemon, and the cure."""
    if "No such file" in said or "Connection refused" in said:
        cure = "install libvirt-daemon-system, or as root: systemctl start libvirtd"
        return Verdict(usable=False, text="the host runs no libvirt daemon", cure=cure)
    if re.search(r"Permission denied|authentication (unavailable|failed)|access denied", said, re.IGNORECASE):
        cure = "as root: usermod -aG libvirt USER; then log in again"
        return Verdict(usable=False, text="you may not use the host's daemon", cure=cure)
    last = said.strip().splitlines()[-1] if said.strip() else "it says nothing"
    cure = f"virsh -c {URI} pool-list   must work"
    return Verdict(usable=False, text=f"the host's daemon fails: {last}", cure=cure)


def pool_name(lab: str) -> str:
    """Return the name of the storage pool of the lab called `lab`."""
    return f"hapair-{lab}"


def domain_name(lab: str, node: str) -> str:
    """Return libvirt's name of a node that is a virtual machine; the Vagrantfile makes the same one."""
    return f"hapair-{lab}-{node}"


def domains(plan: LabPlan) -> list[str]:
    """Return libvirt's names of the virtual machines of a lab."""
    return [domain_name(plan.name, node.name) for node in plan.nodes if node.virtual]


def machine_user() -> int | None:
    """Return the user whom the daemon runs its machines as; None: as whoever runs the daemon."""
    found = DAC.search(libvirt.virsh(URI, "capabilities"))
    return int(found.group(1)) if found else None


def check_free(plan: LabPlan) -> None:
    """Refuse to take a name that something on the host's daemon has already: another user's lab, or one's remains.

    Raises:
        BadInput: there is a pool or a machine of the lab's name.
        HapairError: the daemon does not answer.
    """
    taken = _existing("list", domains(plan)) + _existing("pool-list", [pool_name(plan.name)])
    if taken:
        raise BadInput(
            f"the host's libvirt has {' and '.join(taken)} already, of a lab that is not known here",
            f"take another --name; or if nobody needs it: {_by_hand(plan)}",
        )


def make_pool(plan: LabPlan) -> None:
    """Make the storage pool of a lab, and start it."""
    pool, folder = pool_name(plan.name), IMAGES / pool_name(plan.name)
    if not _existing("pool-list", [pool]):
        libvirt.virsh(URI, "pool-define-as", pool, "dir", "--target", str(folder))
        libvirt.virsh(URI, "pool-build", pool)
    if pool not in libvirt.virsh(URI, "pool-list", "--name").split():
        libvirt.virsh(URI, "pool-start", pool)
    libvirt.virsh(URI, "pool-refresh", pool)


def remove(plan: LabPlan) -> None:
    """Remove all that a lab has on the host's daemon, as far as it can be reached; what is gone already is fine.

    Raises:
        HapairError: something could not be removed; the message names it, the hint says how to do it by hand.
    """
    failed: list[str] = []

    def attempt(what: str, *arguments: str) -> None:
        try:
            libvirt.virsh(URI, *arguments, limit_s=REMOVE_S)
        except HapairError as error:
            failed.append(f"{what}: {error.message}")

    pool, folder = pool_name(plan.name), IMAGES / pool_name(plan.name)
    try:
        running = libvirt.virsh(URI, "list", "--name").split()
        for domain in _existing("list", domains(plan)):
            if domain in running:
                attempt(domain, "destroy", domain)
            attempt(domain, "undefine", domain, "--managed-save", "--snapshots-metadata")
        if _existing("pool-list", [pool]):
            _empty(pool, folder, attempt)
            attempt(f"pool {pool}", "pool-undefine", pool)
    except HapairError as error:
        failed.append(error.message)
    with contextlib.suppress(OSError):  # only root may, when the daemon did not
        shutil.rmtree(folder)
    if failed or _there(folder):
        left = failed or [f"the folder {folder}"]
        raise HapairError(
            "\n  ".join([f"what the lab {plan.name!r} has on the host's libvirt could not be removed:", *left]),
            f"make libvirtd run and repeat the command; or by hand, as root: {_by_hand(plan)}",
        )


def _empty(pool: str, folder: Path, attempt: Callable[..., None]) -> None:
    """Remove the volumes of a pool, and its folder."""
    active = pool in libvirt.virsh(URI, "pool-list", "--name").split()
    if not active and _there(folder):
        attempt(f"pool {pool}", "pool-start", pool)
        active = True
    if active:
        libvirt.virsh(URI, "pool-refresh", pool)
        for line in libvirt.virsh(URI, "vol-list", pool).splitlines():
            if name := line.partition(" /")[0].strip():
                attempt(f"volume {name}", "vol-delete", name, "--pool", pool)
        attempt(f"pool {pool}", "pool-destroy", pool)
    if _there(folder):
        attempt(f"folder {folder}", "pool-delete", pool)


def _there(folder: Path) -> bool:
    try:
        return folder.exists()
    except OSError:  # libvirt's place may be closed to this user
        return False


def _existing(kind: Literal["list", "pool-list"], names: Collection[str]) -> list[str]:
    """Return those of the names that the daemon knows a machine or a pool by."""
    known = libvirt.virsh(URI, kind, "--all", "--name").split()
    return [name for name in names if name in known]


def _by_hand(plan: LabPlan) -> str:
    pool = pool_name(plan.name)
    machines = [f"virsh destroy {name}; virsh undefine {name} --snapshots-metadata" for name in domains(plan)]
    return "; ".join([*machines, f"virsh pool-destroy {pool}; virsh pool-undefine {pool}", f"rm -r {IMAGES / pool}"])
