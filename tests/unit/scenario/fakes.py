"""A lab of nodes that only pretend, because real ones are for the scenarios: they answer from tables, and stream from
queues that a test fills."""

from __future__ import annotations

import fnmatch
import json
import queue
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from lab.deadline import Deadline
from lab.errors import HapairError
from lab.hosts.site import Site
from lab.proc import CommandFailed, Completed
from lab.providers.base import (
    CLEAN,
    Direction,
    Disk,
    Impairment,
    LabPlan,
    LabStatus,
    LinkStatus,
    NodePlan,
    NodeState,
    NodeStatus,
)
from tests.unit.hosts.sites import example_site

NOTES = {"on": "", "off": "power was cut", "frozen": ""}
Reply = str | int | Callable[[], str | int]


class FakeNode:
    """A node: `says` maps a pattern of a command line to its output, or to its exit code."""

    def __init__(self, name: str, log: list[str], commands: list[str]) -> None:
        self._name, self._log, self._commands = name, log, commands
        self._state: NodeState = "on"
        self.says: dict[str, Reply] = {}
        self.files: dict[str, bytes] = {"/proc/sys/kernel/random/boot_id": f"boot-{name}\n".encode()}
        self.streams: dict[str, queue.Queue[bytes | None]] = {}
        self.started: list[str] = []
        self.ran: list[str] = []
        self.given: dict[str, bytes] = {}
        self.on_stream: dict[str, Callable[[], None]] = {}

    @property
    def name(self) -> str:
        return self._name

    def state(self) -> NodeState:
        return self._state

    def run(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"", check: bool = True) -> Completed:
        assert limit_s > 0
        line = shlex.join(argv)
        self._need_on()
        self.ran.append(line)
        self._commands.append(f"{self.name}: {line}")
        if stdin:
            self.given[line] = stdin
        if "kill " in line:
            self._end(argv[-1])
        found = next((reply for pattern, reply in self.says.items() if fnmatch.fnmatch(line, pattern)), "")
        found = found() if callable(found) else found
        code, text = (found, "") if isinstance(found, int) else (0, found)
        done = Completed(tuple(argv), code, text.encode(), b"")
        if check and done.code:
            raise CommandFailed(done)
        return done

    def stream(self, argv: Sequence[str], *, limit_s: float) -> Iterator[bytes]:
        assert limit_s > 0
        self._need_on()
        name = argv[3].removeprefix("/run/hapair-lab-").removesuffix(".pid")
        self.started.append(shlex.join(argv))
        self.on_stream.get(name, lambda: None)()
        lines = self.streams.setdefault(name, queue.Queue())
        while (line := lines.get(timeout=30)) is not None:
            yield line

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        self._need_on()
        assert mode
        self.files[path] = data

    def get(self, path: str) -> bytes:
        self._need_on()
        return self.files[path]

    def clock(self) -> float:
        """What `says["clock"]` says, else this machine's time."""
        self._need_on()
        found = self.says.get("clock", "")
        return float(found() if callable(found) else found or time.time())

    def wait_ready(self, deadline: Deadline) -> None:
        assert deadline.left_s >= 0
        self._need_on()

    def power_off(self) -> None:
        self._log.append(f"{self.name} off")
        self._state = "off"
        for lines in self.streams.values():
            lines.put(None)

    def power_on(self) -> None:
        self._log.append(f"{self.name} on")
        self._state = "on"

    def freeze(self) -> None:
        self._log.append(f"{self.name} frozen")
        self._state = "frozen"

    def thaw(self) -> None:
        self._log.append(f"{self.name} thawed")
        self._state = "on"

    def attach_disk(self, slot: str, path: Path) -> None:
        raise NotImplementedError(f"{slot} {path}")

    def detach_disk(self, slot: str) -> None:
        raise NotImplementedError(slot)

    def sysrq(self, key: str) -> None:
        self._log.append(f"{self.name} sysrq {key}")

    def _need_on(self) -> None:
        if self._state != "on":
            raise HapairError(f"{self.name} is {self._state}")

    def _end(self, pid_file: str) -> None:
        name = pid_file.removeprefix("/run/hapair-lab-").removesuffix(".pid")
        self.streams.setdefault(name, queue.Queue()).put(None)


