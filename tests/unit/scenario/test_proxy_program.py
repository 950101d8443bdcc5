"""The store's proxy against a real store on 127.0.0.1: what passes, what each fault does, and what the log tells."""

from __future__ import annotations

import http.client
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hapair import store

from lab.paths import PROJECT

PAGE = "/v1/locks/example-r0"


class Rig:
    """A store, the proxy before it, and a client. The client's address is the proxy's own, so rules must name it."""

    def __init__(self, program: ModuleType, folder: Path) -> None:
        self.program, self.log = program, folder / "log.jsonl"
        self.store = store.serve("127.0.0.1", 0, folder / "store")
        self.rules = program.Rules()
        place = ("127.0.0.1", self.store.server_port)
        self.proxy = program.Proxy(("127.0.0.1", 0), place, self.rules, program.Log(str(self.log)))
        self.control = program.Control(str(folder / "control.sock"), self.rules)
        self.control_path = str(folder / "control.sock")
        self.servers = (self.store, self.proxy, self.control)
        self.threads = [threading.Thread(target=one.serve_forever, args=(0.01,)) for one in self.servers]
        for thread in self.threads:
            thread.start()
        self.pool = ThreadPoolExecutor(4)

    def close(self) -> None:
        self.rules.answer({"op": "clear"})
        self.pool.shutdown()
        for server in self.servers:
            server.shutdown()
            server.server_close()
        for thread in self.threads:
            thread.join()

    def ask(self, **question: object) -> dict[str, Any]:
        answer: dict[str, Any] = self.program.ask(self.control_path, json.dumps(question))
        return answer

    def fault(self, act: str, **more: object) -> None:
        assert "error" not in self.ask(op="rule", name="planted", act=act, clients=["127.0.0.1"], **more)

    def request(self, method: str, body: str = "", limit_s: float = 5.0, **headers: str) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.server_port, timeout=limit_s)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, PAGE, body or None, {**given, "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.getheader("ETag", ""), answer.read().decode()
        finally:
            connection.close()

    def put(self, epoch: int, state: str = "SHARED", tag: str = "", limit_s: float = 5.0) -> tuple[int, str, str]:
        condition = {"If_Match": tag} if tag else {"If_None_Match": "*"}
        return self.request("PUT", record(epoch, state), limit_s, **condition)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def record(epoch: int, state: str = "SHARED") -> str:
    return json.dumps({"state": state, "owner": "a", "writer": "a", "epoch": epoch, "attempt_id": f"x{epoch}"})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    spec = importlib.util.spec_from_file_location("lab_proxy_program", PROJECT / "hostfiles" / "lab" / "proxy.py")
    assert spec
    assert spec.loader
    program = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = program  # dataclasses look there
    spec.loader.exec_module(program)
    made = Rig(program, tmp_path)
    yield made
    made.close()


def test_passes_requests_conditions_and_tags_on(rig: Rig) -> None:
    status, tag, _ = rig.put(1)
    assert status == 201
    assert rig.request("GET") == (200, tag, record(1))
    assert rig.put(2)[0] == 412
    assert rig.put(2, tag=tag)[0] == 200


def test_tells_what_the_store_said_and_what_the_client_was_told(rig: Rig) -> None:
    _, tag, _ = rig.put(1)
    rig.request("GET")
    rig.put(2)
    put, get, conflict = rig.logged()
    assert (put["method"], put["store"], put["status"], put["told"]["epoch"]) == ("PUT", 201, 201, 1)
    assert (get["method"], get["name"], get["told"]["attempt_id"]) == ("GET", "example-r0", "x1")
    assert (conflict["status"], conflict["told"], conflict["asked"]["epoch"]) == (412, None, 2)
    assert put["came"] <= put["t"]
    assert tag


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_an_error_never_reaches_the_store(rig: Rig, status: int) -> None:
    rig.fault("status", status=status)
    assert rig.put(1)[0] == status
    rig.ask(op="clear", name="planted")
    assert rig.request("GET")[0] == 404
    assert rig.logged()[0]["store"] == 0


def test_garbage_with_a_tag_and_a_login_page_without(rig: Rig) -> None:
    rig.fault("body", body="{", tag='"x"')
    assert rig.request("GET") == (200, '"x"', "{")
    rig.fault("body", body="<html>log in</html>")
    assert rig.request("GET") == (200, "", "<html>log in</html>")


def test_a_swallowed_reply_comes_after_the_commit(rig: Rig) -> None:
    rig.fault("swallow", methods=["PUT"], count=1)
    with pytest.raises(http.client.RemoteDisconnected):
        rig.put(1)
    assert json.loads(rig.request("GET")[2])["attempt_id"] == "x1"
    lost = rig.logged()[0]
    assert (lost["store"], lost["status"], lost["told"]) == (201, 0, None)


def test_a_held_release_lands_when_the_fault_ends_even_if_its_sender_has_left(rig: Rig) -> None:
    _, tag, _ = rig.put(1, "SOLO")
    rig.fault("hold", methods=["PUT"], state="SHARED", count=1)
    gone: Future[tuple[int, str, str]] = rig.pool.submit(rig.put, 2, "SHARED", tag, 0.2)
    assert "error" not in rig.ask(op="wait", name="planted", limit_s=5)
    with pytest.raises(TimeoutError):
        gone.result()
    assert rig.put(2, "SOLO", tag)[0] == 200  # a new fence passes meanwhile
    rig.ask(op="clear", name="planted")
    rig.pool.shutdown(wait=True)
    assert json.loads(rig.request("GET")[2])["state"] == "SOLO"


def test_a_store_that_ignores_conditions_lets_the_late_release_land(rig: Rig) -> None:
    _, tag, _ = rig.put(1, "SOLO")
    rig.fault("hold_unconditional", methods=["PUT"], state="SHARED", count=1)
    late = rig.pool.submit(rig.put, 2, "SHARED", tag)
    rig.ask(op="wait", name="planted", limit_s=5)
    assert rig.put(2, "SOLO", tag)[0] == 200
    rig.ask(op="clear", name="planted")
    assert late.result()[0] == 200
    assert json.loads(rig.request("GET")[2])["state"] == "SHARED"


def test_silence_lasts_until_the_client_leaves(rig: Rig) -> None:
    rig.fault("silence")
    with pytest.raises(TimeoutError):
        rig.request("GET", limit_s=0.2)


def test_a_slow_store_is_answered_late(rig: Rig) -> None:
    rig.put(1)
    rig.fault("delay", delay_s=0.3)
    with pytest.raises(TimeoutError):
        rig.request("GET", limit_s=0.1)
    assert rig.request("GET")[0] == 200
    assert rig.logged()[-1]["t"] - rig.logged()[-1]["came"] >= 0.3


def test_others_are_not_hit(rig: Rig) -> None:
    rig.ask(op="rule", name="other", act="silence", clients=["192.0.2.11"])
    rig.ask(op="rule", name="all", act="status", status=500)  # everybody but the machine itself
    assert rig.put(1)[0] == 201
    assert rig.ask(op="state") == {"rules": {"other": 0, "all": 0}}


@pytest.mark.parametrize("question", [{"op": "x"}, {"op": "rule", "name": "y", "act": "burn"}, {"op": "rule"}, {}])
def test_a_question_that_makes_no_sense(rig: Rig, question: dict[str, object]) -> None:
    assert "error" in rig.ask(**question)


def test_waiting_for_a_fault_that_hits_nobody_ends(rig: Rig) -> None:
    assert "hit 0 requests" in rig.ask(op="wait", name="none", limit_s=0.05)["error"]
