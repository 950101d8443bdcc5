"""Downloads: the only importer of requests. https, http and file addresses, read as a stream or saved whole."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from lab.deadline import Deadline
from lab.errors import BadInput, HostLacks

if TYPE_CHECKING:
    import requests
    from _typeshed import WriteableBuffer

CONNECT_S = 15.0
SILENCE_S = 30.0  # without a single byte, after which a server is given up
ATTEMPTS = 3  # of one download; the later ones go on where the last one broke off
CHUNK_BYTES = 64 << 10  # a chunk that breaks off half-way is lost


@dataclass(frozen=True)
class Opened:
    """A place that answered: its bytes from `start` on, and how many it has in all (None: it did not say)."""

    body: IO[bytes]
    start: int
    size_bytes: int | None
    version: str  # an entity tag (RFC 9110, 8.8.3) that stands for these very bytes, or ""


@contextlib.contextmanager
def opened(url: str, *, start: int = 0, version: str = "") -> Iterator[Opened]:
    """Open what `url` names, for reading.

    Args:
        url: https, http or file.
        start: where to go on, if the server can and still has `version`; else it begins at 0 again.
        version: what an earlier `Opened` of this address had.

    Raises:
        BadInput: an address of another kind, or a file that cannot be read.
        HostLacks: the server does not answer, or not with the thing.
    """
    parts = urlsplit(url)
    if parts.scheme == "file":
        with _local(Path(unquote(parts.path))) as file:
            yield Opened(file, 0, Path(file.name).stat().st_size, "")
        return
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadInput(f"{url}: not an https, http or file address", "name a file, or an address of one of these kinds")
    import requests  # noqa: PLC0415 - takes a tenth of what a command that downloads nothing needs in all

    headers = {"Accept-Encoding": "identity"}
    if start and version:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=(CONNECT_S, SILENCE_S)) as answer:
            answer.raise_for_status()
            begins = start if answer.status_code == requests.codes.partial_content else 0
            length = answer.headers.get("Content-Length", "")
            size = begins + int(length) if length.isdigit() else None
            tag = answer.headers.get("ETag", "")
            body = io.BufferedReader(_Body(url, answer.iter_content(CHUNK_BYTES)), CHUNK_BYTES)
            yield Opened(body, begins, size, "" if tag.startswith("W/") else tag)
    except requests.RequestException as error:
        raise _unreachable(url, error) from None


@contextlib.contextmanager
def reading(url: str) -> Iterator[IO[bytes]]:
    """Open what `url` names, for reading from its beginning to its end; raises as `opened` does."""
    with opened(url) as source:
        yield source.body


def save(
    url: str, target: Path, *, limit_s: float, note: Callable[[str], None] = lambda _: None, part: Path | None = None
) -> None:
    """Save what `url` names as `target`: all of it, or nothing. A broken transfer is taken up again.

    Args:
        limit_s: seconds for all of it.
        note: told now and then how far it is.
        part: where to keep what came until all of it has, also beyond a failure or the end of this process, so that
            a later call goes on there. On the same file system as `target`.

    Raises:
        BadInput: see `opened`.
        HostLacks: no attempt succeeded in time, or the disk is full.
    """
    deadline = Deadline.after(limit_s)
    room = part or target.with_name(f".{target.name}.part")
    told = room.with_name(f"{room.name}.version")
    version = _read(told) if part else ""
    try:
        with room.open("ab" if version else "wb") as sink:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    with opened(url, start=sink.tell(), version=version) as source:
                        version = source.version
                        if part:
                            told.write_text(version, encoding="utf-8")
                        # Not seek: a file opened for appending writes at its end in any case.
                        sink.truncate(source.start)
                        sink.seek(source.start)
                        _copy(url, source, sink, deadline, note)
                    break
                except HostLacks:
                    if attempt == ATTEMPTS or deadline.passed:
                        raise
                    note(f"broken off after {sink.tell() >> 20} MiB, once more")
        room.replace(target)
        told.unlink(missing_ok=True)
    finally:
        if part is None or (room.exists() and room.stat().st_size == 0):
            room.unlink(missing_ok=True)
            told.unlink(missing_ok=True)


def _read(told: Path) -> str:
    try:
        return told.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _copy(url: str, source: Opened, sink: IO[bytes], deadline: Deadline, note: Callable[[str], None]) -> None:
    if source.size_bytes is not None:
        free = shutil.disk_usage(Path(sink.name).parent).free
        if source.size_bytes - source.start > free:
            raise HostLacks(f"{url}: {source.size_bytes >> 20} MiB, but {free >> 20} MiB are free", "make room")
    of_all = f" of {source.size_bytes >> 20}" if source.size_bytes else ""
    while piece := source.body.read(CHUNK_BYTES):
        sink.write(piece)
        note(f"{sink.tell() >> 20}{of_all} MiB")
        if deadline.passed:
            raise HostLacks(f"{url}: not finished in time, {sink.tell() >> 20}{of_all} MiB came", "try again later")
    if source.size_bytes is not None and sink.tell() != source.size_bytes:
        raise HostLacks(f"{url}: {sink.tell()} bytes came instead of {source.size_bytes}", "try again")


@contextlib.contextmanager
def _local(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}", "name a file that exists and can be read") from None
    with file:
        yield file


def _unreachable(url: str, error: requests.RequestException) -> HostLacks:
    import requests  # noqa: PLC0415 - see `opened`

    if isinstance(error, requests.HTTPError):
        return HostLacks(f"{url}: the server answers {error.response.status_code} {error.response.reason}")
    return HostLacks(f"{url}: no answer ({type(error).__name__})", "look at the connection of this machine")


class _Body(io.RawIOBase):
    """The chunks of an answer as something to read from; what goes wrong on the way names the address."""

    def __init__(self, url: str, chunks: Iterator[bytes]) -> None:
        self._url = url
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Put the next bytes into `buffer`; return their count, 0 at the end."""
        import requests  # noqa: PLC0415 - see `opened`

        view = memoryview(buffer).cast("B")
        try:
            while not self._left:
                self._left = next(self._chunks)
        except StopIteration:
            return 0
        except requests.RequestException as error:
            raise _unreachable(self._url, error) from None
        count = min(len(view), len(self._left))
        view[:count] = self._left[:count]
        self._left = self._left[count:]
        return count
