"""Calls with no time limit of their own, a name that nobody resolves before all."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hapair.fence.base import Found, Written
from hapair.fence.bounded import Late, left_s, within
from hapair.fence.http import HttpStore


def test_what_a_call_returns_and_raises() -> None:
    assert within(5.0, lambda: 7) == 7
    assert within(5.0, lambda: None) is None
    with pytest.raises(KeyError, match="x"):
        within(5.0, lambda: dict[str, int]()["x"])
    assert 4.0 < within(5.0, left_s) <= 5.0


def test_a_call_that_is_late_learns_it() -> None:
    go, told = threading.Event(), threading.Event()

    def call() -> None:
        go.wait(5)
        try:
            left_s()
        except Late:
            told.set()

    with pytest.raises(Late, match=r"no answer within 0\.05 s"):
        within(0.05, call)
    go.set()
    assert told.wait(5)


def test_a_name_that_is_found_too_late_sends_nothing(store_url: str, tmp_path: Path, monkeypatch: Any) -> None:
    """The lookup cannot be ended; but what it was for must not happen once the answer was given up."""
    go, looked = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(*given: Any, **more: Any) -> Any:
        go.wait(5)
        try:
            return real(*given, **more)
        finally:
            looked.set()

    client = HttpStore(store_url)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    before = set(threading.enumerate())
    began = time.monotonic()
    assert client.write("a", b"{}", None, 0.1).written is Written.UNCLEAR
    assert time.monotonic() - began < 1.0
    workers = [it for it in threading.enumerate() if it not in before and it.name == "fence-store"]
    assert workers
    go.set()
    assert looked.wait(5)
    for worker in workers:
        worker.join(5)
    monkeypatch.undo()
    assert client.read("a", 5.0).found is Found.MISSING
    log = tmp_path / "store/requests.jsonl"
    assert "PUT" not in log.read_text()
