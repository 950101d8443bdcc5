"""The SDKs of the cloud stores as unpacked trees, for nodes that have no pip: the wheels that hostfiles/sdk/ pins."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from packaging.markers import Marker

from lab import proc
from lab.errors import BadInput, HapairError, HostLacks
from lab.paths import PROJECT

LISTS = PROJECT / "hostfiles" / "sdk"
KINDS = ("gcs", "s3")
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
"""Those of Ubuntu 20.04 to 24.04 and Debian 11 to 13."""
MACHINES = ("x86_64", "aarch64")
MARK = "hapair-sdk.json"
"""The same as in hostfiles/runtime/hapair/fence/sdk.py, which looks for it."""
DOWNLOAD_LIMIT_S = 600.0
# botocore describes all of Amazon's services, thirty MiB of them; an S3 client reads these.
BOTOCORE_DATA = re.compile(r"botocore/data/(s3/|[^/]+$)")


def make(kind: str, python: str, folder: Path, machine: str) -> Path:
    """Write the tree KIND-pyPYTHON below `folder`, in place of an older one; return its path.

    Args:
        kind: the kind of store.
        python: the version of the nodes' Python, like 3.11.
        folder: goes to /usr/lib/hapair/sdk on the nodes.
        machine: the nodes' architecture, as `uname -m` says it.

    Raises:
        BadInput: there are no pins for this, or the folder cannot be written to.
        HostLacks: pip is missing, or no index has the wheels.
    """
    for given, known, what in ((kind, KINDS, "kind"), (python, PYTHONS, "--python"), (machine, MACHINES, "--machine")):
        if given not in known:
            raise BadInput(f"{what} {given}: no SDK is pinned for that", f"name one of {', '.join(known)}")
    final = folder.absolute() / f"{kind}-py{python}"
    if final.exists() and not (final / MARK).exists():
        raise BadInput(f"{final} is there, and no SDK tree", "move it away, or name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=folder))
    except OSError as error:
        raise BadInput(f"{folder}: {error.strerror}", "name a folder that can be written to") from None
    try:
        tree = room / "tree"
        tree.mkdir()
        for wheel in _download(kind, python, machine, room):
            unpack(wheel, tree)
        (tree / MARK).write_text(json.dumps({"kind": kind, "python": python, "machine": machine}) + "\n")
        if final.exists():
            final.rename(room / "old")
        tree.rename(final)
    finally:
        shutil.rmtree(room, ignore_errors=True)
    return final


def pins(kind: str, python: str, machine: str) -> str:
    """Return the lines of the pinned list that apply to a version of Python, their hashes with them.

    pip judges markers by the Python that it runs on itself, so they are judged here.
    """
    world = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        # Any release of the series; the list excludes some of the earliest.
        "python_full_version": f"{python}.99",
        "python_version": python,
        "sys_platform": "linux",
    }
    kept = []
    for entry in re.split(r"\n(?=\S)", (LISTS / f"{kind}.txt").read_text(encoding="utf-8").strip()):
        head, _, hashes = entry.partition(" \\\n")
        name, _, marker = head.partition(" ; ")
        if not marker or Marker(marker).evaluate(world):
            kept.append(f"{name} \\\n{hashes}\n")
    return "".join(kept)


def unpack(wheel: Path, tree: Path) -> None:
    """Unpack a wheel as pip would, without its programs and without what no S3 client reads.

    Raises:
        HapairError: it holds a name that leads out of the tree.
    """
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts:
                raise HapairError(f"{wheel.name}: {member.filename} leads out of the tree", "get the wheel elsewhere")
            parts = path.parts
            if parts[0].endswith(".data"):
                if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            name = "/".join(parts)
            if member.is_dir() or (name.startswith("botocore/data/") and not BOTOCORE_DATA.match(name)):
                continue
            place = tree / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(member))


def _download(kind: str, python: str, machine: str, room: Path) -> list[Path]:
    wanted, wheels = room / "pins.txt", room / "wheels"
    wanted.write_text(pins(kind, python, machine), encoding="utf-8")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--require-hashes", "--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    for glibc in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"):
        argv += ["--platform", f"{glibc}_{machine}"]
    # As this machine's pip is set up, whoever runs this.
    own = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    try:
        proc.run([*argv, "--dest", wheels, "--requirement", wanted], limit_s=DOWNLOAD_LIMIT_S, env=own)
    except proc.CommandFailed as failed:
        raise HostLacks(
            f"pip gets no wheels for {kind} on Python {python}\n{failed.message}",
            "give pip an index that has them (pip config), or run this on a machine that reaches one",
        ) from None
    return sorted(wheels.glob("*.whl"))
