"""What DRBD calls: the fence decision through the agent and without it, and the node's removal."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hapair import direct, handlers
from hapair.fence.site import fence_of
from hapair.fencing import Fence, Held, no_guard
from hapair.lock import LockState

from .conftest import Host


@pytest.fixture
def lock(n1: Host) -> Fence:
    """The lock of a connected pair."""
    made = fence_of(n1.config, "r0", n1.paths)
    assert made.create(no_guard).held is Held.HELD
    return made


def fence_peer(host: Host) -> int:
    return direct.run("fence-peer", "r0", time.monotonic(), host.paths)


def test_shared_becomes_solo_and_the_answer_is_4(lock: Fence, n1: Host) -> None:
    n1.alone()
    assert fence_peer(n1) == 4
    record = lock.read().record
    assert record is not None
    assert (record.state, record.owner) == (LockState.SOLO, "uuid-n1")
    assert lock.note() == record
    assert n1.decisions()[-1]["rule"] == "F1"


def test_own_solo_is_written_anew(lock: Fence, n1: Host) -> None:
    n1.alone()
    before = lock.take().record
    assert fence_peer(n1) == 4
    after = lock.read().record
    assert before is not None
    assert after is not None
    assert after.epoch == before.epoch + 1


def test_a_secondary_that_lost_outdates_itself(lock: Fence, n2: Host) -> None:
    lock.take()
    n2.alone("Secondary")
    assert fence_peer(n2) == 6
    assert not n2.removed


def test_a_primary_that_lost_removes_itself(lock: Fence, n2: Host) -> None:
    lock.take()
    n2.alone("Primary")
    assert fence_peer(n2) == 1
    assert n2.removed


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("disk", ["Inconsistent", "Outdated", "Diskless", "Failed"])
def test_bad_data_never_asks(n1: Host, disk: str) -> None:
    n1.alone("Secondary", disk)
    assert fence_peer(n1) == 1


@pytest.mark.usefixtures("lock")
def test_consistent_data_may_ask(n1: Host) -> None:
    n1.alone("Secondary", "Consistent")
    assert fence_peer(n1) == 4


@pytest.mark.usefixtures("lock")
def test_a_tombstone_never_asks(n1: Host) -> None:
    n1.alone("Secondary")
    n1.paths.tombstone("r0").write_text("")
    assert fence_peer(n1) == 1


def test_unknown_lock_fails_at_the_deadline(n1: Host) -> None:
    n1.alone()
    began = time.monotonic()
    assert fence_peer(n1) == 1
    assert 0.5 <= time.monotonic() - began < 1.5
    assert not n1.removed


def test_unknown_role_is_not_answered_with_6(lock: Fence, n2: Host) -> None:
    lock.take()
    n2.alone("Unknown")
    assert fence_peer(n2) == 1
    assert not n2.removed


def test_without_configuration_io_stays_frozen(n1: Host) -> None:
    n1.paths.config.write_text("{")
    assert fence_peer(n1) == 1


def disk_fails(host: Host) -> int:
    return direct.run("local-io-error", "r0", time.monotonic(), host.paths)


def test_a_failed_disk_of_a_primary_hands_the_lock_over(lock: Fence, n1: Host) -> None:
    n1.together("Primary")
    assert disk_fails(n1) == 0
    assert n1.paths.tombstone("r0").exists()
    record = lock.read().record
    assert record is not None
    assert (record.state, record.owner, record.writer) == (LockState.SOLO, "uuid-n2", "uuid-n1")
    assert not n1.removed
    assert n1.decisions()[-1]["why"] == "handed the lock over, epoch 2"


def test_a_failed_disk_of_a_lone_primary_keeps_the_lock_and_removes_the_node(lock: Fence, n1: Host) -> None:
    n1.alone("Primary")
    lock.take()
    assert disk_fails(n1) == 0
    assert n1.paths.tombstone("r0").exists()
    record = lock.read().record
    assert record is not None
    assert record.owner == "uuid-n1"
    assert n1.removed


def test_a_failed_disk_without_a_store_removes_the_primary(n1: Host) -> None:
    n1.together("Primary")
    assert disk_fails(n1) == 0
    assert n1.paths.tombstone("r0").exists()
    assert n1.removed


def test_a_failed_disk_of_a_secondary_leaves_a_tombstone_and_returns(lock: Fence, n2: Host) -> None:
    began = time.monotonic()
    assert disk_fails(n2) == 0
    assert time.monotonic() - began < 0.5
    assert n2.paths.tombstone("r0").exists()
    assert not n2.removed
    record = lock.read().record
    assert record is not None
    assert record.state is LockState.SHARED


@pytest.mark.parametrize("missing", ["proc", "config", "state"])
def test_a_failed_disk_and_nothing_to_rely_on_removes_the_node(n1: Host, missing: str) -> None:
    n1.together("Primary")
    if missing == "proc":
        n1.paths.proc_drbd.unlink()
    elif missing == "config":
        n1.paths.config.unlink()
    else:
        n1.paths.state.rmdir()
        n1.paths.state.write_text("a file where a folder should be")
    assert disk_fails(n1) == 0
    assert n1.removed


def test_no_data_anywhere_removes_the_node(n1: Host) -> None:
    assert direct.run("pri-on-incon-degr", "r0", time.monotonic(), n1.paths) == 0
    assert n1.removed


def test_split_brain_is_marked_and_nothing_removed(n1: Host) -> None:
    assert direct.run("split-brain", "r0", time.monotonic(), n1.paths) == 0
    assert n1.paths.split_brain("r0").exists()
    assert not n1.removed


@contextmanager
def agent_that_says(path: Path, reply: bytes) -> Iterator[list[bytes]]:
    """A socket that answers one question."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        yield asked
        thread.join()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b'{"exit": 4, "done": true}\n', 4),
        (b'{"exit": 6, "done": true}\n', 6),
        (b'{"exit": 1, "done": true}\n', 1),
        (b'{"exit": 5, "done": true}\n', None),
        (b'{"exit": 41, "done": true}\n', None),
        (b"nonsense\n", None),
        (b"", None),
    ],
)
def test_the_agents_answer_is_passed_on_only_when_it_is_one(tmp_path: Path, reply: bytes, code: int | None) -> None:
    path = tmp_path / "agent.sock"
    with agent_that_says(path, reply) as asked:
        assert handlers.ask_agent("r0", str(path)) == code
    assert asked == [b'{"op": "fence-peer", "resource": "r0"}\n']


def test_no_agent(tmp_path: Path) -> None:
    assert handlers.ask_agent("r0", str(tmp_path / "nobody.sock")) is None


def test_without_an_agent_the_handler_decides_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[tuple[str, str]] = []

    def run(name: str, resource: str, began: float) -> int:
        called.append((name, resource))
        return 4 if began <= time.monotonic() else 1

    monkeypatch.setattr(direct, "run", run)
    monkeypatch.setenv("DRBD_RESOURCE", "r0")
    assert handlers.main("fence-peer", str(tmp_path / "nobody.sock")) == 4
    assert handlers.main("split-brain", str(tmp_path / "nobody.sock")) == 4
    assert called == [("fence-peer", "r0"), ("split-brain", "r0")]
