#!/usr/bin/python3
"""The third node's proxy in front of the fence store: passes every request on, tells all of them, and fails on demand.

    proxy.py serve --listen ADDR:PORT --store ADDR:PORT     until killed
    proxy.py ask JSON                                       one question to the running proxy; prints its answer

Questions, one JSON object each, answered by one:
  {"op": "rule", "name": …, "act": …, …}    add a fault (see `Rule`), or replace the one of that name
  {"op": "clear", "name"?}                  end that fault, or all; what it held goes on
  {"op": "wait", "name", "count"?, "limit_s"?}   answer when the fault has hit that many requests (default 1)
  {"op": "state"}                           {"rules": {name: requests hit}}

LOG gets one JSON line a request when it has ended: who asked for what, what the store said, what the client was told.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import socketserver
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONTROL = "/run/hapair-store-proxy.sock"
LOG = "/run/hapair-store-proxy.jsonl"
LARGEST_BYTES = 1 << 20
STORE_LIMIT_S = 10.0
HELD_LIMIT_S = 600.0  # longer than any scenario; what is held is let go when its fault ends
QUESTION_LIMIT_S = 30.0
ACTS = ("delay", "status", "body", "swallow", "silence", "hold", "hold_unconditional")
HOP = ("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server")

Fields = dict[str, Any]


@dataclass
class Rule:
    """One fault: which requests it hits, and what becomes of them.

    Attributes:
        act: delay (wait `delay_s`, then pass on), status (answer `status`, the store hears nothing), body (answer 200
            with `body` and `tag`, the store hears nothing), swallow (the store gets it, the client no answer), silence
            (nobody hears anything), hold (wait until the fault ends, then pass on, even if the client has left),
            hold_unconditional (the same, with the tag then in force, as if the store ignored conditions).
        clients: addresses; empty: everybody but this machine itself.
        methods: empty: all.
        state: only writes of a lock in this state; empty: all requests.
        count: only the first so many; 0: no end.
    """

    name: str
    act: str
    clients: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    state: str = ""
    count: int = 0
    delay_s: float = 0.0
    status: int = 503
    body: str = ""
    tag: str = ""
    hits: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        if self.act not in ACTS:
            raise ValueError(f"act {self.act!r}: one of {', '.join(ACTS)}")

    def wants(self, client: str, method: str, asked: Fields | None, own: str) -> bool:
        """True when this request is to be hit."""
        return (
            (client in self.clients if self.clients else client not in (own, "127.0.0.1"))
            and (not self.methods or method in self.methods)
            and (not self.state or (asked or {}).get("state") == self.state)
            and (not self.count or self.hits < self.count)
        )


class Rules:
    """The faults in force; every change wakes whoever waits for one."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._changed = threading.Condition()

    def take(self, client: str, method: str, asked: Fields | None, own: str) -> Rule | None:
        """Return the fault that hits this request, counted, or None."""
        with self._changed:
            for rule in self._rules.values():
                if rule.wants(client, method, asked, own):
                    rule.hits += 1
                    self._changed.notify_all()
                    return rule
        return None

    def wait_end(self, rule: Rule, limit_s: float) -> bool:
        """Wait until a fault has ended; False when the time is up first."""
        with self._changed:
            return self._changed.wait_for(lambda: rule.ended, limit_s)

    def answer(self, question: Fields) -> Fields:
        """Do what is asked and return the answer."""
        op = question.pop("op", "")
        with self._changed:
            if op == "rule":
                rule = Rule(**question)
                self._end(rule.name)
                self._rules[rule.name] = rule
            elif op == "clear":
                for name in [question["name"]] if "name" in question else list(self._rules):
                    self._end(name)
            elif op == "wait":
                name, count = str(question["name"]), int(question.get("count", 1))
                limit_s = float(question.get("limit_s", QUESTION_LIMIT_S))
                if not self._changed.wait_for(lambda: self._hits(name) >= count, limit_s):
                    return {"error": f"{name} hit {self._hits(name)} requests in {limit_s:g} s, not {count}"}
            elif op != "state":
                return {"error": f"no such question: {op!r}"}
            return {"rules": {name: rule.hits for name, rule in self._rules.items()}}

    def _hits(self, name: str) -> int:
        return self._rules[name].hits if name in self._rules else 0

    def _end(self, name: str) -> None:
        rule = self._rules.pop(name, None)
        if rule is not None:
            rule.ended = True
            self._changed.notify_all()


class Log:
    """One line a request."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._one_at_a_time = threading.Lock()

    def add(self, **fields: object) -> None:
        """Write a line; it happened now."""
        with self._one_at_a_time, self._path.open("a") as log:
            log.write(json.dumps({"t": time.time(), **fields}) + "\n")


def essence(body: bytes) -> Fields | None:
    """Return what tells one version of a lock from another; None when it is none."""
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    if not isinstance(fields, dict) or "epoch" not in fields:
        return None
    return {key: fields[key] for key in ("state", "owner", "epoch", "writer", "attempt_id") if key in fields}


@dataclass
class Answer:
    """What the client is told; status 0: nothing."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


