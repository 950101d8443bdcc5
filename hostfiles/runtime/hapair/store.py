"""The reference fence store: a small HTTP server for any third machine.

`GET /v1/locks/NAME` answers the object and its ETag; `PUT` needs `If-Match: ETAG` or `If-None-Match: *` (428 without
either, 412 when the condition fails, 400 for JSON that nests too deep to be read). There is no DELETE: a missing object
is "unknown", never "free". Every change is on the disk, and its name too, before it is answered; what a killed server
left half written is removed by the next one.
One server alone uses a folder. `FOLDER/requests.jsonl` tells every request with the lock before and after.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hapair.fence.base import etag
from hapair.fencing import replace_file, sync_folder
from hapair.lock import LARGEST_BYTES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
PREFIX = "/v1/locks/"
SOCKET_LIMIT_S = 10.0
LARGEST_LOG_BYTES = 64 << 20
"""Then the request log begins anew, and one old one is kept: more than a week of a pair that reads every 2 s."""


class LockStore:
    """The objects in a folder. One lock orders all requests, so a condition and its write are one step."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, making it if it is not there.

        Raises:
            OSError: it cannot be used, or another server uses it.
        """
        self._objects = folder / "locks"
        if not self._objects.is_dir():
            self._objects.mkdir(parents=True, mode=0o700)
            for made in (self._objects, folder, folder.parent):
                sync_folder(made)
        self._log = folder / "requests.jsonl"
        self._one_at_a_time = threading.Lock()
        self._mine = os.open(folder / ".server", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._mine)
            raise OSError(errno.EBUSY, "another store serves this folder") from None
        for half_written in self._objects.glob(".*"):
            half_written.unlink()

    def close(self) -> None:
        """Let another server have the folder."""
        os.close(self._mine)

    def get(self, name: str, client: str) -> tuple[int, bytes, str]:
        """Return status, body and ETag."""
        with self._one_at_a_time:
            body = self._read(name)
            status = 404 if body is None else 200
            self._note({"client": client, "method": "GET", "name": name, "status": status}, body, body)
            return status, body or b"", etag(body) if body is not None else ""

    def put(
        self, name: str, body: bytes, if_match: str | None, if_none_match: str | None, client: str
    ) -> tuple[int, str]:
        """Write under the condition; return status and the new ETag."""
        with self._one_at_a_time:
            before = self._read(name)
            status = 400 if _too_deep(body) else self._judge(before, if_match, if_none_match)
            if status in (200, 201):
                replace_file(self._objects / name, body, durable=True)
            self._note({"client": client, "method": "PUT", "name": name, "status": status}, before, self._read(name))
            return status, etag(body) if status in (200, 201) else ""

    @staticmethod
    def _judge(before: bytes | None, if_match: str | None, if_none_match: str | None) -> int:
        if if_none_match is not None:
            if if_none_match.strip() != "*":
                return 400
            return 201 if before is None else 412
        if if_match is None:
            return 428
        return 200 if before is not None and if_match.strip() == etag(before) else 412

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._objects / name).read_bytes()
        except FileNotFoundError:
            return None

    def _note(self, request: dict[str, Any], before: bytes | None, after: bytes | None) -> None:
        entry = {"t": time.time(), **request, "before": _essence(before), "after": _essence(after)}
        with self._log.open("a") as log:
            log.write(json.dumps(entry) + "\n")
            full = log.tell() > LARGEST_LOG_BYTES
        if full:
            self._log.replace(self._log.with_suffix(".jsonl.1"))


def _essence(body: bytes | None) -> dict[str, Any] | None:
    """Return state, owner, epoch, writer and attempt of a lock; an empty object for anything else."""
    if body is None:
        return None
    try:
        fields = json.loads(body)
        found = {key: fields[key] for key in ("state", "owner", "epoch", "writer", "attempt_id") if key in fields}
    except (ValueError, TypeError, RecursionError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, (str, int))}


def _too_deep(body: bytes) -> bool:
    """True for JSON that nests so deep that no program could read it back."""
    try:
        json.loads(body)
    except RecursionError:
        return True
    except ValueError:
        pass
    return False


class Handler(BaseHTTPRequestHandler):
    """One connection; the server carries the store."""

    protocol_version = "HTTP/1.1"
    server_version = "hapair-store/1"
    timeout = SOCKET_LIMIT_S
    store: LockStore

    def do_GET(self) -> None:
        """Answer a lock object."""
        name = self._name()
        if name is None:
            self._answer(404)
            return
        status, body, tag = self.store.get(name, self.client_address[0])
        self._answer(status, body, tag)

    def do_PUT(self) -> None:
        """Write a lock object under a condition."""
        name = self._name()
        length = self.headers.get("Content-Length", "")
        if name is None or not length.isdigit() or int(length) > LARGEST_BYTES:
            self.close_connection = True
            too_large = length.isdigit() and int(length) > LARGEST_BYTES
            self._answer(404 if name is None else 413 if too_large else 411)
            return
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            self.close_connection = True
            return
        headers = self.headers
        client = self.client_address[0]
        status, tag = self.store.put(name, body, headers.get("If-Match"), headers.get("If-None-Match"), client)
        self._answer(status, tag=tag)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests.jsonl tells more."""

    def _name(self) -> str | None:
        path = urllib.parse.urlsplit(self.path).path
        name = urllib.parse.unquote(path[len(PREFIX) :]) if path.startswith(PREFIX) else ""
        return name if NAME.fullmatch(name) else None

    def _answer(self, status: int, body: bytes = b"", tag: str = "") -> None:
        self.send_response(status)
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class StoreServer(ThreadingHTTPServer):
    """The server; a client that breaks off is not worth a traceback."""

    daemon_threads = True
    store: LockStore

    def server_close(self) -> None:
        """Close the socket, and leave the folder to others."""
        super().server_close()
        self.store.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Forget a broken connection."""


def serve(address: str, port: int, folder: Path) -> StoreServer:
    """Return a server that is bound and ready; call `serve_forever` on it.

    Raises:
        OSError: the address or the folder cannot be used.
    """
    store = LockStore(folder)
    try:
        server = StoreServer((address, port), type("BoundHandler", (Handler,), {"store": store}))
    except OSError:
        store.close()
        raise
    server.store = store
    return server
