"""The root image of the lab's User-Mode Linux nodes: Debian, built once for each set of inputs and kept by content."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lab import paths
from lab.errors import HostLacks
from lab.log import Step, Steps
from lab.providers import bootstrap
from lab.providers.bootstrap import Recipe
from lab.providers.stored import Made, check, made_once

SUITE = "bookworm"
ARCHITECTURE = "amd64"
IMAGE = "root.ext4"
BUILDER = 1  # raise it when this module builds something else from the same inputs
SOURCE = paths.PROJECT / "hostfiles" / "lab"
THIRD_INIT = "/usr/lib/hapair-lab/third-init"
CONTROL = "usr/lib/hapair-lab/control.py"
PROXY = "usr/lib/hapair-lab/proxy.py"
EPOCH_S = 1686355200  # the release of Debian 12, 2023-06-10: the time of every file of ours
IMAGE_BYTES = 1 << 30  # the tree takes a quarter of it; holes cost nothing
TEMPORARY_BYTES = 900 << 20  # the tree, package lists and packages while they are being installed
ESTIMATE_S = 30.0
UNITS = PurePosixPath("etc/systemd/system")
GENERATORS = PurePosixPath("etc/systemd/system-generators")
# 16 MiB are plenty for a root that hardly writes; everything is initialised now instead of in each node's overlay.
MKE2FS = "mke2fs -q -F -t ext4 -m 0 -J size=16 -E lazy_itable_init=0,lazy_journal_init=0"


@dataclass(frozen=True)
class Image:
    """A root image that was checked: its file (never written to), its SHA-256, and the init of the third node."""

    path: Path
    digest: str
    third_init: str = THIRD_INIT


@dataclass(frozen=True)
class Entry:
    """A file (`data`) or a symbolic link (`target`) that is put into the image, owned by root."""

    path: PurePosixPath
    data: bytes = b""
    executable: bool = False
    target: str = ""


def ensure(progress: Steps, source: Path = SOURCE) -> Image:
    """Return the root image for the present inputs; build it when the cache lacks it.

    Raises:
        HostLacks: the image in the cache is not what its manifest says.
        HostLacks: mmdebstrap or mke2fs, a user namespace, room, or a mirror that answers is missing.
        HapairError: the build failed; the message has its last lines.
    """
    folder = paths.cache() / "images" / key(source)
    if not folder.exists():
        bootstrap.check_host()
        with progress.step("root image", estimate_s=ESTIMATE_S) as step:
            made_once(folder, lambda fresh: _build(source, fresh, step))
    return load(folder)


def load(folder: Path, *, full: bool = False) -> Image:
    """Return the image in `folder` after a check against its manifest; `full` reads all of it.

    Raises:
        HostLacks: there is no such image, or it is not what its manifest says.
    """
    digests = check(folder, full=full)
    if IMAGE not in digests:
        raise HostLacks(f"{folder}: holds no {IMAGE}", f"remove {folder} and run the command again")
    return Image(folder / IMAGE, digests[IMAGE])


def cached(source: Path = SOURCE) -> bool:
    """Return whether the cache holds the image for the present inputs."""
    return (paths.cache() / "images" / key(source)).exists()


def key(source: Path = SOURCE) -> str:
    """Return the name of the image that the present inputs make: one hash over all of them."""
    text = json.dumps(inputs(source), sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def inputs(source: Path = SOURCE) -> dict[str, Any]:
    """Return everything that the image depends on, files as SHA-256.

    Mirrors are left out: the archive's signature vouches for what they deliver.
    """
    overlay = {str(entry.path): [entry.executable, entry.target, _digest(entry.data)] for entry in entries(source)}
    return {
        "builder": BUILDER,
        "suite": SUITE,
        "architecture": ARCHITECTURE,
        "packages": words(source / "packages"),
        "excluded": _digest((source / "excluded").read_bytes()),
        "finish": _digest((source / "finish").read_bytes()),
        "mke2fs": MKE2FS,
        "size_bytes": IMAGE_BYTES,
        "files": overlay,
        "epoch_s": EPOCH_S,
    }


def words(path: Path) -> list[str]:
    """Return the first word of each line that has one before its comment, in order."""
    lines = (line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines())
    return [parts[0] for parts in lines if parts]


def entries(source: Path = SOURCE) -> list[Entry]:
    """Return what is put into the image beside the packages, sorted by path."""
    found = [
        *tree(source / "root", PurePosixPath()),
        *tree(source / "writer", PurePosixPath("usr/share/hapair-lab/writer")),
        Entry(PurePosixPath(CONTROL), (source / "control.py").read_bytes(), executable=True),
        Entry(PurePosixPath(PROXY), (source / "proxy.py").read_bytes(), executable=True),
    ]
    found.extend(masks(source / "masked"))
    return sorted(found, key=lambda entry: entry.path)


def masks(path: Path) -> Iterator[Entry]:
    """Yield the links to nothing that keep what a list names, units and generators, from being started."""
    for name in words(path):
        yield Entry((UNITS if "." in name else GENERATORS) / name, target="/dev/null")


def tree(top: Path, below: PurePosixPath) -> Iterator[Entry]:
    """Yield every file and link below a folder."""
    for path in top.rglob("*"):
        place = below / path.relative_to(top).as_posix()
        if path.is_symlink():
            yield Entry(place, target=str(path.readlink()))
        elif path.is_file():
            yield Entry(place, path.read_bytes(), executable=bool(path.stat().st_mode & stat.S_IXUSR))


def overlay(found: list[Entry]) -> bytes:
    """Return the entries as a tar archive that depends on nothing else: no times, users or modes of this machine."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in found:
            member = tarfile.TarInfo(str(entry.path))
            member.mtime = EPOCH_S
            if entry.target:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.target, 0o777
            else:
                member.size, member.mode = len(entry.data), 0o755 if entry.executable else 0o644
            tar.addfile(member, io.BytesIO(entry.data))
    return sink.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _build(source: Path, folder: Path, step: Step) -> Made:
    """Put the image into `folder` and list its packages."""
    recipe = Recipe(
        suite=SUITE,
        architecture=ARCHITECTURE,
        packages=tuple(words(source / "packages")),
        excluded=(source / "excluded").read_bytes(),
        overlay=overlay(entries(source)),
        scripts=((source / "finish").read_bytes(),),
        mke2fs=MKE2FS,
        size_bytes=IMAGE_BYTES,
        temporary_bytes=TEMPORARY_BYTES,
    )
    packages = bootstrap.build(recipe, folder, IMAGE, step)
    step.note("checksum")
    return Made({"inputs": inputs(source), "packages": packages})
