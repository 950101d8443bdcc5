"""Bundles: one file that holds all that a lab is started from, for machines that cannot build it.

A bundle is a tar archive: `manifest.json` first, then one gzip stream for each file. Only Python is needed to open it.
The manifest names every file with its size, its SHA-256 and the places of its data (the rest is zeros, so that a sparse
image stays small and sparse), and carries its own SHA-256; nothing that it does not name is accepted.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lab import download, paths
from lab.errors import BadInput, HostLacks
from lab.log import Step, Steps
from lab.providers.image import EPOCH_S, IMAGE
from lab.providers.plan import Artifacts
from lab.providers.stored import MANIFEST, Made, check, made_once

VERSION = 1
KERNEL = "linux"
BLOCK_BYTES = 64 << 10  # a block of zeros of this size is left out
MANIFEST_LIMIT_BYTES = 4 << 20
COPY_BYTES = 1 << 20
ZEROS = memoryview(bytes(COPY_BYTES))
GZIP_LEVEL = 1  # three times faster than the default, for a tenth more
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
AGAIN = "get the bundle again, or make it anew: invoke lab.bundle FILE"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Count = Annotated[int, Field(ge=0, le=1 << 36)]  # 64 GiB, far above any image of the lab


class _File(_Strict):
    size_bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    executable: bool
    data: list[tuple[Count, Count]]  # offset and length of each run of data, in order


class _Manifest(_Strict):
    version: int
    files: dict[str, _File]


@dataclass(frozen=True)
class Bundle:
    """An unpacked bundle, checked: kernel and image, and the files that were added to them, by name."""

    artifacts: Artifacts
    extra: Mapping[str, Path]


def pack(artifacts: Artifacts, target: Path, progress: Steps, extra: Mapping[str, Path] | None = None) -> None:
    """Write a bundle as `target`, atomically; the same files make the same bytes.

    Args:
        artifacts: kernel and image; the digests of what is packed are taken anew.
        extra: more files, by the name under which `unpack` returns them.

    Raises:
        BadInput: a name that is no plain file name, or a file that cannot be read or written.
    """
    sources = {KERNEL: artifacts.kernel, IMAGE: artifacts.image}
    for name, path in (extra or {}).items():
        if not NAME.fullmatch(name) or name in {*sources, MANIFEST}:
            raise BadInput(
                f"{name!r} cannot be the name of a file in a bundle", "use letters, digits, '.', '_' and '-'"
            )
        sources[name] = path
    part = target.with_name(f".{target.name}.part")
    try:
        with progress.step(f"bundle {target.name}", estimate_s=10) as step, part.open("wb") as sink:
            _pack(sources, sink, step)
        part.replace(target)
    except OSError as error:
        raise BadInput(f"{error.filename}: {error.strerror}", "name a file in a folder that you may write to") from None
    finally:
        part.unlink(missing_ok=True)


def _pack(sources: Mapping[str, Path], sink: IO[bytes], step: Step) -> None:
    """Write the archive; the streams wait in unnamed files, as sizes and digests go first."""
    files: dict[str, _File] = {}
    streams: dict[str, IO[bytes]] = {}
    try:
        for name, path in sorted(sources.items()):
            step.note(name)
            streams[name] = tempfile.TemporaryFile(dir=Path(sink.name).parent)  # noqa: SIM115 - closed below
            files[name] = _compress(path, streams[name])
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
            text = _sealed(_Manifest(version=VERSION, files=files))
            _add(tar, MANIFEST, io.BytesIO(text), len(text))
            for name, stream in streams.items():
                size = stream.tell()
                stream.seek(0)
                _add(tar, f"{name}.gz", stream, size)
    finally:
        for stream in streams.values():
            stream.close()


def _add(tar: tarfile.TarFile, name: str, data: IO[bytes], size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, EPOCH_S
    tar.addfile(member, data)


def _compress(path: Path, sink: IO[bytes]) -> _File:
    """Write the data of a file without its blocks of zeros, compressed."""
    digest = hashlib.sha256()
    runs: list[tuple[int, int]] = []
    offset = 0
    with path.open("rb") as source, gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
        executable = bool(os.fstat(source.fileno()).st_mode & 0o100)
        while block := source.read(BLOCK_BYTES):
            digest.update(block)
            if block.count(0) != len(block):
                if runs and sum(runs[-1]) == offset:
                    runs[-1] = (runs[-1][0], runs[-1][1] + len(block))
                else:
                    runs.append((offset, len(block)))
                packed.write(block)
            offset += len(block)
    return _File(size_bytes=offset, sha256=digest.hexdigest(), executable=executable, data=runs)


def _sealed(manifest: _Manifest) -> bytes:
    """Return the text of a manifest: its SHA-256 on the first line, itself on the second."""
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n".encode()


def open_bundle(place: str, progress: Steps) -> Artifacts:
    """Return kernel and image of a bundle; see `unpack`."""
    return unpack(place, progress).artifacts


def unpack(place: str, progress: Steps) -> Bundle:
    """Unpack a bundle into the cache, unless it is there, and return what it holds. Nothing else is needed but Python.

    Args:
        place: a file, or an https or http address (read as it comes; only its beginning when the bundle is known).

    Raises:
        BadInput: it is no bundle, or truncated, or tampered with; nothing of it is kept.
        HostLacks: the server does not answer, or the disk is too small.
    """
    with progress.step(f"bundle {place.rpartition('/')[2]}", estimate_s=10) as step, _stream(place) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                archive = _Archive(place, tar)
                manifest, digest = archive.manifest()
                folder = paths.cache() / "bundles" / digest[:16]
                made_once(folder, lambda fresh: archive.unpack(manifest, fresh, step))
        except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise BadInput(f"{place}: not a whole bundle ({error})", AGAIN) from None
    digests = check(folder)
    extra = {name: folder / name for name in digests if name not in {KERNEL, IMAGE}}
    return Bundle(Artifacts(folder / KERNEL, digests[KERNEL], folder / IMAGE, digests[IMAGE]), extra)


def _stream(place: str) -> AbstractContextManager[IO[bytes]]:
    return download.reading(place if "://" in place else Path(place).absolute().as_uri())


class _Archive:
    """The tar archive of a bundle, read once from its beginning to its end."""

    def __init__(self, place: str, tar: tarfile.TarFile) -> None:
        self._place = place
        self._tar = tar
        self._members = iter(tar)

    def manifest(self) -> tuple[_Manifest, str]:
        """Return the manifest and its SHA-256."""
        first = next(self._members, None)
        if first is None or first.name != MANIFEST or first.size > MANIFEST_LIMIT_BYTES:
            raise self._bad("it does not begin with a manifest")
        seal, _, text = self._content(first).read().partition(b"\n")
        text = text.removesuffix(b"\n")
        digest = hashlib.sha256(text).hexdigest()
        if seal.decode(errors="replace") != digest:
            raise self._bad("its manifest was changed")
        try:
            manifest = _Manifest.model_validate_json(text)
        except ValidationError as error:
            raise self._bad(f"its manifest is not one of this version of hapair: {error.errors()[0]['msg']}") from None
        if manifest.version != VERSION:
            raise self._bad(f"version {manifest.version} of the format instead of {VERSION}")
        bad = [name for name in manifest.files if not NAME.fullmatch(name) or name == MANIFEST]
        if bad or not {KERNEL, IMAGE} <= manifest.files.keys():
            raise self._bad(f"its manifest names {', '.join(sorted(map(repr, manifest.files))) or 'nothing'}")
        return manifest, digest

    def unpack(self, manifest: _Manifest, folder: Path, step: Step) -> Made:
        """Put every file of the manifest into `folder`, and accept nothing else."""
        free = shutil.disk_usage(folder).free
        needed = sum(length for file in manifest.files.values() for _, length in file.data)
        if needed > free:
            raise HostLacks(f"{folder.parent}: {needed >> 20} MiB are needed, {free >> 20} MiB are free", "make room")
        done: dict[str, str] = {}
        for member in self._members:
            name = member.name.removesuffix(".gz")
            if name not in manifest.files or f"{name}.gz" != member.name or name in done:
                raise self._bad(f"it holds {member.name!r}, which its manifest does not name")
            step.note(name)
            file = manifest.files[name]
            path = folder / name
            digest = self._expand(gzip.GzipFile(fileobj=self._content(member), mode="rb"), file, path)
            if digest != file.sha256:
                raise self._bad(f"{name} has SHA-256 {digest} instead of {file.sha256}")
            path.chmod(0o755 if file.executable else 0o644)
            done[name] = digest
        if missing := sorted(manifest.files.keys() - done.keys()):
            raise self._bad(f"{', '.join(missing)} is missing")
        return Made({"bundle": self._place}, done)

    def _content(self, member: tarfile.TarInfo) -> IO[bytes]:
        content = self._tar.extractfile(member) if member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} else None
        if content is None:
            raise self._bad(f"{member.name!r} is no plain file")
        return content

    def _expand(self, source: gzip.GzipFile, file: _File, path: Path) -> str:
        """Write a file with holes where its manifest has no data; return its SHA-256."""
        digest = hashlib.sha256()
        position = 0
        with path.open("xb") as sink:
            for offset, length in file.data:
                if offset < position or offset + length > file.size_bytes:
                    raise self._bad(f"the data of {path.name} overlap or reach past its end")
                _zeros(digest, offset - position)
                sink.seek(offset)
                position = offset + length
                left = length
                while left:
                    piece = source.read(min(left, COPY_BYTES))
                    if not piece:
                        raise self._bad(f"{path.name} ends early")
                    digest.update(piece)
                    sink.write(piece)
                    left -= len(piece)
            if source.read(1):
                raise self._bad(f"{path.name} is longer than its manifest says")
            _zeros(digest, file.size_bytes - position)
            sink.truncate(file.size_bytes)
        return digest.hexdigest()

    def _bad(self, why: str) -> BadInput:
        return BadInput(f"{self._place}: {why}", AGAIN)


def _zeros(digest: hashlib._Hash, count: int) -> None:
    """Feed a digest with zeros."""
    while count:
        piece = min(count, len(ZEROS))
        digest.update(ZEROS[:piece])
        count -= piece