class FakeLab:
    """Three such nodes; `log` is what was done to them, in order, `commands` what ran on them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log: list[str] = []
        self.commands: list[str] = []
        self._nodes = {name: FakeNode(name, self.log, self.commands) for name in ("n1", "n2", "third")}
        self.links: dict[tuple[str, str], LinkStatus] = {
            (node, network): LinkStatus(node, network, True, CLEAN, CLEAN, 0, 0, 0, 0)
            for node in self._nodes
            for network in ("lan", "crossover")
        }

    @property
    def name(self) -> str:
        return "fake"

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def plan(self) -> LabPlan:
        """The nodes' names and disks, as far as a report wants to know."""
        disk = Disk("ubdb", "data", 1)
        return LabPlan("fake", tuple(NodePlan(name, Path(), Path(), 1, disks=(disk,)) for name in ("n1", "n2")))

    @property
    def nodes(self) -> Mapping[str, FakeNode]:
        return self._nodes

    def set_link(self, node: str, network: str, direction: Direction, impairment: Impairment) -> None:
        self.log.append(f"{node}/{network} {direction} {'up' if impairment.up else 'down'}")
        link = self.links[node, network]
        if direction in ("out", "both"):
            link = replace(link, outward=impairment)
        if direction in ("in", "both"):
            link = replace(link, inward=impairment)
        self.links[node, network] = link

    def status(self) -> LabStatus:
        nodes = {
            name: NodeStatus(node.state(), node.state() == "on", 1, "seccomp", NOTES[node.state()])
            for name, node in self._nodes.items()
        }
        return LabStatus(self.name, 1, nodes, tuple(self.links.values()))

    @contextmanager
    def capture(self, network: str, path: Path) -> Iterator[Path]:
        assert network
        yield path

    def destroy(self) -> None:
        self.log.append("destroyed")


