"""Artifacts in the cache: published in one move, each with a manifest that every use is checked against."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import paths
from lab.build.archive import digest
from lab.errors import ExitCode, HapairError

MANIFEST = "manifest.json"
UNVERIFIED = "-unverified"
SYSTEM = "-liblxc-system"


@dataclass(frozen=True)
class Artifact:
    """Something built: `path` is the file that callers want, `sha256` that file's digest."""

    name: str
    key: str
    folder: Path
    path: Path
    sha256: str
    verified: bool
    """False when a source came from a local file that no checksum or signature vouches for."""
    content: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Its manifest."""


class Damaged(HapairError):
    """An artifact is not what its manifest says."""

    exit_code = ExitCode.HOST_LACKS


def shelf() -> Path:
    """Return the folder of all artifacts."""
    return paths.cache() / "artifacts"


def marks(*, verified: bool, system: bool) -> str:
    """Return what an artifact's name tells: nothing vouches for a source, or it needs the distribution's liblxc."""
    return ("" if verified else UNVERIFIED) + (SYSTEM if system else "")


def place(name: str, key: str, *, verified: bool, system: bool = False) -> Path:
    """Return where an artifact stands or will stand."""
    return shelf() / f"{name}-{key}{marks(verified=verified, system=system)}"


def publish(stage: Path, target: Path, content: Mapping[str, Any]) -> Artifact:
    """Write the manifest into `stage` and make it `target` in one move, after everything reached the disk."""
    files = {
        str(path.relative_to(stage)): {"size_bytes": path.stat().st_size, "sha256": digest(path)}
        for path in sorted(stage.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({**content, "files": files}, indent=2, sort_keys=True) + "\n"
    (stage / MANIFEST).write_text(text, encoding="utf-8")
    for path in [*stage.rglob("*"), stage]:
        _sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    stage.rename(target)
    _sync(target.parent)
    return _read(target)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def find(target: Path) -> Artifact | None:
    """Return the artifact that stands at `target`, with every file compared to the manifest.

    Raises:
        Damaged: something there is not what the manifest says.
    """
    return _read(target) if target.exists() else None


def _read(target: Path) -> Artifact:
    cure = "invoke build.clean removes it, and the next use builds it again"
    try:
        content = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        name, key, result, files = content["name"], content["key"], content["result"], content["files"]
        wanted = {str(path): str(file["sha256"]) for path, file in files.items()}
        sources = content["inputs"]["sources"].values()
        verified = content.get("verified", all(source["verified"] for source in sources)) is True
        system = content.get("liblxc") == "system"
        name = f"{name}-{release}" if (release := content.get("release")) else name
        expected = place(name, key, verified=verified, system=system).name
        sha256 = wanted[result]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{target / MANIFEST} is missing or not a manifest", cure) from None
    if target.name != expected:
        raise Damaged(f"{target}: its manifest is that of {expected}", cure)
    for path, right in wanted.items():
        file = target / path
        found = digest(file) if file.is_file() else "nothing there"
        if found != right:
            raise Damaged(f"{file} is damaged: sha256 must be {right}, found {found}", cure)
    return Artifact(name, key, target, target / result, sha256, verified, content)
