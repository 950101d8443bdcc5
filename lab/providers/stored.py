"""Folders of large files that are made once and kept: each with a manifest, which every use is checked against."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from lab.errors import HostLacks

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Made:
    """What is known about files that were just made: more for the manifest, and digests that need no second look."""

    more: Mapping[str, Any]
    digests: Mapping[str, str] = field(default_factory=dict)


def made_once(folder: Path, make: Callable[[Path], Made]) -> Path:
    """Return `folder`; when it is not there, let `make` fill another one, and give that its name once all is done.

    Whoever comes second waits. Size, time and SHA-256 of each file go into the manifest; the files become read-only.
    When it fails or is interrupted, nothing stays.
    """
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            _make(folder, make)
    return folder


def _make(folder: Path, make: Callable[[Path], Made]) -> None:
    fresh = folder.with_name(f".making-{folder.name}")
    shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
    try:
        fresh.mkdir(mode=0o700)
        made = make(fresh)
        files = {}
        for path in sorted(fresh.iterdir()):
            mode = path.stat().st_mode
            # What was not for others to read stays so: ssh takes no other private key.
            path.chmod((0o555 if mode & 0o100 else 0o444) & (0o777 if mode & 0o077 else 0o700))
            seen = path.stat()
            files[path.name] = {
                "sha256": made.digests.get(path.name) or file_digest(path),
                "size_bytes": seen.st_size,
                "mtime_ns": seen.st_mtime_ns,
            }
        write_manifest(fresh, {**made.more, "files": files})
        fresh.chmod(0o755)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check(folder: Path, *, full: bool = False) -> dict[str, str]:
    """Return the SHA-256 of each file in `folder` after a check against its manifest.

    Size and time of each file are compared; its content when the time is unknown (a copy) or with `full`.

    Raises:
        HostLacks: the folder is not what its manifest says.
    """
    cure = f"remove {folder} and run the command again: it is made anew"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        copied = [name for name in files if _differs(folder / name, files[name], full=full, cure=cure)]
        if copied:
            for name in copied:
                files[name]["mtime_ns"] = (folder / name).stat().st_mtime_ns
            write_manifest(folder, manifest)
        return {name: str(files[name]["sha256"]) for name in files}
    except OSError as error:
        raise HostLacks(f"{error.filename}: {error.strerror}", cure) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HostLacks(f"{folder / MANIFEST}: not a manifest", cure) from None


def _differs(path: Path, wanted: Mapping[str, Any], *, full: bool, cure: str) -> bool:
    """Check one file; tell whether its time (and nothing else) differs from the manifest's."""
    seen = path.stat()
    if seen.st_size != wanted["size_bytes"]:
        raise HostLacks(f"{path}: {seen.st_size} bytes instead of {wanted['size_bytes']}", cure)
    differs = bool(seen.st_mtime_ns != wanted["mtime_ns"])
    if full or differs:
        digest = file_digest(path)
        if digest != wanted["sha256"]:
            raise HostLacks(f"{path}: SHA-256 is {digest} instead of {wanted['sha256']}", cure)
    return differs


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest of `folder`, atomically."""
    fresh = folder / f".{MANIFEST}"
    fresh.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(folder / MANIFEST)
