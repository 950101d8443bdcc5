"""Credentials by file: what is refused, and that nothing of them is told. And the SDK trees that a node lacks."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hapair.cli import main
from hapair.config import Store
from hapair.fence import sdk
from hapair.fence.base import BadStore, Found, Written
from hapair.fence.credentials import secret
from hapair.fence.http import HttpStore
from hapair.fence.site import SiteStore
from hapair.paths import Paths

from .conftest import Host

SECRET = "tell-nobody"  # noqa: S105 - of no store
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def put(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ('{"bearer": "tell-nobody"}', 0o640, "others may read it (mode 0640): chmod 600"),
        ('{"bearer": "tell-nobody"}', 0o604, "others may read it"),
        ("tell-nobody", 0o600, "not JSON"),
        ('["tell-nobody"]', 0o600, "not a JSON object"),
        ('{"user": "tell-nobody"}', 0o600, "without password"),
        ('{"user": "tell-nobody", "password": ""}', 0o600, "without password"),
        ('{"bearer": "tell-nobody\\nX: y"}', 0o600, "characters that no header may have"),
        ("[" * 70000, 0o600, "too large"),
        ("[" * 60000, 0o600, "not JSON"),
        ('{"bearer": ""}', 0o600, "its bearer is empty"),
        ('{"bearer": " \\t"}', 0o600, "its bearer is empty"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = put(tmp_path / "store.json", text, mode)
    with pytest.raises(BadStore) as told:
        HttpStore("http://192.0.2.20:8440", credentials=path)
    assert said in str(told.value)
    assert path in str(told.value)
    assert SECRET not in str(told.value)
    assert told.value.__suppress_context__ or told.value.__context__ is None


def test_missing_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadStore, match="No such file or directory; put the store's credentials there"):
        secret(str(tmp_path / "none"), (), "JSON")
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name in ("", "fifo"):
        with pytest.raises(BadStore, match="not a file"):
            secret(str(tmp_path / name), (), "JSON")


def test_a_file_of_somebody_elses(tmp_path: Path) -> None:
    path = put(tmp_path / "store.json", "{}")
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(path, 12345, -1)
    with pytest.raises(BadStore, match="belongs to user 12345"):
        secret(path, (), "JSON")


@pytest.mark.parametrize(
    ("fields", "header"),
    [
        ({"bearer": SECRET}, f"Bearer {SECRET}"),
        ({"user": "u", "password": SECRET}, "Basic " + base64.b64encode(f"u:{SECRET}".encode()).decode()),
    ],
)
def test_they_reach_the_store(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch, fields: dict[str, str], header: str
) -> None:
    from hapair import store  # noqa: PLC0415 - its handler is watched here

    seen: list[str | None] = []
    real = store.Handler.do_GET

    def watched(self: store.Handler) -> None:
        seen.append(self.headers.get("Authorization"))
        real(self)

    monkeypatch.setattr(store.Handler, "do_GET", watched)
    client = HttpStore(store_url, credentials=put(tmp_path / "store.json", json.dumps(fields)))
    assert client.read("a", 1.0).found is Found.MISSING
    assert seen == [header]
    assert SECRET not in repr(client)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadStore, match="no certificates"):
        HttpStore("https://192.0.2.20:8440", ca=put(tmp_path / "ca.pem", "none"))


@pytest.mark.parametrize("kind", ["gcs", "s3"])
def test_an_sdk_that_is_not_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "usr/lib/hapair/sdk" / f"{kind}-py3.7").mkdir(parents=True)
    store = SiteStore(Store(kind, 1.0, bucket="locks", credentials="/none"), Paths(tmp_path))
    text = store.read("a", 1.0).text
    assert f"there is {kind}-py3.7, but this is Python {HERE}; invoke hosts.sdk {kind}" in text
    assert store.write("a", b"{}", None, 1.0).written is Written.UNCLEAR
    mark = tmp_path / "usr/lib/hapair/sdk" / f"{kind}-py{HERE}" / sdk.MARK
    mark.parent.mkdir()
    mark.write_text('{"python": "3.7"}')
    assert f"was made for Python 3.7, but this is Python {HERE}" in store.read("a", 1.0).text


def with_credentials(host: Host, path: Path) -> None:
    data: dict[str, Any] = json.loads(host.paths.config.read_text())
    data["store"]["credentials"] = str(path)
    host.paths.config.write_text(json.dumps(data))


def test_the_agent_does_not_start_without_them(n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_credentials(n1, tmp_path / "none.json")
    n1.paths.proc_drbd.write_text("version: 8.4.11\n")
    assert main(["agent"], n1.paths) == 2
    assert f"{tmp_path}/none.json: No such file or directory" in capsys.readouterr().err
    assert not n1.paths.socket.exists()
    assert not n1.removed


def test_the_agent_cares_for_what_is_up(
    n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_credentials(n1, tmp_path / "none.json")
    monkeypatch.setattr("hapair.agent.main", lambda *_: 17)
    assert main(["agent"], n1.paths) == 17
    assert "r0 is up: going on, without the store" in capsys.readouterr().err


def test_they_may_come_later(n1: Host, tmp_path: Path) -> None:
    path = tmp_path / "store.json"
    with_credentials(n1, path)
    store = SiteStore(n1.config.store, n1.paths)
    assert "No such file" in store.read("a", 1.0).text
    put(path, '{"bearer": "x"}')
    assert store.read("a", 1.0).found is Found.MISSING
