"""A fence store over plain HTTP with ETags: GET and PUT /v1/locks/NAME, If-Match, If-None-Match."""

from __future__ import annotations

import http.client
import time
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

from hapair.fence.base import BadStore, Found, Reading, Writing, Written, confirmed, etag, is_page, refusal
from hapair.fence.bounded import Late, left_s, within
from hapair.lock import LARGEST_BYTES

if TYPE_CHECKING:
    import ssl

CONFLICTS = (409, 412)


class Answer(NamedTuple):
    """One HTTP answer; status 0: none came, and `text` says why."""

    status: int
    tag: str = ""
    body: bytes = b""
    text: str = ""
    page: bool = False


class HttpStore:
    """A `Backend`. Each request uses a connection of its own: a broken one must not spoil the next."""

    def __init__(self, url: str, *, credentials: str = "", ca: str = "") -> None:
        """Prepare for requests; none is made yet.

        Args:
            url: http://HOST:PORT or https://…, with or without a path.
            credentials: a file with {"bearer": TOKEN} or {"user": NAME, "password": PASSWORD}.
            ca: a file with the certificates that may sign the server's; the system's unless given.

        Raises:
            BadStore: one of the three cannot be used.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as bad:
            raise BadStore(f"store url {url!r}: {bad}") from None
        if parts.scheme not in ("http", "https") or not self._host or "@" in parts.netloc:
            raise BadStore(f"store url {url!r}: http://HOST:PORT is expected")
        self._context = _tls(ca) if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/")
        self._shown = f"{parts.scheme}://{parts.netloc}{self._base}"
        self._headers = {"Connection": "close", **(_authorization(credentials) if credentials else {})}

    def read(self, name: str, limit_s: float) -> Reading:
        """Return the object's current version; anything but 200 with an ETag, or 404, is UNAVAILABLE, and any page."""
        answer = self._ask("GET", name, {}, None, limit_s)
        if answer.status == 404 and not answer.page:
            return Reading(Found.MISSING, text=f"{self._shown}: no such lock")
        if answer.status != 200:
            return Reading(Found.UNAVAILABLE, text=answer.text)
        if answer.page:
            return Reading(Found.UNAVAILABLE, text=f"{self._shown} answers with a web page: is it the store's address?")
        if not answer.tag or answer.tag.startswith("W/"):
            return Reading(Found.UNAVAILABLE, text=f"{self._shown} gives no strong ETag: it cannot keep a lock")
        return Reading(Found.OBJECT, answer.body, answer.tag)

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """PUT under a condition; 409 and 412 are conflicts, every other failure leaves the outcome unclear.

        A success counts when the ETag proves it, as the reference store's does, or when the object reads as written.
        """
        due = time.monotonic() + limit_s
        condition = {"If-None-Match": "*"} if tag is None else {"If-Match": tag}
        answer = self._ask("PUT", name, {**condition, "Content-Type": "application/json"}, body, limit_s)
        if answer.status in (200, 201, 204) and not answer.page:
            if answer.tag == etag(body):
                return Writing(Written.YES)
            return confirmed(self, name, body, due - time.monotonic())
        return Writing(Written.CONFLICT if answer.status in CONFLICTS else Written.UNCLEAR, answer.text)

    def _ask(self, method: str, name: str, headers: dict[str, str], body: bytes | None, limit_s: float) -> Answer:
        path = f"{self._base}/v1/locks/{urllib.parse.quote(name, safe='')}"
        asked = f"{method} {self._shown}/v1/locks/{name}"
        try:
            return within(limit_s, lambda: self._exchange(method, path, headers, body, asked))
        except (OSError, http.client.HTTPException, ValueError, Late) as bad:
            # HTTP's own errors may repeat what the server said.
            text = str(bad) if isinstance(bad, (OSError, Late)) else ""
            return Answer(0, text=f"{asked}: {type(bad).__name__} {text}".rstrip())

    def _exchange(self, method: str, path: str, headers: dict[str, str], body: bytes | None, asked: str) -> Answer:
        if self._context is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=left_s())
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=left_s(), context=self._context)
        try:
            connection.connect()
            # Finding the name may have taken all the time there was: nothing may be written after that.
            connection.sock.settimeout(left_s())
            connection.request(method, path, body, {**self._headers, **headers})
            response = connection.getresponse()
            data = response.read(LARGEST_BYTES + 1)
            page = is_page(response.getheader("Content-Type", ""))
            text = refusal(asked, response.status) + (" with a web page: is it the store's address?" if page else "")
            return Answer(response.status, response.getheader("ETag", ""), data, text, page)
        finally:
            connection.close()


def _authorization(path: str) -> dict[str, str]:
    from base64 import b64encode  # noqa: PLC0415 - a handler starts while I/O is frozen

    from hapair.fence.credentials import secret  # noqa: PLC0415 - as above

    kind = 'JSON with "bearer", or with "user" and "password"'
    fields = secret(path, (), kind)
    if "bearer" in fields:
        if not fields["bearer"].strip():
            raise BadStore(f"{path}: its bearer is empty: put the store's token there")
        value = f"Bearer {fields['bearer']}"
    else:
        fields = secret(path, ("user", "password"), kind)
        value = "Basic " + b64encode(f"{fields['user']}:{fields['password']}".encode()).decode()
    if not value.isprintable() or not value.isascii():
        raise BadStore(f"{path}: characters that no header may have")
    return {"Authorization": value}


def _tls(ca: str) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - a handler starts while I/O is frozen

    try:
        return ssl.create_default_context(cafile=ca or None)
    except (OSError, ValueError):
        raise BadStore(f"{ca}: no certificates there that can be read (PEM)") from None
