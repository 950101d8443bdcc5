"""The parser, on lines of real nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hapair.events import BadLine, World, apply, parse, parse_proc
from hapair.states import Connection, Disk, Helper, Kernel, Replication, Role
from hypothesis import given
from hypothesis import strategies as st

SAMPLES = Path(__file__).parent / "samples"
"""What drbd-utils 9.22 printed on two real nodes with the 8.4.11 module."""
DUMP, UP, CUT, FENCED, BACK, DOWN, PROC = (
    (SAMPLES / f"{name}.txt").read_text() for name in ("dump", "up", "cut", "fenced", "back", "down", "proc")
)


def after(*texts: str) -> World:
    world = World()
    for line in "".join(texts).splitlines():
        world = apply(world, parse(line))
    return world


def kernel(*texts: str) -> Kernel:
    return after(*texts).resources["r0"]


def test_a_dump_is_complete_only_at_its_end() -> None:
    lines = DUMP.splitlines(keepends=True)
    assert not after(*lines[:-1]).complete
    world = after(*lines)
    assert world.complete
    assert world.resources["r0"].together


def test_a_resource_comes_up_and_is_promoted() -> None:
    seen = kernel(UP)
    assert seen.role is Role.PRIMARY
    assert seen.together
    assert seen.suspended == frozenset()


def test_connected_counts_only_once_the_peers_role_is_known() -> None:
    lines = UP.splitlines(keepends=True)
    early = kernel(*lines[:10])
    assert early.connection is Connection.CONNECTED
    assert not early.connected
    assert kernel(*lines[:11]).connected


def test_a_cut_freezes_io_and_calls_the_handler() -> None:
    seen = kernel(UP, CUT)
    assert seen.suspended == {"fencing"}
    assert seen.connection is Connection.CONNECTING
    assert seen.peer_role is Role.UNKNOWN
    assert seen.fence_helper == Helper(running=True)
    assert seen.volumes[0].peer_disk is Disk.UNKNOWN


def test_the_handlers_answer_and_what_follows() -> None:
    seen = kernel(UP, CUT, FENCED)
    assert seen.fence_helper == Helper(running=False, status=1024)
    assert not seen.fence_helper.failed
    assert seen.suspended == frozenset()
    assert seen.volumes[0].peer_disk is Disk.OUTDATED


@pytest.mark.parametrize(("status", "failed"), [(256, True), (0, True), (1280, True), (1536, True), (1792, False)])
def test_which_exit_codes_leave_io_frozen(status: int, failed: bool) -> None:
    assert Helper(running=False, status=status).failed is failed


def test_a_reconnection_passes_through_a_resync() -> None:
    lines = BACK.splitlines(keepends=True)
    during = kernel(UP, CUT, FENCED, *lines[:3])
    assert during.volumes[0].replication is Replication.OTHER
    assert not during.settled
    source = kernel(UP, CUT, FENCED, *lines[:6])
    assert source.peer_lacks_data
    assert not source.peer_current
    assert kernel(UP, CUT, FENCED, BACK).together


def test_other_helpers_do_not_look_like_fence_peer() -> None:
    assert kernel(UP, BACK).fence_helper is None


def test_a_resource_goes_away() -> None:
    assert after(UP, DOWN).resources == {}


def test_a_dump_without_resources() -> None:
    world = after("exists -\n")
    assert world.complete
    assert world.resources == {}


@pytest.mark.parametrize("line", ["", "exists", "change resource role:Primary", "hello world name:r0", "exists -  x"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(BadLine):
        parse(line)


def test_words_nobody_documented_count_as_the_most_careful() -> None:
    seen = kernel(UP, "change connection name:r0 connection:Sideways role:Emperor\n")
    assert not seen.connected
    assert seen.peer_role is Role.UNKNOWN
    assert kernel(UP, "change device name:r0 volume:0 disk:Shiny\n").claimable is False


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\n")))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        event = parse(text)
    except BadLine:
        return
    assert apply(World(), event) is not None


def test_proc_drbd() -> None:
    found = parse_proc(PROC)
    assert sorted(found) == [0, 1, 3, 4]
    assert found[0].role is Role.PRIMARY
    assert found[0].suspended
    assert not found[0].connected
    assert found[1].connected
    assert not found[1].claimable
    assert found[1].volumes[0].replication is Replication.SYNC_TARGET
    assert found[3].together
    assert not found[3].suspended
    assert found[4].connection is Connection.STANDALONE
    assert found[4].claimable


@pytest.mark.parametrize(
    ("state", "connected"),
    [("WFReportParams", False), ("WFBitMapS", True), ("VerifyS", True), ("BrokenPipe", False), ("Whatever", False)],
)
def test_proc_drbd_connection_words(state: str, connected: bool) -> None:
    text = f" 0: cs:{state} ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n"
    assert parse_proc(text)[0].connected is connected
