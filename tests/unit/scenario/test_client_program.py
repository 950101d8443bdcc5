"""The client program against a real HTTP server on 127.0.0.1. Its ARP half is tested on frames and a fake link only:
a raw socket needs a node of the lab."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lab.paths import PROJECT

Answer = Callable[[str], tuple[int, str]]
OWN = bytes.fromhex("02005e0002fe")


class Writer:
    """A server that behaves as the container does, and misbehaves on demand."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.boot = "boot-a"
        self.misbehave: Answer | None = None
        self.hang = threading.Event()
        self.readable = True
        self.port = 0

    def answer(self, path: str) -> tuple[int, str]:
        if path == "/cgi-bin/id":
            return 200, self.boot + "\n"
        if path == "/cgi-bin/read" and not self.readable:
            return 500, "no file"
        if path == "/cgi-bin/read":
            return 200, "".join(line + "\n" for line in self.lines)
        if self.misbehave:
            return self.misbehave(path)
        seq, nonce = path.split("?")[1].split("-")
        self.lines.append(f"{seq} {nonce}")
        return 200, f"{seq} {nonce} {self.boot}\n"


@pytest.fixture
def writer() -> Iterator[Writer]:
    served = Writer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = served.answer(self.path)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client() -> Iterator[ModuleType]:
    path: Path = PROJECT / "hostfiles" / "lab" / "client.py"
    spec = importlib.util.spec_from_file_location("lab_client_program", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    before = signal.getsignal(signal.SIGTERM)
    spec.loader.exec_module(module)
    yield module
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def write(
    client: ModuleType, writer: Writer, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[dict[str, Any]]]:
    def run(*options: str) -> list[dict[str, Any]]:
        port = str(writer.port)
        client.main(["write", "127.0.0.1", "--port", port, "--interval", "0", *options])
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def kinds(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == kind]


def test_every_write_is_logged_from_invocation_to_acknowledgement(writer: Writer, write: Any) -> None:
    events = write("--count", "5", "--workers", "2", "--first", "100")
    acked = kinds(events, "ack")
    assert sorted(event["seq"] for event in acked) == [100, 101, 102, 103, 104]
    assert [f"{e['seq']} {e['nonce']}" for e in acked] and {f"{e['seq']} {e['nonce']}" for e in acked} == set(
        writer.lines
    )
    assert {event["boot"] for event in acked} == {"boot-a"}
    invoked = {event["seq"]: event for event in kinds(events, "invoke")}
    assert all(invoked[e["seq"]]["t"] == e["started"] <= e["t"] for e in acked)
    assert events[0]["kind"] == "start" and events[-1] == {**events[-1], "kind": "stop", "next_seq": 105}
    assert all(event["source"] == "client" for event in events)


def test_a_request_that_fails_is_logged_and_never_sent_again(writer: Writer, write: Any) -> None:
    seen: list[str] = []

    def refuse(path: str) -> tuple[int, str]:
        seen.append(path)
        return 500, "not written"

    writer.misbehave = refuse
    events = write("--count", "3", "--workers", "1")
    assert [event["seq"] for event in kinds(events, "fail")] == [0, 1, 2]
    assert len(set(seen)) == len(seen) == 3
    assert "status 500" in kinds(events, "fail")[0]["error"]


@pytest.mark.parametrize("body", ["", "0", "0 wrong boot-a", "9 {nonce} boot-a", "0 {nonce}", "<html>"])
def test_an_answer_counts_only_when_it_is_whole_and_right(writer: Writer, write: Any, body: str) -> None:
    writer.misbehave = lambda path: (200, body.format(nonce=path.split("-")[-1]))
    events = write("--count", "1", "--workers", "1")
    assert not kinds(events, "ack")
    assert "garbled" in kinds(events, "fail")[0]["error"]


def test_a_server_that_hangs_costs_one_time_out(writer: Writer, write: Any) -> None:
    def hang(_: str) -> tuple[int, str]:
        writer.hang.wait(10)
        return 200, ""

    writer.misbehave = hang
    began = time.monotonic()
    events = write("--count", "1", "--workers", "1", "--timeout", "0.2")
    assert time.monotonic() - began < 2
    assert "TimeoutError" in kinds(events, "fail")[0]["error"]


def test_nobody_listens_and_the_client_goes_on(client: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client.main(["write", "127.0.0.1", "--port", str(port), "--count", "3", "--workers", "1", "--interval", "0"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["seq"] for event in kinds(events, "fail")] == [0, 1, 2]
    assert "ConnectionRefused" in kinds(events, "fail")[0]["error"]


def test_the_list_is_read_whenever_another_boot_answers(writer: Writer, write: Any) -> None:
    real = Writer.answer

    def switching(path: str) -> tuple[int, str]:
        if path.startswith("/cgi-bin/write?2-"):
            writer.boot = "boot-b"
        writer.misbehave = None
        answer = real(writer, path)
        writer.misbehave = switching
        return answer

    writer.misbehave = switching
    events = write("--count", "4", "--workers", "1")
    lists = kinds(events, "list")
    assert [event["boot"] for event in lists] == ["boot-a", "boot-b"]
    assert lists[1]["lines"] == writer.lines[:3]
    assert lists[1]["started"] >= kinds(events, "ack")[2]["t"]


def test_a_list_that_cannot_be_read_is_logged(writer: Writer, write: Any) -> None:
    writer.readable = False
    failures = kinds(write("--count", "1"), "list_fail")
    assert [(event["boot"], event["error"]) for event in failures] == [("boot-a", "status 500")]


def test_sigterm_ends_it_after_the_requests_under_way(writer: Writer, client: ModuleType, write: Any) -> None:
    def asked(path: str) -> tuple[int, str]:
        os.kill(os.getpid(), signal.SIGTERM)
        client._stop.wait(5)
        writer.misbehave = None
        return Writer.answer(writer, path)

    writer.misbehave = asked
    events = write("--workers", "1")
    assert len(kinds(events, "ack")) == len(kinds(events, "invoke")) == 1
    assert events[-1]["kind"] == "stop"


def test_the_time_limit_ends_it(write: Any) -> None:
    events = write("--workers", "1", "--limit-s", "0")
    assert [event["kind"] for event in events] == ["start", "stop"]


def test_probing_logs_who_answers_and_how_a_failure_begins(
    writer: Writer, client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(writer.port)
    client.main(["probe", "127.0.0.1", "--port", port, "--interface", "", "--interval", "0.01", "--limit-s", "0.3"])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["boot"] for event in kinds(events, "id")} == {"boot-a"}
    assert all(event["started"] <= event["t"] for event in kinds(events, "id"))
    assert events[0] == {**events[0], "source": "probe", "kind": "start", "arp": False}

    client._stop.clear()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    client.main(["probe", "127.0.0.1", "--port", port, "--interface", "", "--interval", "0.01", "--limit-s", "0.1"])
    failures = kinds([json.loads(line) for line in capsys.readouterr().out.splitlines()], "id_fail")
    assert len(failures) == 1 and "ConnectionRefused" in failures[0]["error"]


def test_an_empty_answer_is_nobodys(writer: Writer, client: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    writer.boot = ""
    given = ["--port", str(writer.port), "--interface", "", "--interval", "0.01", "--limit-s", "0.1"]
    client.main(["probe", "127.0.0.1", *given])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not kinds(events, "id")
    (failure,) = kinds(events, "id_fail")
    assert "an empty answer" in failure["error"]


def test_a_page_is_printed_and_a_missing_one_is_an_error(
    writer: Writer, client: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"http://127.0.0.1:{writer.port}"
    client.main(["get", f"{base}/cgi-bin/id"])
    assert capsys.readouterr().out == "boot-a\n"
    writer.misbehave = lambda _: (404, "")
    with pytest.raises(SystemExit):
        client.main(["get", f"{base}/cgi-bin/nothing"])


def test_an_arp_request_is_what_rfc_826_says(client: ModuleType) -> None:
    frame = client.arp_request(OWN, "192.0.2.254", "192.0.2.88")
    assert frame.hex() == (
        "ffffffffffff" "02005e0002fe" "0806" "0001" "0800" "06" "04" "0001"
        "02005e0002fe" "c00002fe" "000000000000" "c0000258"
    )  # fmt: skip


def test_every_claim_of_the_address_is_read_and_nothing_else(client: ModuleType) -> None:
    ours = client.arp_request(OWN, "192.0.2.254", "192.0.2.88")
    assert client.arp_sender(ours) == ("02:00:5e:00:02:fe", "192.0.2.254", 1)
    for wrong in (b"", ours[:41], ours[:12] + b"\x08\x00" + ours[14:], ours[:18] + b"\x08\x04" + ours[20:]):
        assert client.arp_sender(wrong) is None


def test_listening_logs_answers_and_announcements(client: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    reply = bytearray(client.arp_request(bytes.fromhex("02005e000211"), "192.0.2.88", "192.0.2.254"))
    reply[21] = 2
    frames: list[bytes] = [bytes(reply), client.arp_request(OWN, "192.0.2.254", "192.0.2.88"), b"noise"]

    class Link:
        """A raw socket: what it does on a real LAN only a node of the lab can show."""

        def recv(self, _: int) -> bytes:
            if frames:
                return frames.pop(0)
            client._stop.set()
            raise TimeoutError

    client.listen_arp(Link(), "192.0.2.88")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["mac"], event["operation"]) for event in events] == [("02:00:5e:00:02:11", 2)]
