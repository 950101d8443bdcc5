"""HTTPS to the reference store: the site's own certificates count, and nobody else's."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hapair import store
from hapair.fence.base import Found, Written
from hapair.fence.http import HttpStore

from .conftest import LIMIT_S
from .proxy import serving


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """Make a certificate for an address, signed by itself; return it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fence store")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{address}.pem", folder / f"{address}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    return paths


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(params=["127.0.0.1", "192.0.2.20"])
def secured(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[tuple[str, Path, bool]]:
    """The store's address, its certificate, and whether that is for this address."""
    made, key = certificate(folder, request.param)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    server = store.serve("127.0.0.1", 0, tmp_path / "store")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as url:
        yield url.replace("http:", "https:"), made, request.param == "127.0.0.1"


def test_only_the_right_certificate_counts(secured: tuple[str, Path, bool]) -> None:
    url, made, right = secured
    mine, systems = HttpStore(url, ca=str(made)), HttpStore(url)
    wrote = mine.write("a", b"{}", None, LIMIT_S)
    assert wrote.written is (Written.YES if right else Written.UNCLEAR)
    assert mine.read("a", LIMIT_S).found is (Found.OBJECT if right else Found.UNAVAILABLE)
    seen = systems.read("a", LIMIT_S)
    assert seen.found is Found.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in seen.text
