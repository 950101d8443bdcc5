"""Cables: Ethernet frames relayed between the nodes of one network, with every fault that a real cable can have.

A cable with two ends is a crossover cable, one with more is a hub. Each end is a datagram socket, one frame a
datagram. A frame leaves its node through that node's outward shaper, is on the cable (where captures see it), and
enters every other node through the inward shaper there. Without a fault nothing is lost: what a node does not take
at once waits in a queue longer than any TCP window in use here.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import socket
import struct
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.errors import BadInput, HostLacks
from lab.providers.base import CLEAN, Direction, Impairment, LinkStatus, Tunnel

LOOPBACK = "127.0.0.1"
FRAME_BYTES = 65536
BATCH = 128
"""Frames taken from one end before the loop looks at everything else."""
QUEUE_FRAMES = 8192
"""Longer than tcp_wmem's 4 MiB in frames of 1500 bytes, so that no TCP connection ever meets the end of it."""
RATE_QUEUE_BYTES = 256 << 10
"""What waits before a slow link; more is dropped, as a real modem would."""
REORDER_HOLD_S = 0.01
"""How long a reordered frame is held back."""


class Shaper:
    """The impairment of one direction at one end, and its memory."""

    def __init__(self, seed: str) -> None:
        self.impairment = CLEAN
        self._rng = random.Random(seed)  # noqa: S311 - faults are meant to repeat with their seed
        self._busy_until = 0.0
        self._last_due = 0.0

    def moments(self, now: float, size_bytes: int) -> tuple[float, ...]:
        """Return when the frame comes out: once, twice (duplicated) or never (lost)."""
        fault = self.impairment
        if not fault.up or self._chance(fault.loss):
            return ()
        if fault.rate_bytes_per_s:
            start = max(now, self._busy_until)
            if (start - now) * fault.rate_bytes_per_s > RATE_QUEUE_BYTES:
                return ()
            now = self._busy_until = start + size_bytes / fault.rate_bytes_per_s
        due = now + fault.delay_s
        if fault.jitter_s:
            due = max(now, due + self._rng.uniform(-fault.jitter_s, fault.jitter_s))
        if self._chance(fault.reorder):
            due += REORDER_HOLD_S
        else:
            due = self._last_due = max(due, self._last_due)
        return (due, due) if self._chance(fault.duplicate) else (due,)

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._rng.random() < probability


@dataclass(eq=False)
class _End:
    node: str
    outward: Shaper
    inward: Shaper
    sock: socket.socket | None = None
    lasting: bool = False
    """The socket stays whatever becomes of the other side: a virtual machine's, of UDP."""
    queue: deque[bytes] = field(default_factory=deque)
    sent: int = 0
    received: int = 0
    lost: int = 0
    overflowed: int = 0


