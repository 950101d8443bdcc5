"""Taking and giving back the lock, through real HTTP."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hapair.fence.base import Reading, Writing, Written
from hapair.fence.http import HttpStore
from hapair.fence.site import fence_of
from hapair.fencing import Busy, Fence, Held, flocked, no_guard
from hapair.lock import LockState, after

from .conftest import Host


def fence(host: Host) -> Fence:
    return fence_of(host.config, "r0", host.paths)


@pytest.fixture
def lock(n1: Host) -> Fence:
    """n1's view of a lock that was just created."""
    made = fence(n1)
    assert made.create(no_guard).held is Held.HELD
    return made


def requests(tmp_path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (tmp_path / "store/requests.jsonl").read_text().splitlines()]


def test_a_missing_object_is_unknown_never_free(n1: Host) -> None:
    made = fence(n1)
    for answer in (made.read(), made.take(), made.record_promotion(), made.release(no_guard)):
        assert answer.held is Held.UNAVAILABLE
        assert answer.record is None
        assert not answer.down


@pytest.mark.usefixtures("lock")
def test_create_only_where_there_is_none(n2: Host) -> None:
    again = fence(n2).create(no_guard)
    assert again.held is Held.REFUSED
    assert again.record is not None
    assert again.record.owner == "uuid-n1"


def test_take_release_take(lock: Fence, n2: Host) -> None:
    taken = lock.take()
    assert taken.held is Held.HELD
    assert lock.note() == taken.record
    assert fence(n2).take().held is Held.REFUSED
    assert fence(n2).release(no_guard).held is Held.REFUSED
    assert lock.release(no_guard).held is Held.HELD
    assert lock.note() is None
    assert fence(n2).take().held is Held.HELD
    assert lock.take().held is Held.REFUSED


def test_own_solo_counts_only_after_a_fresh_write(lock: Fence) -> None:
    first, second = lock.take(), lock.take()
    assert first.record is not None
    assert second.record is not None
    assert second.record.epoch == first.record.epoch + 1
    assert second.record.attempt_id != first.record.attempt_id


def test_an_objection_stops_the_write(lock: Fence) -> None:
    answer = lock.take(lambda: "the disk is Inconsistent")
    assert answer.held is Held.UNAVAILABLE
    assert answer.text == "the disk is Inconsistent"
    assert lock.read().record == answer.record
    assert lock.note() is None


def test_hand_over_and_what_the_peer_may_do_then(lock: Fence, n2: Host) -> None:
    other = fence(n2)
    lock.take()
    assert lock.hand_over(no_guard).held is Held.HELD
    assert lock.note() is None
    assert lock.take().held is Held.REFUSED
    assert other.release(no_guard).held is Held.REFUSED, "n1 may be about to leave"
    assert other.take().held is Held.HELD
    assert other.release(no_guard).held is Held.HELD


def test_a_hand_over_is_kept_until_its_writer_stays(lock: Fence, n2: Host) -> None:
    leaver = fence(n2)
    assert lock.take().held is Held.HELD
    assert leaver.hand_over(no_guard).held is Held.HELD
    assert lock.release(no_guard).held is Held.REFUSED
    assert lock.stay(no_guard).held is Held.REFUSED, "only the writer knows whether it leaves"
    assert leaver.stay(lambda: "not together").held is Held.UNAVAILABLE
    stays = leaver.stay(no_guard)
    assert (stays.held, stays.record and stays.record.owner) == (Held.HELD, "uuid-n1")
    assert leaver.hand_over(no_guard).held is Held.HELD
    assert lock.release(no_guard).held is Held.REFUSED, "it leaves after all"
    assert leaver.stay(no_guard).held is Held.HELD
    assert lock.release(no_guard).held is Held.HELD
    assert leaver.stay(no_guard).held is Held.REFUSED


@pytest.mark.usefixtures("lock")
def test_of_two_promotions_at_once_one_looks_again(n1: Host, n2: Host) -> None:
    """F6: who lost the race must not write over the winner, which may be Primary already."""

    class Overtaken(Flaky):
        def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
            if not self.bodies:
                assert fence(n2).record_promotion().held is Held.HELD
            return super().write(name, body, tag, limit_s)

    made, _ = flaky(n1, [])
    backend = Overtaken(HttpStore(n1.config.store.url), [])
    made._backend = backend
    assert made.record_promotion().held is Held.UNAVAILABLE
    assert len(backend.bodies) == 1
    seen = made.read().record
    assert seen is not None
    assert seen.writer == "uuid-n2"


def test_promotion_record(lock: Fence, n2: Host) -> None:
    answer = fence(n2).record_promotion()
    assert answer.record is not None
    assert (answer.record.state, answer.record.owner) == (LockState.SHARED, "uuid-n2")
    lock.take()
    assert fence(n2).record_promotion().held is Held.REFUSED


def test_a_store_restored_from_a_backup_is_refused(lock: Fence, tmp_path: Path) -> None:
    backup = (tmp_path / "store/locks/example-r0").read_bytes()
    lock.take()
    lock.release(no_guard)
    (tmp_path / "store/locks/example-r0").write_bytes(backup)
    answer = lock.take()
    assert answer.held is Held.UNAVAILABLE
    assert "went back" in answer.text


@pytest.mark.parametrize("body", [b"UNLOCKED", b"{}", b"", b"<html>login</html>"])
def test_garbage_in_the_store_is_unknown(lock: Fence, tmp_path: Path, body: bytes) -> None:
    (tmp_path / "store/locks/example-r0").write_bytes(body)
    answer = lock.take()
    assert answer.held is Held.UNAVAILABLE
    assert (tmp_path / "store/locks/example-r0").read_bytes() == body


