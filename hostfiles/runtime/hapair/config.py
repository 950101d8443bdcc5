"""/etc/hapair/hapair.json as a frozen model; unknown and missing keys are refused, with their place."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hapair.states import Settings, Times


class BadConfig(Exception):
    """The file is missing or not what this program reads; the text names the file and the key."""


@dataclass(frozen=True)
class Member:
    """One of the two nodes."""

    uuid: str
    crossover: str
    lan: str


@dataclass(frozen=True)
class Store:
    """The fence store, and how long one request may take (seconds); `STORE_KEYS` tells what each kind has.

    `credentials` and `ca` are paths on the node: what the first holds stands in no other place.
    """

    kind: str
    timeout_s: float
    url: str = ""
    bucket: str = ""
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    credentials: str = ""
    ca: str = ""

    def place(self, name: str) -> str:
        """Return where the lock object `name` is, for people."""
        if self.kind == "http":
            return f"{self.url.rstrip('/')}/v1/locks/{name}"
        return f"{'gs' if self.kind == 'gcs' else 's3'}://{self.bucket}/{self.prefix}{name}"


STORE_KEYS = {
    "http": ("url", "credentials", "ca"),
    "gcs": ("bucket", "prefix", "endpoint", "credentials", "ca"),
    "s3": ("bucket", "prefix", "endpoint", "region", "credentials", "ca"),
}
"""The kinds of stores, and the keys of each beside `kind` and `timeout_s`; all must be there, empty where unused."""


@dataclass(frozen=True)
class Resource:
    """One DRBD resource with its mount, its LXD and the addresses of its containers."""

    name: str
    minor: int
    device: str
    mount: str
    mount_unit: str
    lxd_dir: str
    pool: str
    lxd_unit: str
    preferred: str
    lan_interface: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """The whole file."""

    pair: str
    node: str
    peer: str
    me: Member
    other: Member
    store: Store
    times: Times
    watchdog_s: float
    resources: dict[str, Resource]

    def settings(self, resource: str) -> Settings:
        """Return what the policy knows of the site."""
        return Settings(
            resource=resource,
            me=self.me.uuid,
            peer=self.other.uuid,
            peer_name=self.peer,
            preferred=self.resources[resource].preferred == self.node,
            times=self.times,
        )

    def lock_name(self, resource: str) -> str:
        """Return the name of the resource's lock object in the store."""
        return f"{self.pair}-{resource}"


def load(path: Path) -> Config:
    """Read the file.

    Raises:
        BadConfig: missing, not JSON, a key too many or too few, or of the wrong kind.
    """
    try:
        text = path.read_text()
    except OSError as bad:
        raise BadConfig(f"{path}: {bad.strerror}; deploy the host files first") from None
    try:
        data = json.loads(text)
        return _config(data)
    except (ValueError, TypeError, KeyError) as bad:
        raise BadConfig(f"{path}: {bad}") from None


def _config(data: dict[str, Any]) -> Config:
    top = _keys("", data, ("pair", "node", "peer", "nodes", "store", "times", "watchdog_s", "resources"))
    node, peer = str(top["node"]), str(top["peer"])
    if node == peer:
        raise ValueError("node and peer are the same")
    members = {
        name: Member(**_keys(f"nodes.{name}.", given, ("uuid", "crossover", "lan")))
        for name, given in _keys("nodes.", top["nodes"], (node, peer)).items()
    }
    if members[node].uuid == members[peer].uuid:
        raise ValueError("nodes: both have the same uuid")
    times = _keys("times.", top["times"], ("selffence_s", "grace_s", "watch_s", "stop_s", "start_s"))
    return Config(
        pair=str(top["pair"]),
        node=node,
        peer=peer,
        me=members[node],
        other=members[peer],
        store=_store(top["store"]),
        times=Times(**{name: float(value) for name, value in times.items()}),
        watchdog_s=float(top["watchdog_s"]),
        resources={name: _resource(name, given) for name, given in dict(top["resources"]).items()},
    )


def _store(data: object) -> Store:
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in STORE_KEYS:
        raise ValueError(f"store.kind {kind!r} is unknown; there are {', '.join(STORE_KEYS)}")
    given = _keys("store.", data, ("kind", "timeout_s", *STORE_KEYS[kind]))
    texts = {key: str(value) for key, value in given.items() if key != "timeout_s"}
    return Store(**texts, timeout_s=float(given["timeout_s"]))


def _resource(name: str, data: dict[str, Any]) -> Resource:
    wanted = tuple(field.name for field in fields(Resource) if field.name != "name")
    given = _keys(f"resources.{name}.", data, wanted)
    return Resource(**{**given, "name": name, "minor": int(given["minor"]), "addresses": tuple(given["addresses"])})


def _keys(place: str, data: object, wanted: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{place or 'the file'}: not an object")
    missing = [f"{place}{key} is missing" for key in wanted if key not in data]
    unknown = [f"{place}{key} is unknown" for key in data if key not in wanted]
    if missing or unknown:
        raise ValueError("; ".join(missing + unknown))
    return data
