"""Downloads, from a server on the loopback that breaks off, lies, refuses or goes on where it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab import download
from lab.errors import BadInput, HostLacks

DATA = bytes(range(256)) * 4096


@dataclass
class Server:
    """What the server does, and what it was asked for."""

    url: str = ""
    status: int = 200
    tag: str = '"v1"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # how many bytes each answer has before it breaks off
    asked: list[str] = field(default_factory=list)  # the Range of each question


@pytest.fixture
def server() -> Iterator[Server]:
    plan = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            plan.asked.append(wanted)
            start = 0
            if wanted and plan.ranges and self.headers.get("If-Range") == plan.tag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else plan.status)
            self.send_header("Content-Length", str(len(DATA) - start))
            if plan.tag:
                self.send_header("ETag", plan.tag)
            self.end_headers()
            end = plan.cuts.pop(0) if plan.cuts else len(DATA)
            self.wfile.write(DATA[start : start + end])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that goes away is part of the tests."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        plan.url = f"http://127.0.0.1:{http.server_port}/thing"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield plan
        http.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_saves_all_of_it(server: Server, tmp_path: Path) -> None:
    notes: list[str] = []
    download.save(server.url, tmp_path / "thing", limit_s=30, note=notes.append)
    assert (tmp_path / "thing").read_bytes() == DATA
    assert notes[-1] == "1 of 1 MiB"
    assert files(tmp_path) == ["thing"]


def test_goes_on_where_the_last_attempt_broke_off(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    download.save(server.url, tmp_path / "thing", limit_s=30)
    assert (tmp_path / "thing").read_bytes() == DATA
    first, second, third = (int(wanted[len("bytes=") : -1] or 0) if wanted else 0 for wanted in server.asked)
    assert first == 0
    assert 300_000 - download.CHUNK_BYTES < second <= 300_000  # a chunk that is not whole is asked for again
    assert second + 200_000 - download.CHUNK_BYTES < third <= second + 200_000


@pytest.mark.parametrize("change", [{"tag": ""}, {"tag": 'W/"v1"'}, {"ranges": False}])
def test_begins_again_when_it_cannot_go_on(server: Server, tmp_path: Path, change: dict[str, object]) -> None:
    vars(server).update(change)
    server.cuts = [300_000]
    download.save(server.url, tmp_path / "thing", limit_s=30)
    assert (tmp_path / "thing").read_bytes() == DATA


def test_gives_up_and_keeps_nothing(server: Server, tmp_path: Path) -> None:
    server.tag, server.cuts = "", [1000] * download.ATTEMPTS
    with pytest.raises(HostLacks, match=server.url):
        download.save(server.url, tmp_path / "thing", limit_s=30)
    assert len(server.asked) == download.ATTEMPTS
    assert files(tmp_path) == []


def test_a_refusal_is_told_and_the_old_file_stays(server: Server, tmp_path: Path) -> None:
    server.status = 404
    (tmp_path / "thing").write_text("old")
    with pytest.raises(HostLacks, match="the server answers 404 Not Found"):
        download.save(server.url, tmp_path / "thing", limit_s=30)
    assert (tmp_path / "thing").read_text() == "old"
    assert files(tmp_path) == ["thing"]


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match=r"no answer \(ConnectionError\)"):
        download.save("http://127.0.0.1:9/thing", tmp_path / "thing", limit_s=30)
    assert files(tmp_path) == []


def test_the_time_is_bounded(server: Server, tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="not finished in time"):
        download.save(server.url, tmp_path / "thing", limit_s=0)
    assert files(tmp_path) == []


def test_a_full_disk_is_found_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 10})())
    with pytest.raises(HostLacks, match="0 MiB are free"):
        download.save(server.url, tmp_path / "thing", limit_s=30)
    assert files(tmp_path) == []


def test_a_local_file_is_an_address_too(tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(DATA)
    download.save((tmp_path / "a b").as_uri(), tmp_path / "copy", limit_s=30)
    assert (tmp_path / "copy").read_bytes() == DATA


@pytest.mark.parametrize("url", ["ftp://host.test/x", "https:///x", "thing", ""])
def test_other_addresses_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput, match="not an https, http or file address"):
        download.save(url, tmp_path / "thing", limit_s=30)


def test_reads_as_it_comes_and_may_stop_early(server: Server) -> None:
    with download.reading(server.url) as body:
        assert body.read(10) == DATA[:10]
        assert body.read(300_000) == DATA[10:300_010]
    server.cuts = [1000]
    with pytest.raises(HostLacks, match=server.url), download.reading(server.url) as body:
        body.read()


def test_what_came_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "part"
    server.cuts = [300_000, 0, 0]
    with pytest.raises(HostLacks):
        download.save(server.url, tmp_path / "thing", limit_s=30, part=part)
    assert 0 < part.stat().st_size <= 300_000
    server.asked.clear()
    download.save(server.url, tmp_path / "thing", limit_s=30, part=part)
    assert (tmp_path / "thing").read_bytes() == DATA
    assert server.asked[0] != ""
    assert files(tmp_path) == ["thing"]


def test_what_came_is_dropped_when_the_thing_has_changed(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"old" * 1000)
    part.with_name("part.version").write_text('"v0"')
    download.save(server.url, tmp_path / "thing", limit_s=30, part=part)
    assert (tmp_path / "thing").read_bytes() == DATA


def test_a_refusal_leaves_no_empty_part(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(HostLacks):
        download.save(server.url, tmp_path / "thing", limit_s=30, part=tmp_path / "part")
    assert files(tmp_path) == []