class FakePair:
    """A pair over such a lab, served by n1."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeLab(folder)
        self.active: str | None = "n1"

    @property
    def lab(self) -> FakeLab:
        return self.fake

    @property
    def site(self) -> Site:
        return example_site()

    def serving(self) -> str | None:
        return self.active

    def switchover(self, resource: str, deadline: Deadline) -> str:
        assert deadline.left_s > 0
        self.fake.log.append(f"{resource} leaves {self.active}")
        self.active = "n2" if self.active == "n1" else "n1"
        return self.active


DUMP = """\
2026-01-01T00:00:00.000000+00:00 exists resource name:r0 role:{role} suspended:no write-ordering:flush
2026-01-01T00:00:00.000000+00:00 exists connection name:r0 peer-node-id:0 conn-name:remote connection:Connected role:Primary congested:no
2026-01-01T00:00:00.000000+00:00 exists device name:r0 volume:0 minor:0 disk:UpToDate size:500 read:1 written:2
2026-01-01T00:00:00.000000+00:00 exists peer-device name:r0 volume:0 replication:Established peer-disk:UpToDate resync-suspended:no received:0 sent:9 out-of-sync:0 pending:0 unacked:0
2026-01-01T00:00:00.000000+00:00 exists -
"""  # noqa: E501 - as drbdsetup 9.22 prints it for DRBD 8.4


def healthy(lab: FakeLab, primary: str = "n1") -> None:
    """Let the nodes answer as a healed pair would."""
    for name in ("n1", "n2"):
        role = "Primary" if name == primary else "Secondary"
        says = lab.nodes[name].says
        says["drbdsetup events2 --now*"] = DUMP.format(role=role)
        says["tc qdisc show"] = "qdisc noqueue 0: dev lo root refcnt 2\n"
        mounted = "/dev/drbd0 /r0 btrfs rw 0 0\n" if role == "Primary" else ""
        says["cat /proc/self/mounts"] = "/dev/ubda / ext4 rw 0 0\n" + mounted
        says["btrfs device stats*"] = "[/dev/drbd0].write_io_errs    0\n[/dev/drbd0].corruption_errs 0\n"
        if role == "Primary":
            says["find /sys/fs/cgroup*"] = "/sys/fs/cgroup/system.slice/lxc.payload.c1/cgroup.events\n"
    lab.nodes["third"].says["*get http*/v1/locks/example-r0*"] = '{"state": "SHARED", "epoch": 3}'


class Client:
    """The client's half of such a pair: feeds acknowledgements, as many as asked for, from the node that serves."""

    def __init__(self, pair: FakePair) -> None:
        self.pair, self.seq, self.lines = pair, 0, list[str]()
        pair.lab.nodes["third"].says["*get http*/cgi-bin/read*"] = lambda: "".join(f"{line}\n" for line in self.lines)

    def say(self, stream: str, source: str, kind: str, **data: object) -> None:
        line = json.dumps({"t": time.time(), "source": source, "kind": kind, **data}).encode()
        self.pair.lab.nodes["third"].streams.setdefault(stream, queue.Queue()).put(line)

    def write(self, count: int = 1, *, lost: bool = False) -> None:
        """Let writes be acknowledged, and kept unless `lost`; both probes are answered after each."""
        node = self.pair.active
        for _ in range(count):
            mine = {"seq": self.seq, "nonce": "ab"}
            self.seq += 1
            started = time.time()
            self.say("write", "client", "invoke", **mine)
            self.say("write", "client", "ack", **mine, boot=f"boot-{node}", started=started)
            if not lost:
                self.lines.append(f"{mine['seq']} ab")
            self.say("probe", "probe", "id", boot=f"boot-{node}", started=time.time())
            self.say("probe", "probe", "arp", mac=self.pair.site.nodes[node or ""].lan.mac, operation=2)


def drbd_now(pair: FakePair, node: str, role: str, change: str = "change") -> None:
    """Let a node's events2 say its role."""
    stamp = datetime.now(UTC).isoformat()
    line = f"{stamp} {change} resource name:r0 role:{role} suspended:no"
    pair.lab.nodes[node].streams.setdefault("events2", queue.Queue()).put(line.encode())


def _dump(pair: FakePair, node: str, role: str) -> None:
    drbd_now(pair, node, role, "exists")
    for line in DUMP.splitlines()[1:4]:
        now = f"{datetime.now(UTC).isoformat()} {line.partition(' ')[2]}"
        pair.lab.nodes[node].streams["events2"].put(now.encode())


def ready(folder: Path) -> tuple[FakePair, Client]:
    """Return a healthy pair whose streams all begin with what is there already, and its client."""
    pair = FakePair(folder)
    healthy(pair.lab)
    client = Client(pair)
    for name, role in (("n1", "Primary"), ("n2", "Secondary")):
        node = pair.lab.nodes[name]
        node.on_stream["events2"] = partial(_dump, pair, name, role)
        journal = node.streams.setdefault("journal", queue.Queue())
        node.on_stream["journal"] = partial(journal.put, f"1.0 {name} systemd[1]: x".encode())
    owner = pair.site.nodes["n1"].uuid
    lock = {"state": "SHARED", "owner": str(owner), "writer": str(owner), "epoch": 3, "attempt_id": "x"}
    asked = {"method": "PUT", "name": "example-r0", "status": 200, "t": time.time()}
    told = {"came": time.time(), "client": "192.0.2.11", "asked": lock, "told": lock, "store": 200}
    third = pair.lab.nodes["third"]
    third.on_stream["requests"] = lambda: client.say("requests", "store", "request", **asked, before=None, after=lock)
    third.on_stream["proxy"] = lambda: client.say("proxy", "store", "proxy", **asked, **told)
    pair.lab.nodes["third"].on_stream["write"] = client.write
    return pair, client
