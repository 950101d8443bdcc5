"""What every fence store offers: read, and a write that only succeeds on the version last read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Found(Enum):
    """What a read tells; UNAVAILABLE never means that there is no object."""

    OBJECT = "object"
    MISSING = "missing"
    UNAVAILABLE = "unavailable"


class Written(Enum):
    """What a write tells. CONFLICT: the condition failed. UNCLEAR: it may or may not have happened, or still may."""

    YES = "yes"
    CONFLICT = "conflict"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Reading:
    """The answer to a read: the body and the version tag of an OBJECT, or why there is none."""

    found: Found
    body: bytes = b""
    tag: str = ""
    text: str = ""


@dataclass(frozen=True)
class Writing:
    """The answer to a conditional write."""

    written: Written
    text: str = ""


class Backend(Protocol):
    """One store. No method raises for anything the network or the store does; each ends within about `limit_s`."""

    def read(self, name: str, limit_s: float) -> Reading:
        """Return the object's current version."""

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """Write only if the version is still `tag`; None: only if there is no object."""
