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
from typing import Any
from urllib.parse import unquote, urlsplit

from lab import download, paths
from lab.build import apt, archive, signed
from lab.build.apt import NotThere
from lab.build.archive import digest as digest_file
from lab.build.progress import Step
from lab.build.spec import EPOCH_S, Place, Source, folder
from lab.errors import BadInput, HostLacks

RECORD = "record.json"
DOWNLOAD_S = 1800.0
# Puts the source into a scratch folder and says: its file, its version, what vouches for it.
Answer = Callable[[Path], tuple[Path, str, str]]
NEW_FIELDS = ("url", "deb_src", "version", "sha512", "signature")
"""They count only where they are used, so that older sources keep their folders."""
VCS = frozenset({".git", ".hg", ".svn", ".bzr"})


class NoPlace(HostLacks):
    """No place has a source; the message lists every place tried, the hint says how to give a copy."""


@dataclass(frozen=True)
class Fetched:
    """A source that answered: `verified` says what vouches for it ("sha256", "sha512", "apt" or "" for nothing)."""

    name: str
    file: str
    place: str
    version: str
    size_bytes: int
    sha256: str
    verified: str


def shelf(name: str, source: Source) -> Path:
    """Return the cache folder of this source; another description of it has another folder."""
    wanted = source.model_dump(include={"places", "sha256", "sha512", "size_bytes", "signature"})
    text = json.dumps(_used(wanted), separators=(",", ":"))
    return paths.cache() / "sources" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _used(wanted: dict[str, Any]) -> dict[str, Any]:
    def keep(value: Any) -> Any:  # noqa: ANN401 - what model_dump makes
        if isinstance(value, dict):
            return {key: keep(one) for key, one in value.items() if one is not None or key not in NEW_FIELDS}
        return [keep(one) for one in value] if isinstance(value, list | tuple) else value

    used: dict[str, Any] = keep(wanted)
    # The order that the folders' names were first made with.
    return {key: used[key] for key in ("places", "sha256", "size_bytes", "sha512", "signature") if key in used}


def file_of(name: str, source: Source, known: Fetched) -> Path:
    """Return where the file of a source is kept."""
    return _shelf_of(name, source, known.sha256, known.verified) / known.file


def _shelf_of(name: str, source: Source, sha256: str, verified: str) -> Path:
    # What `--source` gave in place of a pinned file serves the run that gave it, never a later one unasked.
    given = source.pinned and not verified
    return paths.cache() / "sources" / f"{name}-given-{sha256[:12]}" if given else shelf(name, source)


def recorded(name: str, source: Source) -> Fetched | None:
    """Return what answered last time, if anything did; no network, and the file itself may be gone."""
    try:
        return Fetched(**json.loads((shelf(name, source) / RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def have(name: str, source: Source, known: Fetched) -> Path | None:
    """Return the kept file, if it is still the one that was recorded."""
    path = file_of(name, source, known)
    if path.is_file() and path.stat().st_size == known.size_bytes and digest_file(path) == known.sha256:
        return path
    return None


def adopt(name: str, source: Source, given: Path, scratch: Path) -> Fetched:
    """Take a local file, or a folder such as a checkout, as the source.

    Without a pinned checksum that it matches, nothing vouches for it, and the artifact's name will say so. A source
    that is not pinned, or that matches, is used from now on; another one only by this run.

    Raises:
        BadInput: there is no such file or folder.
    """
    room = _room(scratch)
    if given.is_dir():
        if not any(path.name not in VCS for path in given.iterdir()) or (given / "HEAD").is_file():
            raise BadInput(f"--source {name}={given}: no source in this folder", "name a checkout with its files")
        copy = room / f"{name}.tar"
        archive.pack(given, copy, top=name, epoch=EPOCH_S, skip=VCS, compress=False)
    elif given.is_file():
        copy = Path(shutil.copyfile(given, room / given.name))
    else:
        raise BadInput(f"--source {name}={given}: no such file", "name a .deb, a tar archive or a folder")
    try:
        verified = _check(source, copy, "")
    except NotThere:
        verified = ""
    return _keep(name, source, copy, place=f"local {given.name}", version="", verified=verified)


def fetch(
    spec: str,
    name: str,
    source: Source,
    *,
    scratch: Path,
    step: Step,
    stop: threading.Event | None = None,
    command: str = "invoke build.kernel",
) -> Fetched:
    """Ask each place in order and keep the first answer that is what the spec says it must be.

    Raises:
        NoPlace: no place has it; the message lists every place tried and why it failed, the hint says how to give
            it to `command`.
    """
    tried: list[str] = []
    for where, answer in _answers(name, source.places, step, stop):
        try:
            file, version, verified = answer(_room(scratch))
            verified = _signature(
                name, source, file, _check(source, file, verified), scratch=scratch, step=step, stop=stop
            )
            return _keep(name, source, file, place=where, version=version, verified=verified)
        except NotThere as error:
            tried.append(f"{where}: {error.message}")
    listed = "\n".join(f"  - {line}" for line in tried)
    raise NoPlace(
        f"no place has the source {name!r} of {spec}; tried:\n{listed}",
        f"with a copy of your own: {command} --source {name}=FILE",
    )


def _answers(
    name: str, places: tuple[Place, ...], step: Step, stop: threading.Event | None
) -> Iterator[tuple[str, Answer]]:
    for place in places:
        if place.file is not None:
            yield str(place), partial(_local, folder() / Path(place.file).expanduser())
        elif place.url is not None:
            yield place.url, partial(_download, name, place.url, step)
        else:
            mirrors = apt.mirrors()
            for mirror in mirrors:
                yield f"{place} at {mirror.uri}", partial(_package, place, mirror, step, stop)
            if not mirrors:
                yield str(place), partial(_package, place, None, step, stop)


def _local(file: Path, scratch: Path) -> tuple[Path, str, str]:
    if not file.is_file():
        raise NotThere("no such file")
    return Path(shutil.copyfile(file, scratch / file.name)), "", ""


def _download(name: str, url: str, step: Step, scratch: Path) -> tuple[Path, str, str]:
    partly = paths.cache() / "sources" / "partly"
    partly.mkdir(parents=True, exist_ok=True)
    part = partly / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    target = scratch / (Path(unquote(urlsplit(url).path)).name or name)
    try:
        download.save(url, target, limit_s=DOWNLOAD_S, note=step.note, part=part)
    except HostLacks as error:
        raise NotThere(error.message.removeprefix(f"{url}: ")) from None
    return target, "", ""


def _package(
    place: Place, mirror: apt.Mirror | None, step: Step, stop: threading.Event | None, scratch: Path
) -> tuple[Path, str, str]:
    if shutil.which("apt-get") is None:
        raise NotThere("apt-get is not installed")
    if mirror is None:
        raise NotThere("this machine's apt settings name no archive")
    if place.deb_src is not None:
        return (*apt.source(place.deb_src, mirror, scratch, step=step, stop=stop), "apt")
    if place.apt is None:
        raise AssertionError(f"{place} is no package")
    return (*apt.download(place.apt, mirror, scratch, step=step, stop=stop), "apt")


def _check(source: Source, file: Path, verified: str) -> str:
    """Return what vouches for a file, or refuse one that is not what the spec says."""
    size = file.stat().st_size
    if source.size_bytes is not None and size != source.size_bytes:
        raise NotThere(f"size is {size} bytes, must be {source.size_bytes}")
    for kind, wanted in (("sha256", source.sha256), ("sha512", source.sha512)):
        if wanted is None:
            continue
        with file.open("rb") as content:
            found = hashlib.file_digest(content, kind).hexdigest()
        if found != wanted:
            raise NotThere(f"{kind} is {found}, must be {wanted}")
        verified = kind if verified != "sha256" else verified
    return verified


def _signature(
    name: str, source: Source, file: Path, verified: str, *, scratch: Path, step: Step, stop: threading.Event | None
) -> str:
    """Check a source's signature; one that no place has is made up for by a pinned checksum, a bad one by nothing."""
    wanted = source.signature
    if wanted is None:
        return verified
    tried: list[str] = []
    for where, answer in _answers(f"{name}.sig", wanted.places, step, stop):
        try:
            found, _, _ = answer(_room(scratch))
        except NotThere as error:
            tried.append(f"{where}: {error.message}")
            continue
        signed.check(file, found, folder() / wanted.keyring, wanted.fingerprint, _room(scratch))
        return f"{verified}+signature" if verified else "signature"
    if not source.pinned:
        raise NotThere(f"its signature is nowhere ({'; '.join(tried)})")
    return verified


def _room(scratch: Path) -> Path:
    """Make an empty folder for one answer; the engine removes all of `scratch` in the end."""
    return Path(tempfile.mkdtemp(prefix="fetch-", dir=scratch))


def _keep(name: str, source: Source, file: Path, *, place: str, version: str, verified: str) -> Fetched:
    """Move a file onto its shelf; the record comes last and in one piece, so a killed run leaves none."""
    known = Fetched(name, file.name, place, version, file.stat().st_size, digest_file(file), verified)
    target = _shelf_of(name, source, known.sha256, verified)
    target.mkdir(parents=True, exist_ok=True)
    for old in target.iterdir():
        old.unlink()
    file.replace(target / file.name)
    record = file.with_name(RECORD)
    record.write_text(json.dumps(asdict(known), indent=2) + "\n", encoding="utf-8")
    record.replace(target / RECORD)
    return known


def combined(failures: list[NoPlace], command: str) -> NoPlace:
    """Return one error for several sources that no place has."""
    if len(failures) == 1:
        return failures[0]
    flags = [word for error in failures for word in error.hint.split() if word.endswith("=FILE")]
    return NoPlace(
        "\n".join(error.message for error in failures),
        f"with copies of your own: {command} {' '.join(f'--source {flag}' for flag in flags)}",
    )
