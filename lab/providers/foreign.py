"""Boxes of somebody else's: found in the user's Vagrant, and made into a box of nodes once, kept by content.

What goes into the lab's own boxes goes into a running machine of such a box (lab.providers.conversion). Its disk keeps
its own kernel and boot loader.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lab import paths, proc
from lab.errors import HapairError, HostLacks
from lab.log import Step, Steps
from lab.providers import bootstrap, conversion, image, installed
from lab.providers.box import DISK, KEY, METADATA, VAGRANTFILE, Box, new_key
from lab.providers.conversion import Load, Login
from lab.providers.image import SOURCE, Entry, words
from lab.providers.stored import Made, check, file_digest, made_once

BUILDER = 1  # raise it when this package makes something else of the same inputs
ESTIMATE_S = 400.0
PROVIDER = "libvirt"
ARCHITECTURES = ("", "amd64", "x86_64", "unknown")
"""Folders between a box's version and its provider that hold boxes for this processor, since Vagrant 2.4."""
INSECURE = (
    "insecure_private_key",
    "insecure_private_keys/vagrant.key.ed25519",
    "insecure_private_keys/vagrant.key.rsa",
)
"""Where Vagrant keeps, in its home, the well-known key that lets it into public boxes."""
QUERY_S = 20.0


@dataclass(frozen=True)
class Added:
    """A box for libvirt in the user's Vagrant: its disk, never written to, and how to get into its machines."""

    name: str
    version: str
    disk: Path
    login: Login


def is_foreign(name: str) -> bool:
    """Return whether a name is that of a box of somebody else's, not of a release."""
    return "/" in name


def find(name: str, version: str = "") -> Added:
    """Return a box in the user's Vagrant; the newest without a version.

    Raises:
        HostLacks: it is not there, or for another provider only (the hint is the command that gets it); or no node can
            be made of it.
    """
    add = f"vagrant box add {name} --provider {PROVIDER}" + (f" --box-version {version}" if version else "")
    there = installed.boxes(name)
    wanted = [one for one in there if version in ("", one)]
    if not wanted:
        others = f" in version {version}, only in {', '.join(there)}" if there else ""
        raise HostLacks(f"your Vagrant does not have the box {name}{others}", add)
    top = installed.box_folder(name)
    for one in reversed(wanted):
        for architecture in ARCHITECTURES:
            folder = top / one / architecture / PROVIDER
            if (folder / METADATA).is_file():
                return Added(name, one, _disk(folder, f"{name} {one}"), _login(folder))
    found = sorted({path.parent.name for one in wanted for path in (top / one).rglob(METADATA)})
    kinds = ", ".join(found) or "no provider at all"
    raise HostLacks(
        f"the box {name} {wanted[-1]} in your Vagrant is for {kinds}, not for {PROVIDER}",
        f"{add}; if its maker has none for {PROVIDER}: vagrant plugin install vagrant-mutate && "
        f"vagrant mutate {name} {PROVIDER}",
    )


def _disk(folder: Path, called: str) -> Path:
    """Return a box's disk, after a look at what it says of itself."""
    try:
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        listed = [str(one["path"]) for one in metadata.get("disks", ())] or [DISK]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(called, f"{folder / METADATA} cannot be read: {error}") from None
    if len(listed) > 1:
        raise _unfit(called, f"it has {len(listed)} disks, and a node has one beside DRBD's")
    path = folder / listed[0]
    if path.parent != folder or not path.is_file():
        raise _unfit(called, f"its disk {path} is not there")
    program = proc.which("qemu-img", "qemu-utils")
    done = proc.run([program, "info", "--output=json", path], limit_s=QUERY_S, check=False)
    told = json.loads(done.stdout) if done.code == 0 else {}
    # A disk that builds on another would show a machine some file of this one's.
    if told.get("format") != "qcow2" or "backing-filename" in told or "data-file" in told.get("format-specific", {}):
        raise _unfit(called, f"its disk {path} is not of the format qcow2, or does not stand alone")
    return path


def _unfit(called: str, why: str) -> HostLacks:
    return HostLacks(f"no node can be made of the box {called}: {why}", "name another box as lab.box in the site file")


def _login(folder: Path) -> Login:
    """Return how to get into a machine of a box: with the key in it, if there is one, else with Vagrant's own."""
    vagrantfile = folder / VAGRANTFILE
    text = vagrantfile.read_text(encoding="utf-8", errors="replace") if vagrantfile.is_file() else ""
    named = re.search(r"""^\s*config\.ssh\.username\s*=\s*["']([a-z_][a-z0-9_-]*)["']""", text, flags=re.MULTILINE)
    own = [path for path in sorted(folder.iterdir()) if _is_key(path)]
    known = [path for path in (installed.home() / name for name in INSECURE) if path.is_file()]
    if not own and not known:
        raise HostLacks(
            f"{installed.home()} lacks {INSECURE[0]}, with which Vagrant gets into public boxes",
            "run a command of Vagrant's, which puts it there: vagrant box list",
        )
    return Login(named.group(1) if named else "vagrant", tuple(own or known))