class Handler(BaseHTTPRequestHandler):
    """One request of one client; the server carries the rest."""

    protocol_version = "HTTP/1.1"
    server_version = "hapair-store-proxy/1"
    server: Proxy

    def do_GET(self) -> None:
        """Pass a request on, unless a fault hits it."""
        came = time.time()
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > LARGEST_BYTES:
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        client, asked = str(self.client_address[0]), essence(body)
        own = str(self.server.server_address[0])
        rule = self.server.rules.take(client, self.command, asked, own)
        answer, stored = self._hit(rule, body)
        if answer.status and self._has_left():
            answer = Answer(0)
        told = essence(answer.body) or (asked if 200 <= answer.status < 300 else None)
        self.server.log.add(
            came=came,
            client=client,
            method=self.command,
            name=self.path.rpartition("/")[2],
            rule=rule.name if rule else "",
            asked=asked,
            store=stored,
            status=answer.status,
            told=told,
        )
        self._tell(answer)

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: LOG tells more."""

    def _hit(self, rule: Rule | None, body: bytes) -> tuple[Answer, int]:
        """Return what the client is told, and the status that the store answered (0: it was not asked)."""
        act = rule.act if rule else ""
        if rule and act == "status":
            return Answer(rule.status, [("Content-Type", "text/plain")], b"planted\n"), 0
        if rule and act == "body":
            headers = [("Content-Type", "application/json" if rule.tag else "text/html")]
            return Answer(200, headers + ([("ETag", rule.tag)] if rule.tag else []), rule.body.encode()), 0
        if rule and act == "silence":
            self._until_left()
            return Answer(0), 0
        if rule and act == "delay":
            time.sleep(rule.delay_s)  # the fault itself
        if rule and act.startswith("hold"):
            self.server.rules.wait_end(rule, HELD_LIMIT_S)
        if act == "hold_unconditional":
            self._take_tag_in_force()
        answer = self._ask_store(body)
        return (Answer(0), answer.status) if act == "swallow" else (answer, answer.status)

    def _ask_store(self, body: bytes) -> Answer:
        host, port = self.server.store
        connection = http.client.HTTPConnection(host, port, timeout=STORE_LIMIT_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        try:
            connection.request(self.command, self.path, body or None, {**headers, "Connection": "close"})
            response = connection.getresponse()
            kept = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP]
            return Answer(response.status, kept, response.read(LARGEST_BYTES))
        except (OSError, http.client.HTTPException):
            return Answer(502)
        finally:
            connection.close()

    def _take_tag_in_force(self) -> None:
        """Let the condition of this write be met, whatever the store holds."""
        host, port = self.server.store
        connection = http.client.HTTPConnection(host, port, timeout=STORE_LIMIT_S)
        try:
            connection.request("GET", self.path, headers={"Connection": "close"})
            tag = connection.getresponse().getheader("ETag", "")
            self.headers.replace_header("If-Match", tag)
        finally:
            connection.close()

    def _has_left(self) -> bool:
        """True when the client has hung up: whatever it is told now, it does not hear."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _until_left(self) -> None:
        """Wait until the client gives up."""
        self.connection.settimeout(HELD_LIMIT_S)
        try:
            self.connection.recv(1)
        except OSError:
            return

    def _tell(self, answer: Answer) -> None:
        if not answer.status:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


class Proxy(ThreadingHTTPServer):
    """The listening half."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], store: tuple[str, int], rules: Rules, log: Log) -> None:
        super().__init__(address, Handler)
        self.store, self.rules, self.log = store, rules, log

    def handle_error(self, request: object, client_address: object) -> None:
        """Forget a broken connection."""


class Control(socketserver.ThreadingUnixStreamServer):
    """Takes questions on a UNIX socket."""

    daemon_threads = True

    def __init__(self, path: str, rules: Rules) -> None:
        Path(path).unlink(missing_ok=True)
        super().__init__(path, Question)
        self.rules = rules


class Question(socketserver.StreamRequestHandler):
    """One question and its answer."""

    server: Control

    def handle(self) -> None:
        """Answer it; what makes no sense gets an error."""
        try:
            answer = self.server.rules.answer(json.loads(self.rfile.readline()))
        except (ValueError, TypeError, KeyError, AttributeError) as bad:
            answer = {"error": f"{type(bad).__name__}: {bad}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def ask(path: str, question: str) -> Fields:
    """Return the proxy's answer; raises OSError when none runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(path)
        line.sendall(question.replace("\n", " ").encode() + b"\n")
        with line.makefile("rb") as lines:
            answer: Fields = json.loads(lines.readline())
            return answer


def place(text: str) -> tuple[str, int]:
    """Read ADDR:PORT."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def main(argv: list[str]) -> int:
    """Serve or ask."""
    parser = argparse.ArgumentParser(description="a proxy in front of the fence store that fails on demand")
    parser.add_argument("--control", default=CONTROL)
    modes = parser.add_subparsers(dest="mode", required=True)
    serving = modes.add_parser("serve")
    serving.add_argument("--listen", type=place, required=True)
    serving.add_argument("--store", type=place, required=True)
    serving.add_argument("--log", default=LOG)
    modes.add_parser("ask").add_argument("question")
    options = parser.parse_args(argv)
    if options.mode == "ask":
        answer = ask(options.control, options.question)
        sys.stdout.write(json.dumps(answer) + "\n")
        return 1 if "error" in answer else 0
    os.umask(0o077)
    rules = Rules()
    control = Control(options.control, rules)
    threading.Thread(target=control.serve_forever, daemon=True).start()
    Proxy(options.listen, options.store, rules, Log(options.log)).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
