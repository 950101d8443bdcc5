"""Texts that must not stand in any file of an artifact: the build's folders, the builder's home and host."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab import paths
from lab.check.manifest import Manifest
from lab.check.report import Report
from lab.check.subject import Subject

# Where the sandbox shows the build its folders (the manifest's format says so).
BUILD = rb"/build/(?:src|work|stage|files|deps|go_deps|cache|home)(?![\w-])"
PREFIX = rb"/opt/hapair(?![\w-])"
TEMPORARY = rb"/tmp/(?:go-build|cc[A-Za-z0-9]{6}\.)"
SHORTEST_NAME = 5
"""A shorter host name would be found in the middle of a binary by chance."""
SHOWN = 120
MOST = 3
GZIP = b"\x1f\x8b"
MAX_UNPACKED_BYTES = 64 << 20


def patterns(manifest: Manifest, report: Report) -> dict[str, re.Pattern[bytes]]:
    """Return what to look for: a name for it → its pattern."""
    found = {
        "a build folder": re.compile(BUILD),
        "the prefix of the build": re.compile(PREFIX),
        "a temporary file of the build": re.compile(TEMPORARY),
        "the project's folder": _path(str(paths.PROJECT)),
        "the cache": _path(str(paths.cache())),
    }
    home = os.environ.get("HOME", "")
    if len(home) >= SHORTEST_NAME:
        found["the builder's home"] = _path(home)
    host = socket.gethostname()
    if len(host) >= SHORTEST_NAME and host not in ("hapair", "localhost", "debian", "ubuntu"):
        found["the builder's host name"] = re.compile(rb"(?<![\w.-])" + re.escape(host.encode()) + rb"(?![\w-])")
    else:
        report.note(f"this host's name ({host}) is too common to be looked for in the files")
    for text in manifest.checks.absent:
        found[f"{text!r}, which the spec forbids"] = re.compile(re.escape(text.encode()))
    return found


def _path(path: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(path.rstrip("/").encode()) + rb"(?=/)")


def scan(subject: Subject, report: Report) -> None:
    """Look through every file and link target of the tree; the manifest's baked paths are let be, and must be there."""
    tree, manifest = subject.tree, subject.manifest
    wanted = patterns(manifest, report)
    baked = [entry.path.encode() for entry in manifest.baked]
    seen: set[bytes] = set()
    for path, leaf in sorted(tree.leaves.items()):
        data = leaf.target.encode() if leaf.target else _content(tree.root / path)
        seen |= {known for known in baked if known in data}
        for what, hit in hits(data, wanted, baked):
            report.fault("leak", path, f"holds {what}: {hit}")
    for entry in manifest.baked:
        if entry.path.encode() not in seen:
            report.fault("baked", "manifest.json", f"lists the baked path {entry.path}, which is in no file")
        if not entry.reason.strip():
            report.fault("baked", "manifest.json", f"lists the baked path {entry.path} without a reason")


def _content(path: Path) -> bytes:
    """Return a file's content; of a compressed one (a man page, a log of changes) also what is in it."""
    data = path.read_bytes()
    if data.startswith(GZIP):
        with contextlib.suppress(zlib.error):
            # 31: with gzip's header (zlib's manual, inflateInit2).
            data += zlib.decompressobj(31).decompress(data, MAX_UNPACKED_BYTES)
    return data


def hits(data: bytes, wanted: dict[str, re.Pattern[bytes]], baked: Sequence[bytes]) -> Iterable[tuple[str, str]]:
    """Yield what was found and the text around it, a few for each pattern."""
    for what, pattern in wanted.items():
        found = (m for m in pattern.finditer(data) if not any(_allows(known, data, m.start()) for known in baked))
        texts = dict.fromkeys(_text_around(data, m.start(), m.end()) for m in itertools.islice(found, MOST))
        yield from ((what, text) for text in texts)


def _allows(known: bytes, data: bytes, at: int) -> bool:
    return data[at : at + len(known)] == known


def _text_around(data: bytes, begin: int, end: int) -> str:
    first = max(begin - SHOWN, 0)
    before = re.search(rb"[\x20-\x7e]*\Z", data[first:begin])
    after = re.match(rb"[\x20-\x7e]*", data[end : end + SHOWN])
    text = (before[0] if before else b"") + data[begin:end] + (after[0] if after else b"")
    return repr(text.decode(errors="replace").strip())
