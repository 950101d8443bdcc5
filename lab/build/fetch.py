"""Sources: ask each place in order, verify what answers, keep it with a record of where it came from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from lab import paths
from lab.build import apt
from lab.build.apt import NotThere
from lab.build.progress import Step
from lab.build.spec import AptPackage, Place, Source, folder
from lab.errors import BadInput, HostLacks

RECORD = "record.json"
# Puts the source into a scratch folder and says: its file, its version, what vouches for it.
Answer = Callable[[Path], tuple[Path, str, str]]


@dataclass(frozen=True)
class Fetched:
    """A source that answered: `verified` says what vouches for it ("sha256", "apt" or "" for nothing)."""

    name: str
    file: str
    place: str
    version: str
    size_bytes: int
    sha256: str
    verified: str


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shelf(name: str, source: Source) -> Path:
    """Return the cache folder of this source; another description of it has another folder."""
    wanted = source.model_dump_json(include={"places", "sha256", "size_bytes"})
    return paths.cache() / "sources" / f"{name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def recorded(name: str, source: Source) -> Fetched | None:
    """Return what answered last time, if anything did; no network, and the file itself may be gone."""
    try:
        return Fetched(**json.loads((shelf(name, source) / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def have(name: str, source: Source, known: Fetched) -> Path | None:
    """Return the kept file, if it is still the one that was recorded."""
    path = shelf(name, source) / known.file
    if path.is_file() and path.stat().st_size == known.size_bytes and digest_file(path) == known.sha256:
        return path
    return None


def adopt(name: str, source: Source, file: Path, scratch: Path) -> Fetched:
    """Take a local file as the source's answer, from now on.

    Without a pinned checksum that it matches, nothing vouches for it, and the artifact's name will say so.

    Raises:
        BadInput: there is no such file.
    """
    if not file.is_file():
        raise BadInput(f"--source {name}={file}: no such file", "name a .deb or a tar archive")
    copy = Path(shutil.copyfile(file, _room(scratch) / file.name))
    verified = "sha256" if source.sha256 == digest_file(copy) else ""
    return _keep(name, source, copy, place=f"local file {file.resolve()}", version="", verified=verified)


def fetch(
    spec: str, name: str, source: Source, *, scratch: Path, step: Step, stop: threading.Event | None = None
) -> Fetched:
    """Ask each place in order and keep the first answer that is what the spec says it must be.

    Raises:
        HostLacks: no place has it; the message lists every place tried and why it failed.
    """
    tried: list[str] = []
    for where, answer in _answers(source.places, step, stop):
        try:
            file, version, verified = answer(_room(scratch))
            return _keep(name, source, file, place=where, version=version, verified=_check(source, file, verified))
        except NotThere as error:
            tried.append(f"{where}: {error.message}")
    listed = "\n".join(f"  - {line}" for line in tried)
    raise HostLacks(
        f"no place has the source {name!r} of {spec}; tried:\n{listed}",
        f"with a copy of your own: invoke build.kernel --source {name}=FILE",
    )


def _answers(places: tuple[Place, ...], step: Step, stop: threading.Event | None) -> Iterator[tuple[str, Answer]]:
    for place in places:
        if place.file is not None:
            yield str(place), partial(_local, folder() / Path(place.file).expanduser())
        elif package := place.apt:
            mirrors = apt.mirrors()
            for mirror in mirrors:
                yield f"{place} at {mirror.uri}", partial(_package, package, mirror, step, stop)
            if not mirrors:
                yield str(place), partial(_package, package, None, step, stop)


def _local(file: Path, scratch: Path) -> tuple[Path, str, str]:
    if not file.is_file():
        raise NotThere("no such file")
    return Path(shutil.copyfile(file, scratch / file.name)), "", ""


def _package(
    package: AptPackage, mirror: apt.Mirror | None, step: Step, stop: threading.Event | None, scratch: Path
) -> tuple[Path, str, str]:
    if shutil.which("apt-get") is None:
        raise NotThere("apt-get is not installed")
    if mirror is None:
        raise NotThere("this machine's apt settings name no archive")
    return (*apt.download(package, mirror, scratch, step=step, stop=stop), "apt")


def _check(source: Source, file: Path, verified: str) -> str:
    """Return what vouches for a file, or refuse one that is not what the spec says."""
    size = file.stat().st_size
    if source.size_bytes is not None and size != source.size_bytes:
        raise NotThere(f"size is {size} bytes, must be {source.size_bytes}")
    if source.sha256 is None:
        return verified
    found = digest_file(file)
    if found != source.sha256:
        raise NotThere(f"sha256 is {found}, must be {source.sha256}")
    return "sha256"


def _room(scratch: Path) -> Path:
    """Make an empty folder for one answer; the engine removes all of `scratch` in the end."""
    return Path(tempfile.mkdtemp(prefix="fetch-", dir=scratch))


def _keep(name: str, source: Source, file: Path, *, place: str, version: str, verified: str) -> Fetched:
    """Move a file onto its shelf; the record comes last and in one piece, so a killed run leaves none."""
    target = shelf(name, source)
    target.mkdir(parents=True, exist_ok=True)
    known = Fetched(name, file.name, place, version, file.stat().st_size, digest_file(file), verified)
    for old in target.iterdir():
        old.unlink()
    file.replace(target / file.name)
    record = file.with_name(RECORD)
    record.write_text(json.dumps(asdict(known), indent=2) + "\n", encoding="utf-8")
    record.replace(target / RECORD)
    return known