class Pcap:
    """A capture file that every pcap reader understands (LINKTYPE_ETHERNET, nanoseconds)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        # https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html: magic, version 2.4, snap length, link type 1
        self._file.write(struct.pack("<IHHIIII", 0xA1B23C4D, 2, 4, 0, 0, FRAME_BYTES, 1))

    def write(self, frame: bytes) -> None:
        """Add one frame, seen now."""
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        self._file.write(struct.pack("<IIII", seconds, nanoseconds, len(frame), len(frame)) + frame)

    def close(self) -> None:
        """Write out the rest."""
        self._file.close()


class Cable:
    """One network. Must be used from within its event loop."""

    def __init__(self, network: str, nodes: Sequence[str], *, seed: int, loop: asyncio.AbstractEventLoop) -> None:
        self.network = network
        self._loop = loop
        self._ends = {
            node: _End(node, Shaper(f"{seed}/{network}/{node}/out"), Shaper(f"{seed}/{network}/{node}/in"))
            for node in nodes
        }
        self._others = {node: [end for end in self._ends.values() if end.node != node] for node in nodes}
        self._clean = True
        self._captures: list[Pcap] = []
        self._waiting: list[tuple[float, int, _End, bytes]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: list[socket.socket] = []

    def listen(self, node: str, listener: socket.socket) -> None:
        """Plug in whatever connects to `listener`: the node's card does so each time that it is brought up."""
        listener.setblocking(False)
        self._listeners.append(listener)

        def accept() -> None:
            with contextlib.suppress(BlockingIOError):  # it has hung up already
                self.plug(node, listener.accept()[0])

        self._loop.add_reader(listener, accept)

    def tunnel(self, node: str, tunnel: Tunnel) -> None:
        """Connect a virtual machine's card by UDP over the loopback address, once and for all.

        Raises:
            HostLacks: another program has taken the port.
        """
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind((LOOPBACK, tunnel.relay_port))
            # From now on only that port is heard.
            sock.connect((LOOPBACK, tunnel.machine_port))
        except OSError as error:
            sock.close()
            raise HostLacks(
                f"port {tunnel.relay_port} of {LOOPBACK} cannot be used: {error.strerror}",
                "invoke lab.destroy, then invoke lab.up: it takes other ports",
            ) from None
        self.plug(node, sock)
        self._ends[node].lasting = True

    def plug(self, node: str, sock: socket.socket) -> None:
        """Connect a node's card; an earlier one is pulled out. The cable owns the socket from now on."""
        self.unplug(node)
        sock.setblocking(False)
        end = self._ends[node]
        end.sock = sock
        self._loop.add_reader(sock, self._drain, end, sock)

    def unplug(self, node: str) -> None:
        """Pull the cable out of a node's card; what still waited for it is gone."""
        end = self._ends[node]
        if end.sock is not None:
            self._loop.remove_reader(end.sock)
            self._loop.remove_writer(end.sock)
            end.sock.close()
            end.sock = None
            end.queue.clear()

    def close(self) -> None:
        """Unplug everything."""
        for node in self._ends:
            self.unplug(node)
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        if self._timer:
            self._timer.cancel()
        for capture in list(self._captures):
            self.stop_capture(capture)

    def set_link(self, node: str, direction: Direction, impairment: Impairment) -> None:
        """Let one end do this from now on.

        Raises:
            BadInput: the node is not on this network.
        """
        end = self._end(node)
        if direction in ("out", "both"):
            end.outward.impairment = impairment
        if direction in ("in", "both"):
            end.inward.impairment = impairment
        self._clean = all(
            shaper.impairment == CLEAN for end in self._ends.values() for shaper in (end.outward, end.inward)
        )

    def start_capture(self, path: Path) -> Pcap:
        """Write every frame that is on the cable to a file."""
        self._captures.append(Pcap(path))
        return self._captures[-1]

    def stop_capture(self, capture: Pcap) -> None:
        """End a capture; one that has ended already is fine."""
        if capture in self._captures:
            self._captures.remove(capture)
            capture.close()

    def status(self) -> list[LinkStatus]:
        """Return faults and counters of each end."""
        return [
            LinkStatus(
                node=end.node,
                network=self.network,
                plugged=end.sock is not None,
                outward=end.outward.impairment,
                inward=end.inward.impairment,
                sent=end.sent,
                received=end.received,
                lost=end.lost,
                overflowed=end.overflowed,
            )
            for end in self._ends.values()
        ]

    def _end(self, node: str) -> _End:
        if node not in self._ends:
            raise BadInput(f"{node} is not on network {self.network}", f"it joins {', '.join(self._ends)}")
        return self._ends[node]

    def _drain(self, end: _End, sock: socket.socket) -> None:
        """Relay what one node has sent, up to BATCH frames."""
        receive, others, deliver = sock.recv, self._others[end.node], self._deliver
        for _ in range(BATCH):
            try:
                frame = receive(FRAME_BYTES)
            except BlockingIOError:
                return
            except OSError:
                frame = b""
            if not frame:  # the card was taken down, or its node died
                self._gone(end)
                return
            end.sent += 1
            if self._clean:
                for capture in self._captures:
                    capture.write(frame)
                for other in others:
                    deliver(other, frame)
            else:
                self._impair(end, frame)

    def _impair(self, end: _End, frame: bytes) -> None:
        now = self._loop.time()
        sent = end.outward.moments(now, len(frame))
        end.lost += not sent
        for moment in sent:
            for capture in self._captures:
                capture.write(frame)
            for other in self._others[end.node]:
                due = other.inward.moments(moment, len(frame))
                other.lost += not due
                for at in due:
                    self._deliver_at(at, now, other, frame)

    def _deliver_at(self, due: float, now: float, end: _End, frame: bytes) -> None:
        if due <= now:
            self._deliver(end, frame)
            return
        self._count += 1
        heapq.heappush(self._waiting, (due, self._count, end, frame))
        if self._waiting[0][1] == self._count:
            self._arm()

    def _arm(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._waiting[0][0], self._release) if self._waiting else None

    def _release(self) -> None:
        now = self._loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, end, frame = heapq.heappop(self._waiting)
            if end.inward.impairment.up:
                self._deliver(end, frame)
            else:  # cut while the frame was under way
                end.lost += 1
        self._arm()

    def _deliver(self, end: _End, frame: bytes) -> None:
        if end.sock is None:
            return
        if end.queue:
            if len(end.queue) < QUEUE_FRAMES:
                end.queue.append(frame)
            else:
                end.overflowed += 1
            return
        try:
            end.sock.send(frame)
        except BlockingIOError:
            end.queue.append(frame)
            self._loop.add_writer(end.sock, self._flush, end, end.sock)
        except OSError:
            self._gone(end)
        else:
            end.received += 1

    def _gone(self, end: _End) -> None:
        """Pull the cable out of a card that is there no more; a lasting one only has nobody listening just now."""
        if end.lasting:
            end.queue.clear()
        else:
            self.unplug(end.node)

    def _flush(self, end: _End, sock: socket.socket) -> None:
        queue = end.queue
        try:
            while queue:
                sock.send(queue[0])
                queue.popleft()
                end.received += 1
        except BlockingIOError:
            return
        except OSError:
            self._gone(end)
            if not end.lasting:
                return
        self._loop.remove_writer(sock)
