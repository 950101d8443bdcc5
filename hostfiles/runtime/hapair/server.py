"""The agent's socket: one JSON line asks, JSON lines answer; the last one has "done": true.

Asked by `r0`, `hapair status|leave` and the fence-peer handler. Each connection has a thread; the fence-peer question
is answered in it, because the control lane may be waiting for the kernel, which waits for the handler.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Iterator

from hapair import fence_peer
from hapair.memory import Wish
from hapair.states import Role, Times

if TYPE_CHECKING:
    from hapair.agent import Agent

REQUEST_BYTES = 4096
REQUEST_LIMIT_S = 2.0
STATUS_LIMIT_S = 10.0
HANDLER_MARGIN_S = 0.2
"""The handler's own deadline ends this much later than the attempts that the agent makes for it."""


class Request:
    """A wish for one or more resources, and the way back to whoever asked.

    `anyway`: a person insists on it, although the nodes' LXD, liblxc or id maps are not alike (F11).
    """

    def __init__(self, wish: Wish, resources: tuple[str, ...], limit_s: float, *, anyway: bool = False) -> None:
        self.wish, self.resources, self.limit_s, self.anyway = wish, resources, limit_s, anyway
        self.due = time.monotonic() + limit_s
        self._replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self._open = set(resources)
        self._ok = True
        self._texts: list[str] = []
        self._said: set[str] = set()

    @classmethod
    def quiet(cls, wish: Wish, resources: tuple[str, ...]) -> Request:
        """Return a wish that nobody listens to and that never gives up."""
        return cls(wish, resources, 1e9)

    def progress(self, text: str) -> None:
        """Say what is done or waited for, each text once: what is tried again and again would repeat two in turn."""
        if text and text not in self._said:
            self._said.add(text)
            self._replies.put({"waiting": text})

    def finish(self, resource: str, *, ok: bool, text: str) -> None:
        """End it for one resource; the last one ends the request."""
        self._open.discard(resource)
        self._ok = self._ok and ok
        self._texts.append(text)
        if not self._open:
            self._replies.put({"done": True, "ok": self._ok, "text": "; ".join(self._texts)})

    def replies(self) -> Iterator[dict[str, Any]]:
        """Yield what is said, until it is done."""
        while True:
            reply = self._replies.get()
            yield reply
            if reply.get("done"):
                return


def limit_of(wish: Wish, times: Times) -> float:
    """Return how long a wish may take, in seconds: the sum of the bounded steps that it can need."""
    if wish is Wish.PRIMARY:
        return times.grace_s + times.start_s + 20.0
    return 2 * times.stop_s + 30.0


class Server(threading.Thread):
    """Accepts connections on a UNIX socket that only root can open."""

    def __init__(self, path: Path, agent: Agent) -> None:
        super().__init__(name="requests", daemon=True)
        self._path, self._agent = path, agent
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        fresh = path.with_name(".new.sock")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(fresh))
        self._socket.listen(16)
        # Whoever finds the socket under its name finds somebody who listens.
        fresh.replace(path)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def run(self) -> None:
        """Accept until the socket is closed."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), name="request", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(REQUEST_LIMIT_S)
            asked = _one_line(connection)
            connection.settimeout(None)
            for reply in self._answers(asked):
                connection.sendall(json.dumps(reply).encode() + b"\n")

    def _answers(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        op, resource = asked.get("op"), asked.get("resource")
        if op == "status":
            yield self._status()
        elif op == "leave":
            yield from self._wish(Wish.LEAVE, tuple(self._agent.units))
        elif resource not in self._agent.units:
            yield {"done": True, "ok": False, "text": f"no such resource: {resource!r}"}
        elif op == "fence-peer":
            yield self._fence_peer(str(resource))
        elif op in (Wish.PRIMARY.value, Wish.SECONDARY.value, Wish.SUSPEND.value):
            yield from self._by_hand(Wish(op), str(resource), anyway=asked.get("anyway") is True)
        else:
            yield {"done": True, "ok": False, "text": f"no such request: {op!r}"}

    def _by_hand(self, wish: Wish, resource: str, *, anyway: bool) -> Iterator[dict[str, Any]]:
        """F11. A switchover to a node that could not go on with the service is refused before anything is stopped."""
        unit = self._agent.units[resource]
        kernel = unit.kernel
        moves = kernel is not None and kernel.role is Role.PRIMARY and kernel.connected
        if wish is Wish.SECONDARY and moves and not anyway:
            why = unit.alike.objection()
            if why:
                self._agent.log.add(resource, rule="F11", action=wish.value, outcome="refused", why=why)
                cure = f"nothing was stopped; make them alike, or `{resource} {wish.value} --anyway`"
                yield {"done": True, "ok": False, "text": f"{resource}: F11 {why}; {cure}"}
                return
        yield from self._wish(wish, (resource,), anyway=anyway)

    def _wish(self, wish: Wish, resources: tuple[str, ...], *, anyway: bool = False) -> Iterator[dict[str, Any]]:
        times = self._agent.units[resources[0]].site.times
        request = Request(wish, resources, limit_of(wish, times), anyway=anyway)
        self._agent.post(lambda: self._agent.request(request))
        yield from request.replies()

    def _status(self) -> dict[str, Any]:
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._agent.post(lambda: answer.put(self._agent.status()))
        try:
            return {"done": True, "ok": True, "status": answer.get(timeout=STATUS_LIMIT_S)}
        except queue.Empty:
            return {"done": True, "ok": False, "text": "the agent does not answer"}

    def _fence_peer(self, resource: str) -> dict[str, Any]:
        """Decide for the kernel, in this thread; the deciding thread finds the note in /run afterwards."""
        unit = self._agent.units[resource]
        began = time.monotonic()
        until = began + unit.site.times.selffence_s - HANDLER_MARGIN_S
        code, text = fence_peer.decide(
            unit.fence, unit.guards, until, lambda rule, why: self._agent.remover.remove(resource, rule, why)
        )
        took_s = time.monotonic() - began
        self._agent.log.add(resource, rule="F1", action="fence-peer", outcome=f"exit {code}", why=text, took_s=took_s)
        self._agent.post(lambda: None)
        return {"exit": code, "done": True, "text": text}


def _one_line(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while b"\n" not in data and len(data) < REQUEST_BYTES:
        more = connection.recv(REQUEST_BYTES)
        if not more:
            break
        data += more
    try:
        asked = json.loads(data)
    except ValueError:
        asked = None
    return asked if isinstance(asked, dict) else {}


def ask(path: Path, question: dict[str, Any], limit_s: float) -> Iterator[dict[str, Any]]:
    """Ask the agent and yield its answers.

    Raises:
        OSError: no agent listens, or it said nothing for `limit_s`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(limit_s)
        connection.connect(str(path))
        connection.sendall(json.dumps(question).encode() + b"\n")
        with connection.makefile("rb") as lines:
            for line in lines:
                yield json.loads(line)
