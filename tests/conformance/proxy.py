"""A proxy in front of a real store that fails as networks and stores do: once, for the next request of a kind."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONDITIONS = ("if-match", "if-none-match")
HOP = ("connection", "transfer-encoding", "content-length", "expect", "date", "server", "host")


@dataclass(frozen=True)
class Fault:
    """What happens to a request: `answer` in the store's stead, or the store's own reply late, lost, or unconditional.

    `delay_s` comes before the request is passed on; `swallow` drops the reply after the store has acted.
    """

    answer: tuple[int, str, bytes] | None = None
    echo: bool = False
    raw: bytes | None = None
    delay_s: float = 0.0
    swallow: bool = False
    unconditional: bool = False
    dribble_s: float = 0.0


@dataclass
class Proxy:
    """The running proxy: `fail` plants a fault for the next requests with a method (PUT stands for POST too)."""

    url: str
    upstream: str
    faults: dict[str, list[Fault]] = field(default_factory=lambda: {"GET": [], "PUT": []})
    seen: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, method: str, fault: Fault, times: int = 1) -> None:
        self.faults[method] += [fault] * times

    def clear(self) -> None:
        for planted in self.faults.values():
            planted.clear()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy in front of `upstream` on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            running.seen.append((self.command, self.path))
            planted = running.faults["GET" if self.command == "GET" else "PUT"]
            fault = planted.pop(0) if planted else Fault()
            # The time that a network or a store takes: there is nothing to wait for.
            time.sleep(fault.delay_s)
            if fault.raw is not None:
                self.wfile.write(fault.raw)
                self.close_connection = True
                return
            if fault.echo:
                told = "".join(f"{key}: {value}\n" for key, value in self.headers.items()).encode()
                self.reply(403, {"Content-Type": "text/plain"}, told + body)
                return
            if fault.answer is not None:
                status, kind, text = fault.answer
                self.reply(status, {"Content-Type": kind, "ETag": '"page"'}, text)
                return
            status, headers, data = self.ask(body, fault)
            if fault.swallow:
                self.close_connection = True
                return
            self.reply(status, headers, data, fault.dribble_s)

        def ask(self, body: bytes, fault: Fault) -> tuple[int, dict[str, str], bytes]:
            headers = {key: value for key, value in self.headers.items() if key.lower() not in HOP}
            path = self.path
            if fault.unconditional:
                headers = {key: value for key, value in headers.items() if key.lower() not in CONDITIONS}
                parts = urllib.parse.urlsplit(path)
                query = [it for it in urllib.parse.parse_qsl(parts.query) if it[0] != "ifGenerationMatch"]
                path = parts._replace(query=urllib.parse.urlencode(query)).geturl()
                if path.startswith("/v1/locks/"):
                    # The reference store knows no write without a condition: it gets one that holds.
                    tag = self.ask_store("GET", path, b"", {})[1].get("ETag")
                    headers |= {"If-Match": tag} if tag else {"If-None-Match": "*"}
            return self.ask_store(self.command, path, body, headers)

        def ask_store(
            self, method: str, path: str, body: bytes, headers: dict[str, str]
        ) -> tuple[int, dict[str, str], bytes]:
            place = urllib.parse.urlsplit(upstream)
            connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=10)
            try:
                connection.request(method, path, body, {**headers, "Connection": "close"})
                answer = connection.getresponse()
                kept = {key: value for key, value in answer.getheaders() if key.lower() not in HOP}
                return answer.status, kept, answer.read()
            finally:
                connection.close()

        def reply(self, status: int, headers: dict[str, str], data: bytes, dribble_s: float = 0.0) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for at in range(len(data)) if dribble_s else ():
                self.wfile.write(data[at : at + 1])
                time.sleep(dribble_s)  # each byte just before a socket's own time limit
            if not dribble_s:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        do_GET = do_PUT = do_POST = pass_on

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        running = Proxy(url, upstream)
        yield running


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server in a thread of this process; yield its address."""
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that hung up is what is tested here
    with in_thread(lambda: server.serve_forever(poll_interval=0.01), server.shutdown):
        yield f"http://127.0.0.1:{server.server_address[1]}"
    server.server_close()


@contextmanager
def in_thread(run: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    """Run something in a thread until the end of the block."""
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()
