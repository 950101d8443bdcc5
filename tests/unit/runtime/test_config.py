"""hapair.json at the boundary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hapair.config import BadConfig, load

from .conftest import configuration


def write(folder: Path, data: object) -> Path:
    path = folder / "hapair.json"
    path.write_text(json.dumps(data))
    return path


def test_a_site(tmp_path: Path) -> None:
    config = load(write(tmp_path, configuration("n2", "http://192.0.2.20:8440")))
    settings = config.settings("r0")
    assert (settings.me, settings.peer, settings.peer_name, settings.preferred) == ("uuid-n2", "uuid-n1", "n1", False)
    assert config.resources["r0"].addresses == ("192.0.2.88",)
    assert config.lock_name("r0") == "example-r0"


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("extra",), 1, "extra is unknown"),
        (("store", "token"), "x", "store.token is unknown"),
        (("store", "bucket"), "x", "store.bucket is unknown"),
        (("store", "kind"), "ftp", "store.kind 'ftp' is unknown; there are http, gcs, s3"),
        (("store", "kind"), None, "store.kind None"),
        (("store", "kind"), "s3", "store.bucket is missing"),
        (("store",), [], "store.kind"),
        (("times", "grace_s"), None, "times.grace_s is missing"),
        (("resources", "r0", "minor"), None, "resources.r0.minor is missing"),
        (("resources", "r0", "minor"), "many", "many"),
        (("nodes", "n1", "uuid"), "uuid-n2", "same uuid"),
        (("nodes", "n2"), None, "nodes.n2 is missing"),
        (("nodes", "n3"), {}, "nodes.n3 is unknown"),
        (("peer",), "n1", "are the same"),
        (("resources",), 7, "int"),
        (("nodes",), [], "nodes"),
        (("times",), [], "times."),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, path: tuple[str, ...], value: object, named: str) -> None:
    data: Any = configuration("n1", "http://192.0.2.20:8440")
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(BadConfig, match=named):
        load(write(tmp_path, data))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="deploy the host files"):
        load(tmp_path / "hapair.json")


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "hapair.json").write_text("{")
    with pytest.raises(BadConfig, match=r"hapair\.json"):
        load(tmp_path / "hapair.json")
