"""A fence store over plain HTTP with ETags: GET and PUT /v1/locks/NAME, If-Match, If-None-Match."""

from __future__ import annotations

import http.client
import socket
import urllib.parse
from typing import NamedTuple

from hapair.fence.base import Found, Reading, Writing, Written
from hapair.lock import LARGEST_BYTES

CONFLICTS = (409, 412)


class Answer(NamedTuple):
    """One HTTP answer; status 0: none came, and `text` says why."""

    status: int
    tag: str = ""
    body: bytes = b""
    text: str = ""


class HttpStore:
    """A `Backend`. Each request uses a connection of its own: a broken one must not spoil the next."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"store url {url!r}: http://HOST:PORT is expected")
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port
        self._base = parts.path.rstrip("/")

    def read(self, name: str, limit_s: float) -> Reading:
        """Return the object's current version; anything but 200 with an ETag, or 404, is UNAVAILABLE."""
        answer = self._ask("GET", name, {}, None, limit_s)
        if answer.status == 404:
            return Reading(Found.MISSING, text="the store has no such lock")
        if answer.status != 200:
            return Reading(Found.UNAVAILABLE, text=answer.text)
        if not answer.tag or answer.tag.startswith("W/"):
            return Reading(Found.UNAVAILABLE, text="the store gives no strong ETag")
        return Reading(Found.OBJECT, answer.body, answer.tag)

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """PUT under a condition; 409 and 412 are conflicts, every other failure leaves the outcome unclear."""
        condition = {"If-None-Match": "*"} if tag is None else {"If-Match": tag}
        answer = self._ask("PUT", name, {**condition, "Content-Type": "application/json"}, body, limit_s)
        if answer.status in (200, 201, 204):
            return Writing(Written.YES)
        return Writing(Written.CONFLICT if answer.status in CONFLICTS else Written.UNCLEAR, answer.text)

    def _ask(self, method: str, name: str, headers: dict[str, str], body: bytes | None, limit_s: float) -> Answer:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=max(0.01, limit_s))
        path = f"{self._base}/v1/locks/{urllib.parse.quote(name, safe='')}"
        try:
            connection.request(method, path, body, {**headers, "Connection": "close"})
            response = connection.getresponse()
            data = response.read(LARGEST_BYTES + 1)
            text = f"{method} {path}: {response.status} {response.reason}"
            return Answer(response.status, response.getheader("ETag", ""), data, text)
        except (OSError, http.client.HTTPException, socket.timeout, ValueError) as bad:
            return Answer(0, text=f"{method} {path}: {type(bad).__name__} {bad}".rstrip())
        finally:
            connection.close()
