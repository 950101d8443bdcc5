"""Where a node's memory lives: a file that must be mappable for execution, on a file system with room for it.

User-Mode Linux makes its memory an unlinked file in $TMPDIR and maps it PROT_EXEC (arch/um/os-Linux/mem.c), so a
folder mounted `noexec` will not do, and one that is no tmpfs makes the host write the guest's memory to disk.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lab.errors import HostLacks

# <linux/magic.h>
TMPFS_MAGIC = 0x01021994
TRIES = 100


def candidates(folder: Path) -> list[Path]:
    """Return the folders that may hold a lab's memory, best first; the lab's own `folder` is the last resort."""
    named = [os.environ.get(name, "") for name in ("HAPAIR_MEMORY_DIR", "TMPDIR", "XDG_RUNTIME_DIR")]
    return [*(Path(name) for name in named if name.startswith("/")), Path("/dev/shm"), Path("/tmp"), folder]  # noqa: S108 - each is only probed; the memory goes into a private folder below it


def choose(folders: Sequence[Path], need_bytes: int) -> Path:
    """Make a private folder for the memory of nodes in the first good candidate: tmpfs if any, else any other.

    The caller removes it.

    Raises:
        HostLacks: none can be used; the message says why of each.
    """
    reasons: list[str] = []
    second_choice: Path | None = None
    for folder in folders:
        fault = probe(folder, need_bytes)
        if fault:
            reasons.append(f"{folder}: {fault}")
        elif _is_tmpfs(folder):
            return private(folder)
        else:
            second_choice = second_choice or folder
    if second_choice:
        return private(second_choice)
    raise HostLacks(
        "no folder can hold the nodes' memory:\n  " + "\n  ".join(reasons),
        f"free {need_bytes >> 20} MiB in one of them, or name another in HAPAIR_MEMORY_DIR",
    )


def private(folder: Path) -> Path:
    """Make and return a folder below `folder` that only this user may enter.

    Raises:
        HostLacks: no name is free.
        OSError: it cannot be made.
    """
    for _ in range(TRIES):
        # Shorter than those of tempfile: sockets lie below it, and their paths have room for 107 bytes.
        path = folder / f"hapair-{secrets.token_hex(2)}"
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            return path
    raise HostLacks(f"{folder} is full of folders named hapair-…", "invoke lab.destroy for labs that are not needed")


def probe(folder: Path, need_bytes: int) -> str:
    """Return why `folder` cannot hold a node's memory, or "": done by trying, as the kernel will."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(mmap.PAGESIZE)
            mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()
        space = os.statvfs(folder)
    except PermissionError as error:
        return "mounted noexec" if error.filename is None else "may not be written to"
    except OSError as error:
        return error.strerror or str(error)
    free_bytes = space.f_bavail * space.f_frsize
    return "" if free_bytes >= need_bytes else f"{free_bytes >> 20} MiB free, {need_bytes >> 20} MiB needed"


def available_bytes() -> int:
    """Return the memory that this machine can give without swapping (MemAvailable of /proc/meminfo)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def _is_tmpfs(folder: Path) -> bool:
    buffer = ctypes.create_string_buffer(256)  # struct statfs begins with its f_type, a long
    with suppress(OSError, AttributeError):
        if ctypes.CDLL(None).statfs(os.fsencode(folder), buffer) == 0:
            return ctypes.c_long.from_buffer(buffer).value == TMPFS_MAGIC
    return False
