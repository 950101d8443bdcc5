"""The Vagrant box of the lab's nodes, built from the distribution's archive and kept by content.

It holds what the root image of User-Mode Linux nodes holds, and a kernel, sshd and the QEMU guest agent. Its folder in
the cache is laid out as Vagrant lays out a box that was added; `pack` makes a file of it for `vagrant box add`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from lab import paths, proc
from lab.errors import BadInput, HostLacks
from lab.log import Step, Steps
from lab.providers import bootstrap, image
from lab.providers.bootstrap import Recipe
from lab.providers.image import EPOCH_S, MKE2FS, SOURCE, Entry, words
from lab.providers.stored import Made, check, file_digest, made_once

BUILDER = 1  # raise it when this module builds something else from the same inputs, and whenever a box must look newer
DISK_GB = 4
TEMPORARY_BYTES = 1800 << 20
ESTIMATE_S = 75.0
DISK, KERNEL, INITRD, KEY = "box.img", "vmlinuz", "initrd.img", "vagrant_key"
METADATA, VAGRANTFILE = "metadata.json", "Vagrantfile"
CARRIED = {"boot/vmlinuz": KERNEL, "boot/initrd.img": INITRD}


@dataclass(frozen=True)
class Release:
    """A distribution's release: where its packages come from, and which ones differ from Debian's."""

    suite: str
    kernel: str
    origin: str = "Debian"
    components: tuple[str, ...] = ("main",)
    lacks: frozenset[str] = frozenset()
    """Packages of the root image that it does not have."""


RELEASES = {
    "debian-12": Release("bookworm", "linux-image-cloud-amd64"),
    "debian-13": Release("trixie", "linux-image-cloud-amd64"),
    # LXD is a snap there: it comes with what is built from source. The plain kernel package is the one with DRBD.
    "ubuntu-24.04": Release(
        "noble", "linux-image-generic", "Ubuntu", components=("main", "universe"), lacks=frozenset({"lxd"})
    ),
}
DEFAULT = "debian-12"


@dataclass(frozen=True)
class Box:
    """A box that was checked. `folder` holds what Vagrant wants of it, and is never written to."""

    folder: Path
    name: str
    version: str
    digest: str
    """SHA-256 of the disk."""
    kernel_digest: str = ""
    """SHA-256 of the kernel; empty: there is none beside the disk, which has a boot loader of its own."""
    suite: str = ""
    """The distribution's release in it."""

    @property
    def direct(self) -> bool:
        """Whether kernel and initrd are started directly."""
        return bool(self.kernel_digest)

    @property
    def image(self) -> Path:
        """The root disk (qcow2): a base for overlays."""
        return self.folder / DISK

    @property
    def kernel(self) -> Path:
        """The kernel to boot."""
        return self.folder / KERNEL

    @property
    def initrd(self) -> Path:
        """The initial RAM disk that goes with the kernel."""
        return self.folder / INITRD

    @property
    def key(self) -> Path:
        """The private key of the user `vagrant`."""
        return self.folder / KEY


def ensure(progress: Steps, release: str = DEFAULT, source: Path = SOURCE) -> Box:
    """Return the box of a release for the present inputs; build it when the cache lacks it.

    Raises:
        BadInput: there is no box of that release.
        HostLacks: the box in the cache is not what its manifest says; or what building one takes is missing.
        HapairError: the build failed; the message has its last lines.
    """
    folder = _folder(release, source)
    if not folder.exists():
        _check_host(release)
        with progress.step(f"box {release}", estimate_s=ESTIMATE_S) as step:
            made_once(folder, lambda fresh: _build(release, source, fresh, step))
    return find(release, source)


def find(release: str = DEFAULT, source: Path = SOURCE) -> Box:
    """Return the box of a release for the present inputs out of the cache.

    Raises:
        HostLacks: it is not there, or not what its manifest says.
    """
    folder = _folder(release, source)
    digests = check(folder)
    if not digests.keys() >= {DISK, KERNEL, INITRD, KEY}:
        raise HostLacks(f"{folder}: is not a whole box", f"remove {folder} and run the command again")
    name, suite = f"hapair/{release}", _release(release).suite
    return Box(folder, name, version(release, source), digests[DISK], digests[KERNEL], suite)


def cached(release: str = DEFAULT, source: Path = SOURCE) -> bool:
    """Return whether the cache holds the box of a release for the present inputs."""
    return _folder(release, source).exists()


def version(release: str = DEFAULT, source: Path = SOURCE) -> str:
    """Return the version that Vagrant knows the present box by: ordered by BUILDER, and another for other inputs."""
    return f"1.{BUILDER}.{int(key(release, source)[:6], 16)}"


