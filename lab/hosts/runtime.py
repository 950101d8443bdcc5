"""The host programs as one file: a zip archive that Python runs, the same bytes for the same sources."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from lab.errors import HapairError
from lab.paths import PROJECT

FOLDER = PROJECT / "hostfiles" / "runtime"
# -I: nothing in the environment or the home folder of whoever calls it decides what it imports. -S: neither do packages
# that happen to be installed, and it starts sooner.
SHEBANG = b"#!/usr/bin/python3 -IS\n"
# The first moment that the format knows.
_DATE = (1980, 1, 1, 0, 0, 0)
_MAIN = b"import sys\n\nfrom hapair.__main__ import main\n\nsys.exit(main())\n"


def zipapp(folder: Path = FOLDER) -> bytes:
    """Return the archive of the package `hapair` in `folder`, ready to be put on a node with mode 0755.

    Nothing is compressed: compressors differ between versions of zlib, and reading is faster.

    Raises:
        HapairError: there is no such package, or it has no __main__.
    """
    package = folder / "hapair"
    if not (package / "__main__.py").is_file():
        raise HapairError(f"{package} holds no host programs", "use a complete copy of the project")
    buffer = io.BytesIO(SHEBANG)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        _add(archive, "__main__.py", _MAIN)
        for source in sorted(package.rglob("*.py")):
            _add(archive, source.relative_to(folder).as_posix(), source.read_bytes())
    return buffer.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = 3  # UNIX, whatever the control machine is
    info.external_attr = 0o100644 << 16
    archive.writestr(info, data)