def _is_key(path: Path) -> bool:
    if path.is_dir() or path.stat().st_size > 64 << 10:
        return False
    return bool(re.match(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", path.read_bytes()))


def ensure(added: Added, progress: Steps, kvm: Callable[[], bool], source: Path = SOURCE) -> Box:
    """Return the box of nodes that is made of somebody else's; make it when the cache lacks it.

    Args:
        kvm: tells whether virtual machines run at full speed here; only called when one must run.

    Raises:
        HostLacks: no node can be made of the box, or a program, room or the distribution's archive is missing.
        HapairError: a step in its machine failed; the message has its last lines.
    """
    inputs = json.dumps(_inputs(added, source), sort_keys=True)
    key = hashlib.sha256(inputs.encode()).hexdigest()[:16]
    folder = paths.cache() / "boxes" / f"{added.name.replace('/', '-')}-{key}"
    if not folder.exists():
        bootstrap.check_platform()
        quick = kvm()
        with progress.step(f"a node of the box {added.name} {added.version}", estimate_s=ESTIMATE_S) as step:
            made_once(folder, lambda fresh: _make(added, source, fresh, kvm=quick, step=step))
    digests = check(folder)
    if not digests.keys() >= {DISK, KEY, METADATA}:
        raise HostLacks(f"{folder}: is not a whole box", f"remove {folder} and run the command again")
    suite = json.loads((folder / METADATA).read_text(encoding="utf-8"))["suite"]
    return Box(folder, added.name, added.version, digests[DISK], suite=suite)


def _inputs(added: Added, source: Path) -> dict[str, Any]:
    """Return everything that the box depends on, but for mirrors and its key pair."""
    load = _load(source, "")
    return {
        "builder": BUILDER,
        "original": file_digest(added.disk),
        "packages": load.packages,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in load.files.items()},
        "vagrantfile": file_digest(source / "foreign" / VAGRANTFILE),
        "user": added.login.user,
    }


def _load(source: Path, public_key: str) -> Load:
    """Return what is put into a machine of a box."""
    return Load(
        packages=tuple(words(source / "packages") + words(source / "box" / "packages")),
        files={
            "overlay.tar": image.overlay(entries(source, public_key)),
            "excluded": (source / "excluded").read_bytes(),
            "install": (source / "foreign" / "install").read_bytes(),
            "common": (source / "finish").read_bytes(),
            "finish": (source / "foreign" / "finish").read_bytes(),
        },
    )


def entries(source: Path = SOURCE, public_key: str = "") -> list[Entry]:
    """Return the files that are put into a machine: those of the lab's own boxes, less what it keeps of its own."""
    own, shared = source / "foreign", PurePosixPath("usr/share/hapair-lab")
    put = [
        *image.entries(source),
        *image.tree(source / "box" / "root", PurePosixPath()),
        *image.masks(source / "box" / "masked"),
        *image.tree(own / "root", PurePosixPath()),
        *image.masks(own / "masked"),
        Entry(PurePosixPath("usr/lib/hapair-lab/init"), (own / "init").read_bytes(), executable=True),
        Entry(shared / "authorized_keys", public_key.encode()),
    ]
    kept = set(words(own / "kept"))
    found = {entry.path: entry for entry in put if not kept & {str(entry.path), entry.path.name}}
    return sorted(found.values(), key=lambda entry: entry.path)


def _make(added: Added, source: Path, folder: Path, *, kvm: bool, step: Step) -> Made:
    load = _load(source, new_key(folder))
    login = Login(added.login.user, (*added.login.keys, folder / KEY))  # in the end it takes the new one only
    try:
        made = conversion.convert(added.disk, login, load, folder / DISK, kvm=kvm, step=step)
    except HapairError as error:
        raise type(error)(f"{added.name} {added.version}: {error.message}", error.hint) from error
    metadata = {"provider": PROVIDER, "format": "qcow2", "virtual_size": made.size_gb, "suite": made.suite}
    (folder / METADATA).write_text(json.dumps(metadata) + "\n", encoding="utf-8")
    shutil.copyfile(source / "foreign" / VAGRANTFILE, folder / VAGRANTFILE)
    step.note("checksum")
    return Made({"inputs": _inputs(added, source), "kernel": made.kernel, "installed": made.installed})
