"""A node's configuration and the real store server, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hapair import store
from hapair.alike import Alike
from hapair.config import Config, load
from hapair.paths import Paths

from lab.deadline import Deadline, wait_until

PROC_TOGETHER = "version: 8.4.11\n 0: cs:Connected ro:{role}/Secondary ds:UpToDate/UpToDate C r-----\n"
PROC_ALONE = "version: 8.4.11\n 0: cs:WFConnection ro:{role}/Unknown ds:{disk}/DUnknown C s-----\n"


@pytest.fixture
def store_url(tmp_path: Path) -> Iterator[str]:
    """The reference store, running in a thread of this process."""
    server = store.serve("127.0.0.1", 0, tmp_path / "store")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def configuration(node: str, store_url: str) -> dict[str, object]:
    """hapair.json as the site's templates render it."""
    return {
        "pair": "example",
        "node": node,
        "peer": {"n1": "n2", "n2": "n1"}[node],
        "nodes": {
            "n1": {"uuid": "uuid-n1", "crossover": "198.51.100.1", "lan": "192.0.2.11"},
            "n2": {"uuid": "uuid-n2", "crossover": "198.51.100.2", "lan": "192.0.2.12"},
        },
        "store": {"kind": "http", "url": store_url, "credentials": "", "ca": "", "timeout_s": 1.0},
        "times": {"selffence_s": 0.6, "grace_s": 1.0, "watch_s": 0.2, "stop_s": 2.0, "start_s": 5.0},
        "watchdog_s": 0.0,
        "resources": {
            "r0": {
                "minor": 0,
                "device": "/dev/drbd0",
                "mount": "/r0",
                "mount_unit": "r0.mount",
                "lxd_dir": "/r0/lxd",
                "pool": "/r0/pools",
                "lxd_unit": "r0lxd.service",
                "preferred": "n1",
                "lan_interface": "lan0",
                "addresses": ["192.0.2.88"],
            }
        },
    }


class Host:
    """A node's files below a folder."""

    def __init__(self, root: Path, node: str, store_url: str) -> None:
        self.paths = Paths(root)
        for path in (self.paths.config, self.paths.sysrq, self.paths.state / "x", self.paths.decisions):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.paths.config.write_text(json.dumps(configuration(node, store_url)))
        self.paths.sysrq.write_text("")
        (self.paths.proc / "self").mkdir()
        (self.paths.proc / "self/mountinfo").write_text("")
        (self.paths.proc / "sys/kernel").mkdir(parents=True)
        (self.paths.proc / "sys/kernel/hostname").write_text(f"{node}\n")
        self.together()

    @property
    def config(self) -> Config:
        return load(self.paths.config)

    def together(self, role: str = "Secondary") -> None:
        """DRBD is Connected, both UpToDate."""
        self.paths.proc_drbd.write_text(PROC_TOGETHER.format(role=role))

    def alone(self, role: str = "Primary", disk: str = "UpToDate") -> None:
        """The peer is gone."""
        self.paths.proc_drbd.write_text(PROC_ALONE.format(role=role, disk=disk))

    def tell(self, store_folder: Path) -> None:
        """Tell the other node what runs here, as this node's agent would; return when the store has it."""
        there = store_folder / f"locks/example-r0.{self.config.node}"
        before = there.read_bytes() if there.exists() else None
        Alike(self.config, "r0", self.paths, print).look()
        wait_until(
            f"{self.config.node} has told",
            lambda: (there.exists() and there.read_bytes() != before) or None,
            Deadline.after(10),
            pause_s=0.02,
        )

    @property
    def removed(self) -> bool:
        """True when the node would have restarted itself."""
        return self.paths.sysrq.read_text().startswith("b")

    def decisions(self) -> list[dict[str, object]]:
        """The decision log."""
        return [json.loads(line) for line in self.paths.decisions.read_text().splitlines()]


@pytest.fixture
def n1(tmp_path: Path, store_url: str) -> Host:
    return Host(tmp_path / "n1", "n1", store_url)


@pytest.fixture
def n2(tmp_path: Path, store_url: str) -> Host:
    return Host(tmp_path / "n2", "n2", store_url)
