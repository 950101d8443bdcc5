"""What every fence store offers: read, and a write that only succeeds on the version last read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

CURES = {
    401: "the store refuses the credentials",
    403: "the store grants no access with these credentials",
    429: "the store is asked too often",
}
"""What a person needs to know beyond the number, for the answers that do not pass by themselves."""
SKEWED = ("RequestTimeTooSkewed", "RequestExpired")


class BadStore(Exception):
    """The store cannot be used as it is configured; the text names the file or setting and what to do."""


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


def etag(body: bytes) -> str:
    """Return the version tag of the reference store: it follows the content, and a lock's content has a nonce (F9)."""
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'


def refusal(asked: str, status: int, code: str = "") -> str:
    """Return a text for an answer that is no success. Never the answer's own words: they may repeat a credential.

    Args:
        asked: what was asked for, without any secret.
        status: the HTTP status.
        code: the store's own short name for the error, if it has one.
    """
    cure = "this node's clock and the store's differ: look at its time synchronisation" if code in SKEWED else ""
    cure = cure or CURES.get(status, "")
    return f"{asked}: {status}" + (f" {code}" if code else "") + (f" ({cure})" if cure else "")


def is_page(content_type: str) -> bool:
    """True for a web page, which no store answers with: a login page, or an address that is not the store's."""
    return content_type.partition(";")[0].strip().lower() in ("text/html", "application/xhtml+xml")


def confirmed(backend: Backend, name: str, body: bytes, limit_s: float) -> Writing:
    """Look whether a write that was answered with success but without proof has happened.

    A captive portal or a login page answers anything with 200, and a lock that was never written must not be held.
    """
    seen = backend.read(name, limit_s)
    if seen.found is Found.OBJECT and seen.body == body:
        return Writing(Written.YES)
    return Writing(
        Written.UNCLEAR, f"the store says that it has written {name}, but shows something else: is it a store?"
    )
