"""What the emulator of Google's store has not: a service account's key, and the server that gives tokens for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hapair.fence.base import BadStore, Found, Written
from hapair.fence.gcs import GcsStore

from .conftest import BUCKET, LIMIT_S, google
from .proxy import Fault, Proxy, proxy, serving


class Tokens(BaseHTTPRequestHandler):
    """Gives a token to whoever asks; the proxy in front of it fails when it should."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        text = b'{"access_token": "ya29.never-shown", "expires_in": 3600, "token_type": "Bearer"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def tokens() -> Iterator[Proxy]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Tokens)) as url, proxy(url) as running:
        yield running


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with google(tmp_path_factory.mktemp("google")) as url, proxy(url) as running:
        yield running


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory, tokens: Proxy) -> Path:
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    encoding, form, none = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    fields = {
        "type": "service_account",
        "project_id": "example",
        "private_key_id": "1",
        "private_key": made.private_bytes(encoding, form, none).decode(),
        "client_email": "fence@example.iam.gserviceaccount.com",
        "token_uri": f"{tokens.url}/token",
    }
    path = tmp_path_factory.mktemp("key") / "key.json"
    path.write_text(json.dumps(fields))
    path.chmod(0o600)
    return path


def client(key: Path, objects: Proxy) -> GcsStore:
    return GcsStore(BUCKET, endpoint=objects.url, credentials=str(key))


def test_a_key_gives_access(key: Path, tokens: Proxy, objects: Proxy) -> None:
    made = client(key, objects)
    assert made.write("key", b"{}", None, LIMIT_S).written is Written.YES
    assert made.read("key", LIMIT_S).body == b"{}"
    assert [it for it in tokens.seen if it[1] == "/token"] == [("POST", "/token")], "one token serves many requests"


def test_a_token_that_comes_late_writes_nothing_late(key: Path, tokens: Proxy, objects: Proxy) -> None:
    made = client(key, objects)
    tokens.fail("PUT", Fault(delay_s=0.6))
    before, began = len(objects.seen), time.monotonic()
    assert made.write("late", b"{}", None, 0.3).written is Written.UNCLEAR
    assert time.monotonic() - began < 0.55
    time.sleep(0.6)  # until the token has come; that nothing follows has no event
    assert len(objects.seen) == before
    assert made.read("late", LIMIT_S).found is Found.MISSING


def test_a_key_that_is_refused_is_told_without_it(key: Path, tokens: Proxy, objects: Proxy) -> None:
    tokens.fail("PUT", Fault(echo=True), times=9)
    seen = client(key, objects).read("a", LIMIT_S)
    tokens.clear()
    assert seen.found is Found.UNAVAILABLE
    assert "no access token is given for these credentials" in seen.text
    assert "eyJ" not in seen.text  # how a signed assertion begins


def test_an_echo_of_the_token_is_not_repeated(key: Path, objects: Proxy) -> None:
    objects.fail("GET", Fault(echo=True))
    text = client(key, objects).read("a", LIMIT_S).text
    assert "403" in text
    assert "ya29" not in text


def test_a_key_that_is_none(tmp_path: Path, objects: Proxy) -> None:
    path = tmp_path / "key.json"
    path.write_text('{"client_email": "a@b", "private_key": "MIIsecret", "token_uri": "http://127.0.0.1:1/"}')
    path.chmod(0o600)
    with pytest.raises(BadStore, match="no key that can be used") as told:
        client(path, objects)
    assert "MIIsecret" not in str(told.value)
