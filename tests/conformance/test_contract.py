"""The contract of `fence/base.py`, held by every backend against a real store, by way of a network that fails."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from pathlib import Path

import pytest
from hapair import lock
from hapair.fence import probe
from hapair.fence.base import Found, Written
from hapair.fence.site import open_store
from hapair.fencing import Fence, Held, no_guard
from hapair.lock import LockRecord, LockState
from hapair.paths import Paths

from .conftest import LIMIT_S, SECRET, Place
from .proxy import Fault

PAGE = b"<html><body>Please log in</body></html>"


def fresh() -> str:
    return f"example-{uuid.uuid4().hex[:12]}"


def fence(place: Place, node: str, name: str, root: Path, *, direct: bool = False) -> Fence:
    """The lock of r0 as one of the two nodes sees it."""
    other = {"n1": "n2", "n2": "n1"}[node]
    return Fence(
        resource="r0",
        name=name,
        me=f"uuid-{node}",
        peer=f"uuid-{other}",
        backend=place.client(direct=direct),
        paths=Paths(root / node),
        timeout_s=LIMIT_S,
    )


def test_create_once_and_compare_and_set(place: Place) -> None:
    client, name = place.client(), fresh()
    assert client.read(name, LIMIT_S).found is Found.MISSING
    assert client.write(name, b'{"a": 1}', None, LIMIT_S).written is Written.YES
    assert client.write(name, b'{"a": 2}', None, LIMIT_S).written is Written.CONFLICT
    first = client.read(name, LIMIT_S)
    assert (first.found, first.body) == (Found.OBJECT, b'{"a": 1}')
    assert client.write(name, b'{"a": 3}', first.tag, LIMIT_S).written is Written.YES
    assert client.write(name, b'{"a": 4}', first.tag, LIMIT_S).written is Written.CONFLICT
    second = client.read(name, LIMIT_S)
    assert second.body == b'{"a": 3}'
    assert second.tag != first.tag


def test_a_write_on_a_version_of_nothing_fails(place: Place) -> None:
    other, name = fresh(), fresh()
    client = place.client()
    client.write(other, b"{}", None, LIMIT_S)
    tag = client.read(other, LIMIT_S).tag
    assert client.write(name, b"{}", tag, LIMIT_S).written is not Written.YES
    assert client.read(name, LIMIT_S).found is Found.MISSING


def test_the_probe_finds_a_good_store_good(place: Place) -> None:
    name = fresh()
    assert [probe.conditions_hold(place.client(), name, LIMIT_S) for _ in range(2)] == ["", ""]


@pytest.mark.parametrize("honoured", [0, 1, 2, 3])
def test_the_probe_refuses_a_store_that_ignores_conditions(place: Place, honoured: int) -> None:
    """From the first write on, or only on replaced versions (the fourth write of the probe)."""
    place.proxy.fail("PUT", Fault(), times=honoured)
    place.proxy.fail("PUT", Fault(unconditional=True), times=9)
    wrong = probe.conditions_hold(place.client(), fresh(), LIMIT_S)
    assert "ignores conditions" in wrong


def test_a_lost_reply_is_recognised_as_own_success(place: Place, tmp_path: Path) -> None:
    made = fence(place, "n1", fresh(), tmp_path)
    place.proxy.fail("PUT", Fault(swallow=True))
    assert made.create(no_guard).held is Held.HELD
    place.proxy.fail("PUT", Fault(swallow=True))
    taken = made.take()
    assert taken.held is Held.HELD, taken
    assert taken.record is not None
    assert (taken.record.state, taken.record.epoch) == (LockState.SOLO, 2)
    assert len([it for it in place.proxy.seen[-4:] if it[0] != "GET"]) == 1, (
        "a write whose reply was lost is not sent again"
    )


def test_a_lost_reply_of_a_loser_is_no_success(place: Place, tmp_path: Path) -> None:
    name = fresh()
    mine, other = fence(place, "n1", name, tmp_path), fence(place, "n2", name, tmp_path, direct=True)
    mine.create(no_guard)
    place.proxy.fail("GET", Fault())
    place.proxy.fail("PUT", Fault(swallow=True, delay_s=0.4))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(mine.take()))
    thread.start()
    while not place.proxy.seen or place.proxy.seen[-1][0] == "GET":
        time.sleep(0.005)  # until the write is under way; the proxy tells by a list
    assert other.take().held is Held.HELD
    thread.join()
    assert answers[0].held is not Held.HELD


def test_a_delay_beyond_the_limit_is_unclear_and_ends_in_time(place: Place) -> None:
    client, name = place.client(timeout_s=0.5), fresh()
    place.client(direct=True).write(name, b"{}", None, LIMIT_S)
    tag = place.client(direct=True).read(name, LIMIT_S).tag
    for method in ("GET", "PUT"):
        place.proxy.fail(method, Fault(delay_s=1.0))
    began = time.monotonic()
    assert client.read(name, 0.3).found is Found.UNAVAILABLE
    assert client.write(name, b'{"a": 1}', tag, 0.3).written is Written.UNCLEAR
    assert time.monotonic() - began < 0.95


def test_a_server_that_dribbles_is_given_up_in_time(place: Place) -> None:
    client, name = place.client(timeout_s=0.5), fresh()
    place.client(direct=True).write(name, b'{"a": "%s"}' % (b"x" * 90), None, LIMIT_S)
    place.proxy.fail("GET", Fault(dribble_s=0.05))
    began = time.monotonic()
    assert client.read(name, 0.5).found is Found.UNAVAILABLE
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503, 504])
def test_no_other_answer_is_a_success(place: Place, status: int) -> None:
    client, name = place.client(), fresh()
    place.client(direct=True).write(name, b"{}", None, LIMIT_S)
    tag = place.client(direct=True).read(name, LIMIT_S).tag
    place.proxy.fail("GET", Fault(answer=(status, "application/json", b"{}")))
    seen = client.read(name, LIMIT_S)
    assert seen.found is (Found.MISSING if status == 404 and place.kind != "s3" else Found.UNAVAILABLE)
    place.proxy.fail("PUT", Fault(answer=(status, "application/json", b"{}")))
    wrote = client.write(name, b'{"a": 1}', tag, LIMIT_S)
    assert wrote.written is Written.UNCLEAR
    assert str(status) in wrote.text
    assert name in wrote.text
    if status in (401, 403):
        assert "credentials" in wrote.text
    assert len([it for it in place.proxy.seen[-2:] if it[0] != "GET"]) == 1, "the SDK must not try again by itself"


@pytest.mark.parametrize("status", [409, 412])
def test_a_conflict_is_read_again_and_won(place: Place, status: int, tmp_path: Path) -> None:
    """F9: S3 answers 409 while two writes meet; what counts is what stands there then."""
    made = fence(place, "n1", fresh(), tmp_path)
    made.create(no_guard)
    place.proxy.fail("PUT", Fault(answer=(status, "application/xml", b"")))
    assert made.take().held is Held.HELD


def test_s3s_409_is_sent_again(place: Place) -> None:
    if place.kind != "s3":
        pytest.skip("of S3 alone")
    place.proxy.fail("PUT", Fault(answer=(409, "application/xml", b"")), times=2)
    assert place.client().write(fresh(), b"{}", None, LIMIT_S).written is Written.YES


def test_a_login_page_is_neither_read_nor_written(place: Place) -> None:
    client, name = place.client(), fresh()
    place.client(direct=True).write(name, b"{}", None, LIMIT_S)
    tag = place.client(direct=True).read(name, LIMIT_S).tag
    place.proxy.fail("GET", Fault(answer=(200, "text/html", PAGE)))
    seen = client.read(name, LIMIT_S)
    assert seen.found is Found.UNAVAILABLE
    assert "is it the store's address?" in seen.text
    place.proxy.fail("PUT", Fault(answer=(200, "text/html", PAGE)))
    wrote = client.write(name, b'{"a": 1}', tag, LIMIT_S)
    assert wrote.written is Written.UNCLEAR, wrote
    place.proxy.fail("PUT", Fault(answer=(200, "application/json", b'{"ok": true}')))
    assert client.write(name, b'{"a": 1}', tag, LIMIT_S).written is Written.UNCLEAR


def test_garbage_is_no_answer(place: Place) -> None:
    client, name = place.client(), fresh()
    place.client(direct=True).write(name, b"{}", None, LIMIT_S)
    for raw in (b"\x00\xff\x16\x03 nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhalf", b""):
        place.proxy.fail("GET", Fault(raw=raw))
        assert client.read(name, LIMIT_S).found is Found.UNAVAILABLE
        place.proxy.fail("PUT", Fault(raw=raw))
        assert client.write(name, b'{"a": 1}', None, LIMIT_S).written is Written.UNCLEAR


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"garbage", "not a lock object"),
        (b"[]", "not a lock object"),
        (b"x" * 20000, "too large"),
        (lock.first("r7", me="uuid-n1", attempt_id="a", time=0.0).to_bytes(), "lock of resource 'r7'"),
        (lock.first("r0", me="uuid-n1", attempt_id="a", time=0.0).to_bytes().replace(b": 1", b": 99"), "99"),
    ],
    ids=["garbage", "list", "large", "other-resource", "future-version"],
)
def test_an_object_that_is_not_this_lock_is_no_lock(place: Place, tmp_path: Path, body: bytes, said: str) -> None:
    name = fresh()
    if place.kind == "http" and len(body) > lock.LARGEST_BYTES:
        pytest.skip("the reference store keeps nothing that is too large for a lock")
    assert place.client(direct=True).write(name, body, None, LIMIT_S).written is Written.YES
    made = fence(place, "n1", name, tmp_path)
    for answer in (made.read(), made.take(), made.release(no_guard)):
        assert answer.held is Held.UNAVAILABLE
        assert answer.record is None
        assert said in answer.text
    assert place.client(direct=True).read(name, LIMIT_S).body[:100] == body[:100]


def test_a_clock_that_is_wrong_is_named(place: Place) -> None:
    if place.kind != "s3":
        pytest.skip("of S3 alone")
    page = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"
    for method in ("GET", "PUT"):
        place.proxy.fail(method, Fault(answer=(403, "application/xml", page)))
    assert "RequestTimeTooSkewed (this node's clock" in place.client().read(fresh(), LIMIT_S).text
    assert "RequestTimeTooSkewed (this node's clock" in place.client().write(fresh(), b"{}", None, LIMIT_S).text


def test_a_wrong_bucket_is_no_free_lock(place: Place) -> None:
    if place.kind == "http":
        pytest.skip("it has no buckets")
    client = place.client(bucket="not-there")
    seen, wrote = client.read("a", LIMIT_S), client.write("a", b"{}", None, LIMIT_S)
    assert seen.found is Found.UNAVAILABLE if place.kind == "s3" else "bucket" in seen.text
    assert wrote.written is Written.UNCLEAR
    assert "not-there" in wrote.text


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_no_text_repeats_a_credential(place: Place, method: str) -> None:
    """The store's answer holds all that it was sent, headers and all."""
    if place.kind == "gcs":
        pytest.skip("its emulator takes no credentials; test_google.py has them")
    place.proxy.fail(method, Fault(echo=True))
    client = place.client()
    text = client.read("a", LIMIT_S).text if method == "GET" else client.write("a", b"{}", None, LIMIT_S).text
    assert "403" in text
    assert SECRET not in text + repr(client)
    assert "Signature" not in text


def test_nobody_listens(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = open_store.__wrapped__(place.settings(url=url), place.paths)
    assert client.read("a", LIMIT_S).found is Found.UNAVAILABLE
    assert client.write("a", b"{}", None, LIMIT_S).written is Written.UNCLEAR


def test_the_record_survives_the_store(place: Place, tmp_path: Path) -> None:
    made = fence(place, "n1", fresh(), tmp_path)
    wrote = made.create(no_guard).record
    assert isinstance(wrote, LockRecord)
    assert made.read().record == wrote
