"""The reference store and its client, over real HTTP; the client also against servers that misbehave."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hapair import store
from hapair.fence.base import BadStore, Found, Written, etag
from hapair.fence.http import HttpStore


def ask(url: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> tuple[int, str]:
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=5)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("ETag", "")
    finally:
        connection.close()


def test_conditions(store_url: str) -> None:
    path = "/v1/locks/example-r0"
    assert ask(store_url, "GET", path)[0] == 404
    assert ask(store_url, "PUT", path, body=b"x")[0] == 428
    status, tag = ask(store_url, "PUT", path, {"If-None-Match": "*"}, b"one")
    assert (status, bool(tag)) == (201, True)
    assert ask(store_url, "GET", path) == (200, tag)
    assert ask(store_url, "PUT", path, {"If-None-Match": "*"}, b"two")[0] == 412
    assert ask(store_url, "PUT", path, {"If-Match": '"other"'}, b"two")[0] == 412
    status, newer = ask(store_url, "PUT", path, {"If-Match": tag}, b"two")
    assert status == 200
    assert newer != tag
    assert ask(store_url, "PUT", path, {"If-Match": tag}, b"three")[0] == 412


def test_nothing_can_be_deleted(store_url: str) -> None:
    assert ask(store_url, "DELETE", "/v1/locks/example-r0")[0] == 501


@pytest.mark.parametrize("path", ["/", "/v1/locks/", "/v1/locks/../x", "/v1/locks/%2e%2e%2fx", "/v1/locks/.hidden"])
def test_other_names_do_not_exist(store_url: str, path: str) -> None:
    assert ask(store_url, "GET", path)[0] == 404
    assert ask(store_url, "PUT", path, {"If-None-Match": "*"}, b"x")[0] == 404


def test_a_body_that_is_too_large_is_refused(store_url: str) -> None:
    assert ask(store_url, "PUT", "/v1/locks/x", {"If-None-Match": "*"}, b"x" * 20000)[0] == 413
    assert ask(store_url, "PUT", "/v1/locks/x", {"If-None-Match": "*", "Content-Length": "many"})[0] == 411
    assert ask(store_url, "GET", "/v1/locks/x")[0] == 404


def test_json_that_nests_too_deep_is_refused(store_url: str, tmp_path: Path) -> None:
    path = "/v1/locks/x"
    assert ask(store_url, "PUT", path, {"If-None-Match": "*"}, b"[" * 9000)[0] == 400
    assert ask(store_url, "GET", path)[0] == 404
    (tmp_path / "store/locks/x").write_bytes(b"[" * 9000)
    assert ask(store_url, "GET", path)[0] == 200, "what stands there already is told as it is"
    deep = b'{"owner": ' + b"[" * 500 + b"]" * 500 + b', "epoch": 3}'
    assert ask(store_url, "PUT", "/v1/locks/y", {"If-None-Match": "*"}, deep)[0] == 201
    log = [json.loads(line) for line in (tmp_path / "store/requests.jsonl").read_text().splitlines()]
    assert [line["status"] for line in log] == [400, 404, 200, 201]
    assert log[-1]["after"] == {"epoch": 3}


def test_the_state_outlives_the_server(tmp_path: Path) -> None:
    first = store.LockStore(tmp_path)
    _, tag = first.put("a", b"body", None, "*", "127.0.0.1")
    first.close()
    (tmp_path / "locks/.a.1.half").write_bytes(b"bo")
    assert store.LockStore(tmp_path).get("a", "127.0.0.1") == (200, b"body", tag)
    assert [it.name for it in (tmp_path / "locks").iterdir()] == ["a"]


def test_a_folder_has_one_server(tmp_path: Path) -> None:
    running = store.serve("127.0.0.1", 0, tmp_path)
    with pytest.raises(OSError, match="another store serves this folder"):
        store.serve("127.0.0.1", 0, tmp_path)
    running.server_close()
    store.serve("127.0.0.1", 0, tmp_path).server_close()


def test_the_disk_has_a_change_before_its_name_and_its_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power may fail at any moment: content first, then the name, then the folder, then the answer."""
    made = store.LockStore(tmp_path)
    steps: list[str] = []

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").resolve()
        steps.append(f"sync {'folder' if path.is_dir() else 'half-written'}; named: {(tmp_path / 'locks/a').exists()}")

    monkeypatch.setattr(os, "fsync", fsync)
    assert made.put("a", b"body", None, "*", "127.0.0.1")[0] == 201
    assert steps == ["sync half-written; named: False", "sync folder; named: True"]


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = store.LockStore(tmp_path)
    made.put("a", b"body", None, "*", "127.0.0.1")
    real, room = os.write, [3, 0]

    def write(fd: int, data: memoryview) -> int:
        few = room.pop(0)
        if not few:
            raise OSError(errno.ENOSPC, "no room")
        return real(fd, data[:few])

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(OSError, match="no room"):
        made.put("a", b"other", etag(b"body"), None, "127.0.0.1")
    assert [(it.name, it.read_bytes()) for it in (tmp_path / "locks").iterdir()] == [("a", b"body")]