class Flaky:
    """A `Backend` around the real one: `writes` says how each coming write goes wrong."""

    def __init__(self, inner: HttpStore, writes: list[str]) -> None:
        self.inner, self.writes = inner, writes
        self.bodies: list[bytes] = []

    def read(self, name: str, limit_s: float) -> Reading:
        return self.inner.read(name, limit_s)

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        self.bodies.append(body)
        how = self.writes.pop(0) if self.writes else "well"
        if how == "lost request":
            return Writing(Written.UNCLEAR, "time-out")
        answer = self.inner.write(name, body, tag, limit_s)
        if how == "lost reply":
            return Writing(Written.UNCLEAR, "time-out")
        if how == "412 for own success":
            return Writing(Written.CONFLICT, "412")
        return answer


def flaky(host: Host, writes: list[str]) -> tuple[Fence, Flaky]:
    backend = Flaky(HttpStore(host.config.store.url), writes)
    made = Fence(
        resource="r0",
        name="example-r0",
        me="uuid-n1",
        peer="uuid-n2",
        backend=backend,
        paths=host.paths,
        timeout_s=1.0,
    )
    return made, backend


@pytest.mark.usefixtures("lock")
@pytest.mark.parametrize("how", ["lost reply", "412 for own success"])
def test_own_success_is_recognised_by_its_attempt(n1: Host, how: str) -> None:
    made, backend = flaky(n1, [how])
    answer = made.take()
    assert answer.held is Held.HELD
    assert len(backend.bodies) == 1
    assert made.note() == answer.record


@pytest.mark.usefixtures("lock")
def test_a_lost_request_is_unavailable_and_leaves_no_note(n1: Host) -> None:
    made, _ = flaky(n1, ["lost request"])
    assert made.take().held is Held.UNAVAILABLE
    assert made.note() is None
    assert made.take().held is Held.HELD


def test_the_note_goes_before_a_release_is_written(lock: Fence, n1: Host) -> None:
    lock.take()
    made, _ = flaky(n1, ["lost request"])
    assert made.release(no_guard).held is Held.UNAVAILABLE
    assert made.note() is None


@pytest.mark.parametrize("later", [0, 1])
def test_a_version_that_is_not_its_own_takes_the_note_away(lock: Fence, n1: Host, later: int) -> None:
    taken = lock.take().record
    assert taken is not None
    lock.read()
    assert lock.note() == taken
    store = HttpStore(n1.config.store.url)
    shared = after(taken, LockState.SHARED, owner="uuid-n2", writer="uuid-n2", attempt_id="by hand", time=1.0)
    shared = replace(shared, epoch=taken.epoch + later)  # the same epoch: a store without conditions
    tag = store.read(lock.name, 1.0).tag
    assert store.write(lock.name, shared.to_bytes(), tag, 1.0).written is Written.YES
    assert lock.read().record == shared
    assert lock.note() is None


@pytest.mark.usefixtures("lock")
def test_a_conflict_starts_over_on_the_new_version(n1: Host, n2: Host) -> None:
    class Overtaken(Flaky):
        def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
            if not self.bodies:
                fence(n2).record_promotion()
            return super().write(name, body, tag, limit_s)

    made, _ = flaky(n1, [])
    backend = Overtaken(HttpStore(n1.config.store.url), [])
    made._backend = backend
    answer = made.take()
    assert answer.held is Held.HELD
    assert answer.record is not None
    assert answer.record.epoch == 3
    assert len(backend.bodies) == 2


def test_no_attempt_goes_on_beyond_the_deadline(n1: Host) -> None:
    made = fence_of(n1.config, "r0", n1.paths)
    assert made.take(no_guard, time.monotonic() - 1).held is Held.UNAVAILABLE


def test_the_local_lock_keeps_programs_apart(lock: Fence, n1: Host) -> None:
    with lock.local_lock(1.0), pytest.raises(Busy), fence(n1).local_lock(0.05):
        pytest.fail("two at once")
    with fence(n1).local_lock(0.05):
        assert n1.paths.local_lock("r0").exists()


def test_a_lock_file_is_waited_for_within_its_limit(tmp_path: Path) -> None:
    path, freed = tmp_path / "run/lock", threading.Event()
    held = contextlib.ExitStack()
    held.enter_context(flocked(path, 0.0, "has it"))
    with pytest.raises(Busy, match="another program of this node has it"), flocked(path, 0.0, "has it"):
        pytest.fail("both have it")

    def free() -> None:
        freed.set()
        held.close()

    threading.Timer(0.1, free).start()
    with flocked(path, 10.0, "has it"):
        assert freed.is_set()


def test_a_late_release_never_erases_a_new_fence(lock: Fence, n1: Host) -> None:
    """F1: own SOLO is written anew, so the version that an old release was conditioned on is gone."""
    lock.take()
    backend = HttpStore(n1.config.store.url)
    before = backend.read("example-r0", 1.0)
    lock.take()
    late = backend.write("example-r0", before.body.replace(b"SOLO", b"SHARED"), before.tag, 1.0)
    assert late.written is Written.CONFLICT
    seen = lock.read().record
    assert seen is not None
    assert seen.state is LockState.SOLO


def test_conditions_are_probed(lock: Fence, n1: Host) -> None:
    assert lock.conditions_hold() == ""

    class Careless:
        def read(self, name: str, limit_s: float) -> Reading:
            raise NotImplementedError

        def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
            del name, body, tag, limit_s
            return Writing(Written.YES)

    made, _ = flaky(n1, [])
    made._backend = Careless()
    assert "ignores conditions" in made.conditions_hold()
