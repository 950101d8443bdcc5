"""Credentials: from a file of root's alone, into the request, and nowhere else."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Dict

from hapair.fence.base import BadStore

LARGEST_BYTES = 65536


def secret(path: str, keys: tuple[str, ...], kind: str) -> Dict[str, str]:
    """Return the JSON object in a credentials file.

    Args:
        path: the file. Group and others must have no access to it, and its owner must be root or who runs this.
        keys: strings that must be there.
        kind: what the file should be, for people.

    Raises:
        BadStore: missing, unreadable, open to others, or something else; never with anything of what it holds.
    """
    data = _read(Path(path))
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        # An error of JSON's own would carry the text along.
        raise BadStore(f"{path}: not JSON; it should be {kind}") from None
    if not isinstance(fields, dict):
        raise BadStore(f"{path}: not a JSON object; it should be {kind}")
    missing = [key for key in keys if not isinstance(fields.get(key), str) or not fields[key]]
    if missing:
        raise BadStore(f"{path}: without {', '.join(missing)}; it should be {kind}")
    return {key: value for key, value in fields.items() if isinstance(value, str)}


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as bad:
        raise BadStore(f"{path}: {bad.strerror}; put the store's credentials there, mode 0600") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise BadStore(f"{path}: not a file; put the store's credentials there, mode 0600")
        if found.st_mode & 0o077:
            raise BadStore(f"{path}: others may read it (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 {path}")
        if found.st_uid not in (0, os.geteuid()):
            raise BadStore(f"{path}: it belongs to user {found.st_uid}: chown root {path}")
        data = os.read(fd, LARGEST_BYTES + 1)
    except OSError as bad:
        raise BadStore(f"{path}: {bad.strerror}") from None
    finally:
        os.close(fd)
    if len(data) > LARGEST_BYTES:
        raise BadStore(f"{path}: too large for credentials")
    return data