def test_the_request_log_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LARGEST_LOG_BYTES", 500)
    made = store.LockStore(tmp_path)
    for _ in range(40):
        made.get("a", "127.0.0.1")
    assert (tmp_path / "requests.jsonl.1").stat().st_size < 700
    assert sum(path.stat().st_size for path in tmp_path.glob("requests.jsonl*")) < 1400


def test_the_log_tells_every_request(tmp_path: Path) -> None:
    made = store.LockStore(tmp_path)
    lock = {"state": "SHARED", "owner": "a", "epoch": 1, "writer": "a", "attempt_id": "x"}
    made.put("a", json.dumps(lock).encode(), None, "*", "192.0.2.11")
    made.put("a", b"junk", '"stale"', None, "192.0.2.12")
    log = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert [(line["client"], line["method"], line["status"]) for line in log] == [
        ("192.0.2.11", "PUT", 201),
        ("192.0.2.12", "PUT", 412),
    ]
    assert log[0]["before"] is None
    assert log[0]["after"] == log[1]["before"] == log[1]["after"] == lock


def test_the_client_reads_and_writes(store_url: str) -> None:
    client = HttpStore(store_url)
    assert client.read("a", 1.0).found is Found.MISSING
    assert client.write("a", b"one", None, 1.0).written is Written.YES
    seen = client.read("a", 1.0)
    assert (seen.found, seen.body) == (Found.OBJECT, b"one")
    assert client.write("a", b"two", '"other"', 1.0).written is Written.CONFLICT
    assert client.write("a", b"two", seen.tag, 1.0).written is Written.YES


class Rude(BaseHTTPRequestHandler):
    """Answers every request with the status and headers in the path: /v1/locks/500 …"""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        name = self.path.rsplit("/", 1)[1]
        if name == "weak":
            self.send_response(200)
            self.send_header("ETag", 'W/"x"')
        else:
            self.send_response(int(name.partition("-")[0]))
        if name.endswith("-page"):
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    do_GET = do_PUT = answer


@pytest.fixture
def rude_url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Rude)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["500", "503", "429", "401", "403", "200", "weak", "302"])
def test_no_other_answer_counts_as_a_reading(rude_url: str, name: str) -> None:
    assert HttpStore(rude_url).read(name, 1.0).found is Found.UNAVAILABLE


@pytest.mark.parametrize("name", ["500", "503", "429", "401", "428", "302", "404"])
def test_no_other_answer_counts_as_a_clear_write(rude_url: str, name: str) -> None:
    assert HttpStore(rude_url).write(name, b"x", '"t"', 1.0).written is Written.UNCLEAR


def test_a_web_page_is_no_missing_lock(rude_url: str) -> None:
    assert HttpStore(rude_url).read("404", 1.0).found is Found.MISSING
    seen = HttpStore(rude_url).read("404-page", 1.0)
    assert seen.found is Found.UNAVAILABLE
    assert "404 with a web page: is it the store's address?" in seen.text
    assert "no such lock" not in seen.text


def test_409_is_a_conflict(rude_url: str) -> None:
    assert HttpStore(rude_url).write("409", b"x", '"t"', 1.0).written is Written.CONFLICT


def test_a_silent_store_is_unavailable_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = HttpStore(f"http://127.0.0.1:{listener.getsockname()[1]}")
        assert client.read("a", 0.1).found is Found.UNAVAILABLE
        assert client.write("a", b"x", None, 0.1).written is Written.UNCLEAR


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert HttpStore(f"http://127.0.0.1:{port}").read("a", 1.0).found is Found.UNAVAILABLE


@pytest.mark.parametrize("url", ["", "192.0.2.20:8440", "ftp://x/", "http://"])
def test_a_bad_address_is_told_at_once(url: str) -> None:
    with pytest.raises(BadStore, match="HOST"):
        HttpStore(url)
