"""Faults of the fence store, made by the proxy in front of it: placed, healed and noted like all others.

The node of such a fault is the one that suffers; "store" when every node does.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from functools import partial

from lab.errors import HapairError
from lab.providers.base import Lab
from lab.scenario.faults import placed
from lab.scenario.history import History
from lab.scenario.place import Place

PROXY = "/usr/lib/hapair-lab/proxy.py"
WAIT_S = 20.0  # until a fault has hit somebody
ANSWER_S = 10.0
LOGIN = "<html><body><form action=/login>Please log in</form></body></html>"
Fault = AbstractContextManager[None]


class StoreFaults:
    """What can be wrong with the store; with `node`, only for that one."""

    def __init__(self, lab: Lab, history: History, place: Place) -> None:
        self._third, self._history = lab.nodes["third"], history
        self._address_of = {node: address for address, node in place.clients.items()}

    def unreachable(self, node: str = "") -> Fault:
        """No request is answered, and none reaches the store."""
        return self._fault("unreachable", node, act="silence")

    def slow(self, delay_s: float, node: str = "") -> Fault:
        """Every request is passed on late."""
        return self._fault("slow", node, act="delay", delay_s=delay_s)

    def answers(self, status: int, node: str = "") -> Fault:
        """Every request gets this status at once; 404: the object was deleted."""
        return self._fault(f"answers_{status}", node, act="status", status=status)

    def says(self, name: str, body: str, tag: str = "", node: str = "") -> Fault:
        """Every request gets 200 and this body; with a `tag` it looks like an object."""
        return self._fault(name, node, act="body", body=body, tag=tag)

    def garbage(self, node: str = "") -> Fault:
        """The object is no lock."""
        return self.says("garbage", '{"version": 1, "state": "SOLO"', '"0"', node)

    def login_page(self, node: str = "") -> Fault:
        """Something between node and store wants a password."""
        return self.says("login_page", LOGIN, node=node)

    def other_lock(self, owner: str, node: str = "") -> Fault:
        """The object is the lock of another resource, free for the taking; `owner` is a uuid."""
        fields = {"version": 1, "resource": "other", "state": "SHARED", "owner": owner, "writer": owner}
        return self.says("other_lock", json.dumps({**fields, "epoch": 1000, "attempt_id": "x"}), '"1"', node)

    def loses_reply(self, node: str) -> Fault:
        """The next write of that node is committed, and its sender never hears of it."""
        return self._fault("loses_reply", node, act="swallow", methods=["PUT"], count=1)

    def forgets_writes(self, node: str = "") -> Fault:
        """A write is answered as if it had been done."""
        return self._fault("forgets_writes", node, act="status", status=200, methods=["PUT"])

    def holds_release(self, node: str, *, unconditional: bool = False) -> Fault:
        """The next release of that node is held, and reaches the store when the fault ends, whatever came in between.

        With `unconditional` it then lands whatever version is in force, as in a store that ignores conditions.
        """
        act = "hold_unconditional" if unconditional else "hold"
        return self._fault("holds_release", node, act=act, methods=["PUT"], state="SHARED", count=1)

    def wait_hit(self, name: str, count: int = 1, limit_s: float = WAIT_S) -> None:
        """Wait until the fault called `name` has hit that many requests.

        Raises:
            HapairError: it did not, in its bound.
        """
        question: dict[str, object] = {"op": "wait", "name": name, "count": count, "limit_s": limit_s}
        self._ask(question, limit_s + ANSWER_S)

    def heal(self) -> None:
        """End every fault of the store."""
        self._ask({"op": "clear"}, ANSWER_S)

    def _fault(self, name: str, node: str, **how: object) -> Fault:
        clients = [self._address_of[node]] if node else []
        put = partial(self._ask, {"op": "rule", "name": name, "clients": clients, **how}, ANSWER_S)
        heal = partial(self._ask, {"op": "clear", "name": name}, ANSWER_S)
        return placed(self._history, f"store_{name}", node or "store", put, heal)

    def _ask(self, question: dict[str, object], limit_s: float) -> None:
        done = self._third.run(["python3", PROXY, "ask", json.dumps(question)], limit_s=limit_s, check=False)
        if done.code:
            raise HapairError(f"the store's proxy: {done.text or done.stderr.decode(errors='replace').strip()}")
