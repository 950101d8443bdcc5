"""Archives into folders, by the system's own tools (GNU tar refuses to leave the folder it writes to)."""

from __future__ import annotations

import threading
from pathlib import Path

from lab.build import runner
from lab.build.spec import Source
from lab.errors import BadInput

LIMIT_S = 600.0
DEB_MAGIC = b"!<arch>\n"
"""First bytes of a .deb (deb(5))."""


def unpack(
    source: Source, archive: Path, into: Path, *, scratch: Path, log: Path, stop: threading.Event | None = None
) -> None:
    """Unpack a tar archive, a .deb, or the tar archive inside a .deb, into a folder.

    Raises:
        BadInput: a .deb does not hold exactly one member of the wanted name.
        CommandFailed: the archive is damaged.
    """
    with archive.open("rb") as file:
        is_deb = file.read(len(DEB_MAGIC)) == DEB_MAGIC
    if is_deb:
        opened = scratch / "deb" if source.member else into
        runner.run(["dpkg-deb", "-x", archive, opened], cwd=scratch, log=log, limit_s=LIMIT_S, stop=stop)
        if source.member is None:
            return
        members = sorted(opened.glob(source.member))
        if len(members) != 1:
            raise BadInput(
                f"{archive.name} holds {len(members)} files {source.member}, not one", "name another package"
            )
        archive = members[0]
    into.mkdir(parents=True, exist_ok=True)
    options = [f"--exclude={pattern}" for pattern in source.exclude]
    argv: list[str | Path] = [
        "tar",
        "-x",
        "-f",
        archive,
        "-C",
        into,
        "--no-same-owner",
        f"--strip-components={source.strip}",
        *options,
    ]
    # One thread for each CPU, where the archive has blocks that allow it.
    runner.run(argv, cwd=scratch, env={"XZ_DEFAULTS": "-T0"}, log=log, limit_s=LIMIT_S, stop=stop)