def key(release: str, source: Path = SOURCE) -> str:
    """Return the name of the box that the present inputs make: one hash over all of them."""
    text = json.dumps(inputs(release, source), sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def inputs(release: str, source: Path = SOURCE) -> dict[str, Any]:
    """Return everything that a box depends on, but for mirrors and its key pair, files as SHA-256.

    Raises:
        BadInput: there is no box of that release.
    """
    recipe = _recipe(release, source, "")
    return {
        "builder": BUILDER,
        "suite": recipe.suite,
        "origin": recipe.origin,
        "components": recipe.components,
        "packages": recipe.packages,
        "excluded": hashlib.sha256(recipe.excluded).hexdigest(),
        "overlay": hashlib.sha256(recipe.overlay).hexdigest(),
        "scripts": [hashlib.sha256(script).hexdigest() for script in recipe.scripts],
        "mke2fs": recipe.mke2fs,
        "size_bytes": recipe.size_bytes,
        "vagrantfile": file_digest(source / "box" / VAGRANTFILE),
    }


def _release(name: str) -> Release:
    if name not in RELEASES:
        raise BadInput(f"there is no box of {name!r}", f"take one of: {', '.join(RELEASES)}")
    return RELEASES[name]


def _folder(release: str, source: Path) -> Path:
    return paths.cache() / "boxes" / f"{release}-{key(release, source)}"


def _recipe(name: str, source: Path, public_key: str) -> Recipe:
    release, own = _release(name), source / "box"
    packages = [*words(source / "packages"), *words(own / "packages"), release.kernel]
    return Recipe(
        suite=release.suite,
        origin=release.origin,
        components=release.components,
        packages=tuple(package for package in packages if package not in release.lacks),
        excluded=(source / "excluded").read_bytes() + (own / "excluded").read_bytes(),
        overlay=image.overlay(_entries(source, public_key)),
        scripts=((source / "finish").read_bytes(), (own / "finish").read_bytes()),
        mke2fs=MKE2FS,
        size_bytes=DISK_GB << 30,
        temporary_bytes=TEMPORARY_BYTES,
        carried=CARRIED,
    )


def _entries(source: Path, public_key: str) -> list[Entry]:
    """Return what is put into a box beside the packages; its own files take the place of those of the root image."""
    shared = PurePosixPath("usr/share/hapair-lab")
    own = [
        *image.tree(source / "box" / "root", PurePosixPath()),
        *image.masks(source / "box" / "masked"),
        Entry(shared / "initrd-init", (source / "box" / "initrd-init").read_bytes(), executable=True),
        Entry(shared / "authorized_keys", public_key.encode()),
    ]
    found = {entry.path: entry for entry in [*image.entries(source), *own]}
    return sorted(found.values(), key=lambda entry: entry.path)


def _check_host(release: str) -> None:
    bootstrap.check_host()
    proc.which("qemu-img", "qemu-utils")
    proc.which("ssh-keygen", "openssh-client")
    wanted = _release(release)
    if wanted.origin != "Debian" and not bootstrap.mirrors(wanted.suite, wanted.origin):
        raise HostLacks(
            f"this machine's apt knows no archive of {wanted.origin}, which the box {release} is made from",
            f"add one of {wanted.suite} to its sources, or take a box of Debian: lab.box --release {DEFAULT}",
        )


def _build(release: str, source: Path, folder: Path, step: Step) -> Made:
    recipe = _recipe(release, source, new_key(folder))
    packages = bootstrap.build(recipe, folder, "raw", step)
    step.note("converting the disk")
    # Not compressed: every boot would pay for it.
    proc.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "raw", DISK], cwd=folder, limit_s=300)
    (folder / "raw").unlink()
    metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GB}
    (folder / METADATA).write_text(json.dumps(metadata) + "\n", encoding="utf-8")
    shutil.copyfile(source / "box" / VAGRANTFILE, folder / VAGRANTFILE)
    step.note("checksum")
    return Made({"inputs": inputs(release, source), "packages": packages})


def new_key(folder: Path) -> str:
    """Make the key pair of the user `vagrant`: put the private key into a box's folder, and return the public one."""
    program = proc.which("ssh-keygen", "openssh-client")
    proc.run([program, "-q", "-t", "ed25519", "-N", "", "-C", "hapair", "-f", folder / KEY], limit_s=20)
    public = folder / f"{KEY}.pub"
    text = public.read_text(encoding="ascii")
    public.unlink()
    return text


def pack(box: Box, progress: Steps) -> Path:
    """Return the catalog that `vagrant box add` takes, with the box's file beside it; make what is missing.

    Through a catalog Vagrant learns the name and the version of a box, and so can tell an old one.
    """
    stem = f"{box.name.replace('/', '-')}-{box.version}"
    file, catalog = (box.folder.parent / f"{stem}.{suffix}" for suffix in ("box", "json"))
    with FileLock(box.folder.parent / f"{stem}.lock"):
        if not (catalog.exists() and file.exists()):
            with progress.step(f"packing {file.name}", estimate_s=5):
                _whole(file, lambda fresh: _tar(box, fresh))
                text = json.dumps(_catalog(box, file), indent=1) + "\n"
                _whole(catalog, lambda fresh: fresh.write_text(text, encoding="utf-8"))
    return catalog


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let a file appear under its name only when all of it is written."""
    fresh = path.with_name(f".making-{path.name}")
    try:
        write(fresh)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _tar(box: Box, path: Path) -> None:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode, member.mtime = 0o600 if member.name == KEY else 0o644, EPOCH_S
        return member

    # Not compressed either: packing and adding would take longer, and it is made where it is used.
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in (METADATA, VAGRANTFILE, KEY, KERNEL, INITRD, DISK):
            tar.add(box.folder / name, name, filter=plain)


def _catalog(box: Box, file: Path) -> dict[str, Any]:
    provider = {
        "name": "libvirt",
        "url": file.as_uri(),
        "checksum_type": "sha256",
        "checksum": file_digest(file),
    }
    return {
        "name": box.name,
        "description": "A node of the hapair lab: DRBD, btrfs, LXD",
        "versions": [{"version": box.version, "providers": [provider]}],
    }
