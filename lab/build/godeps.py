"""Debian packages that are extracted into a build and never installed: Go's libraries as source."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from lab import paths
from lab.build import apt, archive, gomodules, unpack
from lab.build.apt import NotThere
from lab.build.fetch import NoPlace
from lab.build.progress import Step
from lab.build.spec import GoDeps

RECORD = "record.json"
GOPATH = "usr/share/gocode/src"
Packages = dict[str, dict[str, Any]]
"""Package → its version, file, size_bytes, sha256 and import paths."""


def shelf(wanted: GoDeps) -> Path:
    """Return the cache folder of these packages; other ones have another folder."""
    return paths.cache() / "sources" / f"go-deps-{hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()[:12]}"


def recorded(wanted: GoDeps) -> Packages | None:
    """Return which packages answered last time, if any did; no network."""
    try:
        known = json.loads((shelf(wanted) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return known if isinstance(known, dict) else None


def have(wanted: GoDeps, known: Packages) -> bool:
    """Tell whether every package is still the file that was recorded."""
    kept = [(shelf(wanted) / one["file"], one["sha256"]) for one in known.values()]
    return all(path.is_file() and archive.digest(path) == sha256 for path, sha256 in kept)


def fetch(spec: str, wanted: GoDeps, *, scratch: Path, step: Step, stop: threading.Event | None = None) -> Packages:
    """Download the packages and all that they depend on, from the first archive that has them.

    Raises:
        NoPlace: none has; the message lists those tried.
    """
    tried: list[str] = []
    for mirror in apt.mirrors() if shutil.which("apt-get") else []:
        room = scratch / f"go-deps-{len(tried)}"
        room.mkdir(parents=True)
        try:
            apt.closure(wanted, mirror, room, step=step, stop=stop)
        except NotThere as error:
            tried.append(f"{wanted.suite} at {mirror.uri}: {error.message}")
            continue
        return _keep(wanted, room)
    listed = (
        "\n".join(f"  - {line}" for line in tried) or "  - this machine has no apt, or its settings name no archive"
    )
    raise NoPlace(f"no place has the Go packages of {spec}; tried:\n{listed}", "look at the connection of this machine")


def _keep(wanted: GoDeps, room: Path) -> Packages:
    target = shelf(wanted)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    known: Packages = {}
    for deb in sorted(room.glob("*.deb")):
        known[deb.name.split("_")[0]] = {
            "version": apt.version_of(deb.name),
            "file": deb.name,
            "size_bytes": deb.stat().st_size,
            "sha256": archive.digest(deb),
            "paths": _import_paths(deb, room / "look" / deb.name),
        }
        deb.replace(target / deb.name)
    record = room / RECORD
    record.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    record.replace(target / RECORD)
    return known


def _import_paths(deb: Path, room: Path) -> list[str]:
    unpack.unpack(deb, room, root_links=True)
    top = room / GOPATH
    found = [path.relative_to(top).as_posix() for path in archive.walk(top) if path.is_file()] if top.is_dir() else []
    shutil.rmtree(room)
    return sorted(gomodules.roots(found))


def extracted(known: Packages) -> Path:
    """Return where these very packages stand extracted, or will stand: builds share them and cannot write there."""
    text = json.dumps({name: one["sha256"] for name, one in known.items()}, sort_keys=True)
    return paths.cache() / "extracted" / f"go-deps-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def extract(wanted: GoDeps, known: Packages) -> None:
    """Extract the packages into one root, in one move when all is well; once for all builds with the same ones.

    Raises:
        BadInput: a package is damaged.
    """
    target = extracted(known)
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    room = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for one in known.values():
            unpack.unpack(shelf(wanted) / one["file"], room / "part", root_links=True)
            _move(room / "part", room / "root")
            shutil.rmtree(room / "part")
        # Another build with the same packages may have been quicker.
        with contextlib.suppress(OSError):
            (room / "root").rename(target)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _move(part: Path, into: Path) -> None:
    into.mkdir(exist_ok=True)
    for path in archive.walk(part):
        target = into / path.relative_to(part)
        if path.is_dir() and not path.is_symlink():
            target.mkdir(parents=True, exist_ok=True)
        else:
            path.replace(target)
