"""LXD of our own build on the nodes: the artifact's tree among a node's files, its commands on PATH by links."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

import zstandard

from lab.errors import HapairError
from lab.hosts.site import Programs
from lab.hosts.tree import MTIME_S

BIN = PurePosixPath("usr/local/bin")
"""Before /usr/bin on the PATH of root, of the agent and of systemd's units."""


def with_programs(files: bytes, artifact: Path, programs: Programs) -> bytes:
    """Return the tar archive of a node's files with an artifact's tree at the place that the site names.

    Args:
        files: the rendered files of a node.
        artifact: a .tar.zst of `build.lxd`; all of it stands below one folder.
        programs: names the place.

    Raises:
        HapairError: the artifact holds no program.
    """
    sink = io.BytesIO()
    place = PurePosixPath(programs.tree.lstrip("/"))
    commands = []
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as target:
        with tarfile.open(fileobj=io.BytesIO(files)) as source:
            for member in source:
                target.addfile(member, source.extractfile(member) if member.isfile() else None)
        with (
            artifact.open("rb") as packed,
            zstandard.ZstdDecompressor().stream_reader(packed) as plain,
            tarfile.open(fileobj=plain, mode="r|") as source,
        ):
            for member in source:
                inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
                member.name = str(place / inside)
                target.addfile(member, source.extractfile(member) if member.isfile() else None)
                if inside.parts[:-1] == ("bin",):
                    commands.append(inside)
        if not commands:
            raise HapairError(f"{artifact} holds no program", "name an artifact of LXD under programs.artifact")
        for command in commands:
            link = tarfile.TarInfo(str(BIN / command.name))
            link.type, link.mode, link.mtime, link.linkname = tarfile.SYMTYPE, 0o777, MTIME_S, f"/{place / command}"
            target.addfile(link)
    return sink.getvalue()
