"""Where hapair keeps things on the control machine (XDG Base Directory Specification 0.8)."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Return the folder of everything that can be made again, keyed by content."""
    return _xdg("XDG_CACHE_HOME", ".cache") / "hapair"


def labs() -> Path:
    """Return the folder that holds one folder for each lab that was brought up."""
    return _xdg("XDG_STATE_HOME", ".local/state") / "hapair" / "labs"


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The specification says that relative paths are to be ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback
