"""Cables between real sockets: every impairment, hubs, unplugging, captures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lab.errors import BadInput, HostLacks
from lab.providers import cable as module
from lab.providers.base import CLEAN, Direction, Impairment, Tunnel
from lab.providers.cable import LOOPBACK, Cable, Shaper

Scenario = Callable[["Wire"], Awaitable[None]]


class Wire:
    """A cable, and the nodes' own ends of its sockets."""

    def __init__(self, nodes: tuple[str, ...], seed: int = 1) -> None:
        self.loop = asyncio.get_running_loop()
        self.cable = Cable("lan", nodes, seed=seed, loop=self.loop)
        self.ends = {node: self.plug(node) for node in nodes}

    def plug(self, node: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.cable.plug(node, theirs)
        ours.setblocking(False)
        return ours

    async def get(self, node: str, limit_s: float = 5.0) -> bytes:
        return await asyncio.wait_for(self.loop.sock_recv(self.ends[node], 65536), limit_s)

    async def silent(self, node: str) -> bool:
        """True if nothing comes; a frame sent before this call would have come by the end of the loop's next rounds."""
        for _ in range(5):
            await asyncio.sleep(0)
        with contextlib.suppress(BlockingIOError):
            self.ends[node].recv(65536)
            return False
        return True

    def send(self, node: str, *frames: bytes) -> None:
        for frame in frames:
            self.ends[node].send(frame)

    def set(self, direction: Direction = "both", node: str = "n1", **fault: float | bool | None) -> None:
        self.cable.set_link(node, direction, Impairment(**fault))  # type: ignore[arg-type]  # the test's own keywords


@contextlib.asynccontextmanager
async def wire(*nodes: str) -> AsyncIterator[Wire]:
    made = Wire(nodes or ("n1", "n2"))
    try:
        yield made
    finally:
        made.cable.close()
        for end in made.ends.values():
            end.close()


def test_frames_pass_both_ways_and_are_counted() -> None:
    async def body() -> None:
        async with wire() as made:
            made.send("n1", b"ping")
            assert await made.get("n2") == b"ping"
            made.send("n2", b"pong")
            assert await made.get("n1") == b"pong"
            first, second = made.cable.status()
            assert (first.node, first.sent, first.received, first.lost) == ("n1", 1, 1, 0)
            assert (second.node, second.sent, second.received, second.plugged) == ("n2", 1, 1, True)

    asyncio.run(body())


def test_a_hub_gives_each_frame_to_all_others_and_to_nobody_twice() -> None:
    async def body() -> None:
        async with wire("n1", "n2", "third") as made:
            made.send("n2", b"hello")
            assert await made.get("n1") == b"hello"
            assert await made.get("third") == b"hello"
            assert await made.silent("n2")
            assert await made.silent("n1")

    asyncio.run(body())


@pytest.mark.parametrize(
    ("direction", "first_hears", "second_hears"),
    [("both", False, False), ("out", True, False), ("in", False, True)],
)
def test_a_cut_in_each_direction(direction: Direction, first_hears: bool, second_hears: bool) -> None:
    async def body() -> None:
        async with wire() as made:
            made.set(direction, up=False)
            made.send("n1", b"from n1")
            made.send("n2", b"from n2")
            assert await made.silent("n1") is not first_hears
            assert await made.silent("n2") is not second_hears
            lost = sum(end.lost for end in made.cable.status())
            assert lost == 2 - first_hears - second_hears
            made.cable.set_link("n1", direction, CLEAN)
            made.send("n1", b"healed")
            while await made.get("n2") != b"healed":
                pass

    asyncio.run(body())


def test_a_cut_of_a_hub_leaves_the_other_nodes_joined() -> None:
    async def body() -> None:
        async with wire("n1", "n2", "third") as made:
            made.set(up=False)
            made.send("n2", b"still here")
            assert await made.get("third") == b"still here"
            assert await made.silent("n1")

    asyncio.run(body())


def test_delay_holds_frames_back_and_keeps_their_order() -> None:
    async def body() -> None:
        async with wire() as made:
            made.set("out", delay_s=0.05)
            start_s = made.loop.time()
            made.send("n1", b"1", b"2", b"3")
            assert [await made.get("n2") for _ in range(3)] == [b"1", b"2", b"3"]
            assert made.loop.time() - start_s >= 0.05

    asyncio.run(body())


def test_frames_under_way_are_lost_when_the_link_is_cut() -> None:
    async def body() -> None:
        async with wire() as made:
            made.set("in", node="n2", delay_s=0.05)
            made.send("n1", b"too late")
            assert await made.silent("n2")
            made.set("in", node="n2", up=False)
            made.set("in", node="n1", delay_s=0.06)
            made.send("n2", b"a clock of its own")
            assert await made.get("n1") == b"a clock of its own"
            assert await made.silent("n2")
            assert made.cable.status()[1].lost == 1

    asyncio.run(body())


def test_everything_duplicated() -> None:
    async def body() -> None:
        async with wire() as made:
            made.set("out", duplicate=1.0)
            made.send("n1", b"twice")
            assert [await made.get("n2"), await made.get("n2")] == [b"twice", b"twice"]
            assert await made.silent("n2")

    asyncio.run(body())


def test_a_node_that_does_not_take_its_frames_loses_none_until_its_queue_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUEUE_FRAMES", 300)

    async def body() -> None:
        async with wire() as made:
            sent = 0
            while made.cable.status()[1].overflowed == 0:
                with contextlib.suppress(BlockingIOError):
                    made.send("n1", sent.to_bytes(4, "big") + bytes(1000))
                    sent += 1
                await asyncio.sleep(0)
            held = 0
            while await made.silent("n2") is False:
                held += 1
            status = made.cable.status()[1]
            assert status.received == held == sent - status.overflowed
            assert held > 300

    asyncio.run(body())


def test_a_card_that_goes_down_is_unplugged_and_a_new_one_takes_its_place() -> None:
    async def body() -> None:
        async with wire() as made:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind("\0hapair-test-cable")
            listener.listen()
            made.cable.listen("n2", listener)
            for text in (b"first", b"second"):
                card = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                card.setblocking(False)
                card.connect("\0hapair-test-cable")
                card.send(text)  # what comes from the card shows that the cable has accepted it
                assert await made.get("n1") == text
                made.send("n1", b"answer")
                assert await asyncio.wait_for(made.loop.sock_recv(card, 100), 5) == b"answer"
                card.close()
                while made.cable.status()[1].plugged:
                    await asyncio.sleep(0)
                made.send("n1", b"into the void")
                assert made.cable.status()[0].plugged

    asyncio.run(body())


def test_a_capture_holds_what_was_on_the_cable(tmp_path: Path) -> None:
    async def body() -> None:
        async with wire() as made:
            capture = made.cable.start_capture(tmp_path / "lan.pcap")
            made.send("n1", b"frame one")
            await made.get("n2")
            made.set("out", up=False)
            made.send("n1", b"never left its node")
            assert await made.silent("n2")
            made.send("n2", b"frame two")
            await made.get("n1")
            made.cable.stop_capture(capture)
            made.send("n2", b"after the end")
            await made.get("n1")

    asyncio.run(body())
    data = (tmp_path / "lan.pcap").read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 65536, 1)
    frames, at = [], 24
    while at < len(data):
        _, nanoseconds, length, original = struct.unpack_from("<IIII", data, at)
        assert nanoseconds < 10**9
        assert length == original
        frames.append(data[at + 16 : at + 16 + length])
        at += 16 + length
    assert frames == [b"frame one", b"frame two"]


def test_only_nodes_of_the_network_have_links() -> None:
    async def body() -> None:
        async with wire() as made:
            with pytest.raises(BadInput, match="third is not on network lan"):
                made.cable.set_link("third", "out", CLEAN)

    asyncio.run(body())


def moments(count: int, gap_s: float = 0.001, size: int = 1000, seed: str = "1", **fault: float) -> list[list[float]]:
    """Return when each of `count` frames comes out of a shaper, sent `gap_s` apart from moment 100 on."""
    shaper = Shaper(seed)
    shaper.impairment = Impairment(**fault)  # type: ignore[arg-type]  # the test's own keywords
    return [list(shaper.moments(100 + number * gap_s, size)) for number in range(count)]


def test_without_a_fault_a_frame_comes_out_once_and_at_once() -> None:
    assert moments(2) == [[100.0], [100.001]]


def test_loss_and_duplication_come_as_often_as_asked() -> None:
    lost = sum(not out for out in moments(5000, loss=0.1))
    assert 400 < lost < 600
    twice = sum(len(out) == 2 for out in moments(5000, duplicate=0.2))
    assert 900 < twice < 1100


def test_jitter_spreads_the_delay_and_keeps_the_order() -> None:
    out = [times[0] for times in moments(1000, delay_s=0.1, jitter_s=0.05)]
    assert out == sorted(out)
    delays = [at - (100 + number * 0.001) for number, at in enumerate(out)]
    assert 0.05 <= min(delays) < max(delays) <= 0.15 + 1e-9
    assert max(delays) - min(delays) > 0.02


def test_a_reordered_frame_is_overtaken() -> None:
    out = [times[0] for times in moments(1000, reorder=0.1)]
    overtaken = sum(late > early for late, early in itertools.pairwise(out))
    assert out != sorted(out)
    assert overtaken > 50
    assert len(out) == 1000


def test_the_rate_is_kept_and_what_does_not_fit_the_queue_is_dropped() -> None:
    out = moments(1000, gap_s=0.0, size=1000, rate_bytes_per_s=1_000_000)
    arrived = [times[0] for times in out if times]
    assert arrived[0] == pytest.approx(100.001)
    assert arrived[99] == pytest.approx(100.1)
    assert len(arrived) == module.RATE_QUEUE_BYTES // 1000 + 1


def test_the_same_seed_gives_the_same_faults() -> None:
    def faulty(seed: str) -> list[list[float]]:
        return moments(200, seed=seed, loss=0.3, jitter_s=0.01, delay_s=0.02, duplicate=0.1, reorder=0.1)

    assert faulty("1") == faulty("1")
    assert faulty("1") != faulty("2")


@pytest.mark.parametrize("fault", [{"loss": 1.1}, {"reorder": -0.1}, {"delay_s": -1}, {"rate_bytes_per_s": 0}])
def test_an_impairment_that_cannot_be_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        Impairment(**fault)  # type: ignore[arg-type]  # the test's own keywords


def udp(port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((LOOPBACK, port))
    made.setblocking(False)
    return made


def test_a_machine_is_reached_through_a_tunnel_and_may_come_later() -> None:
    async def scenario() -> None:
        wire = Wire(("n1", "third"))
        first, relay = udp(), udp()
        port, relay_port = first.getsockname()[1], relay.getsockname()[1]
        tunnel = Tunnel(port, relay_port)
        with pytest.raises(HostLacks, match=f"port {relay_port}"):
            wire.cable.tunnel("n1", tunnel)
        relay.close()
        first.close()
        wire.cable.tunnel("n1", tunnel)
        wire.send("third", b"to nobody")
        for _ in range(20):
            await asyncio.sleep(0)
        machine = udp(port)
        machine.sendto(b"hello", (LOOPBACK, relay_port))
        assert await wire.get("third") == b"hello"
        wire.send("third", b"welcome")
        assert await asyncio.wait_for(wire.loop.sock_recv(machine, 100), 5) == b"welcome"
        stranger = udp()
        stranger.sendto(b"forged", (LOOPBACK, relay_port))
        assert await wire.silent("third")
        wire.cable.set_link("n1", "out", Impairment(up=False))
        machine.sendto(b"cut", (LOOPBACK, relay_port))
        assert await wire.silent("third")
        for end in (machine, stranger, *wire.ends.values()):
            end.close()
        wire.cable.close()

    asyncio.run(scenario())
