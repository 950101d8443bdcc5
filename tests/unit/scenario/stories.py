"""Hand-written histories: one builder, so that a test shows only what matters to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lab.scenario.history import Event
from lab.scenario.observed import Facts, NodeFacts

MACS = {"02:00:5e:00:02:11": "n1", "02:00:5e:00:02:12": "n2"}
OWNERS = {"u-n1": "n1", "u-n2": "n2"}
CLIENTS = {"192.0.2.11": "n1", "192.0.2.12": "n2"}
CLIENTS_OF = {node: address for address, node in CLIENTS.items()}
LOCK = "example-r0"
GRACE_S = 8.0
MAC_OF = {node: mac for mac, node in MACS.items()}
HEALTHY = NodeFacts(
    role="Secondary",
    disk="UpToDate",
    connection="Connected",
    peer_disk="UpToDate",
    out_of_sync=0,
    suspended="no",
    failed_units=(),
    leftovers=(),
    containers=(),
)


class Story:
    """Events in the order of their telling; boots are called after their node."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        for node in ("n1", "n2"):
            self.add(0.0, node, "boot", boot=f"boot-{node}")
            for stream in ("journal", "events2"):
                self.add(0.0, node, "follow", stream=stream)
            self.role(0.0, node, "Primary" if node == "n1" else "Secondary", change="exists")
            self.peer(0.0, node, "Connected", "UpToDate", change="exists")
        self.lock: dict[str, object] = {}
        self.commit(0.0, "SHARED", "n1")

    def add(self, t: float, source: str, kind: str, **data: object) -> Story:
        self.events.append(Event(t, source, kind, data))
        return self

    def role(self, t: float, node: str, role: str, change: str = "change") -> Story:
        return self.add(t, node, "drbd", change=change, object="resource", role=role)

    def peer(self, t: float, node: str, connection: str, disk: str, change: str = "change") -> Story:
        """What a node sees of its peer; its own disk is well."""
        self.add(t, node, "drbd", change=change, object="connection", connection=connection)
        self.add(t, node, "drbd", change=change, object="device", disk="UpToDate")
        return self.add(t, node, "drbd", change=change, object="peer-device", **{"peer-disk": disk})

    def apart(self, t: float, *nodes: str) -> Story:
        """Let nodes lose their peer."""
        for node in nodes:
            self.peer(t, node, "Connecting", "DUnknown")
        return self

    def commit(self, t: float, state: str, owner: str, writer: str = "", told: bool = True, **wrong: object) -> Story:
        """Let the store take a new version of the lock, and its writer hear of it."""
        writer, before = writer or owner, self.lock or None
        epoch = int(str(self.lock.get("epoch", 0))) + 1
        self.lock = {"state": state, "owner": f"u-{owner}", "writer": f"u-{writer}", "epoch": epoch}
        self.lock = {**self.lock, "attempt_id": f"a{epoch}", **wrong}
        self.add(t, "store", "request", method="PUT", name=LOCK, status=200, before=before, after=self.lock)
        said = self.lock if told else None
        asked = {"method": "PUT", "name": LOCK, "rule": "", "asked": self.lock, "store": 200}
        return self.add(t + 0.01, "store", "proxy", came=t - 0.01, client=CLIENTS_OF[writer], told=said, **asked)

    def write(self, t: float, seq: int, boot: str = "boot-n1", took: float = 0.01) -> Story:
        self.add(t, "client", "invoke", seq=seq, nonce=f"x{seq}")
        return self.add(t + took, "client", "ack", seq=seq, nonce=f"x{seq}", boot=boot, started=t)

    def failed(self, t: float, seq: int) -> Story:
        self.add(t, "client", "invoke", seq=seq, nonce=f"x{seq}")
        return self.add(t + 2, "client", "fail", seq=seq, nonce=f"x{seq}", started=t, error="timed out")

    def answer(self, t: float, node: str, took: float = 0.01) -> Story:
        self.add(t + took, "probe", "id", boot=f"boot-{node}", started=t)
        return self.add(t + took, "probe", "arp", mac=MAC_OF[node], operation=2)

    def listed(self, t: float, boot: str, seqs: list[int]) -> Story:
        lines = [f"{seq} x{seq}" for seq in seqs]
        return self.add(t + 0.02, "client", "list", boot=boot, started=t, lines=lines)

    def fault(self, t: float, name: str = "power_loss", node: str = "n1", **more: object) -> Story:
        return self.add(t, "scenario", "fault", name=name, node=node, placed=t + 0.01, **more)

    def served(self, t: float, node: str, lxd_s: float = 0.7) -> Story:
        """Let a node mount in 0.1 s, and start LXD then."""
        self.add(t, node, "unit", unit="r0.mount", change="Mounting")
        self.add(t + 0.1, node, "unit", unit="r0.mount", change="Mounted")
        self.add(t + 0.1, node, "unit", unit="r0lxd.service", change="Starting")
        return self.add(t + 0.1 + lxd_s, node, "unit", unit="r0lxd.service", change="Started")

    def told(self) -> tuple[Event, ...]:
        return tuple(sorted(self.events, key=lambda event: event.t))


def failover(owners: Mapping[str, str] = OWNERS) -> Story:
    """n1 serves writes 0 to 9, loses power at 2.0, and n2 serves writes 20 to 29 from 14 on."""
    story = Story().add(0.0, "scenario", "begin", name="power_loss", owners=owners, grace_s=GRACE_S)
    for number in range(10):
        story.write(1.0 + number / 20, number).answer(1.0 + number / 20, "n1")
    story.fault(2.0, leaves="n1").failed(2.1, 10).failed(4.3, 11)
    story.add(2.02, "n1", "lost", stream="events2").add(2.02, "n1", "lost", stream="journal")
    story.apart(3.5, "n2").commit(11.9, "SOLO", "n2").role(12.0, "n2", "Primary").served(12.1, "n2")
    for number in range(20, 30):
        story.write(13.0 + number / 20, number, "boot-n2").answer(13.0 + number / 20, "n2")
    story.listed(14.02, "boot-n2", [*range(10), 20])
    return story.add(16.0, "client", "stop")


def facts(seqs: list[int] | None = None, **more: object) -> Facts:
    """What a healthy pair says at the end; `seqs` is the final list in the container."""
    lines = None if seqs is None else tuple(f"{seq} x{seq}" for seq in seqs)
    healthy = Facts(
        nodes={"n1": HEALTHY, "n2": replace(HEALTHY, role="Primary", containers=("c1",))},
        lines=lines,
        macs=MACS,
        owners=OWNERS,
        clients=CLIENTS,
        lock_name=LOCK,
        lock={"state": "SHARED", "epoch": 4},
        impairments=(),
        scrub_code=0,
        device_errors={"[/dev/drbd0].write_io_errs": 0},
    )
    return replace(healthy, **more)  # type: ignore[arg-type] # the fields of Facts, by name


WHOLE = [*range(10), *range(20, 30)]
