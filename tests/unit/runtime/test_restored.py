"""F9: a store that was put back from a backup is believed only when a person says so, naming both epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hapair import fence_cli
from hapair.fence.site import fence_of
from hapair.fencing import Held, no_guard
from hapair.lock import LockState

from .conftest import Host


@pytest.fixture
def stored(n1: Host, tmp_path: Path) -> Path:
    """The lock as it was at epoch 1, while n1 has seen epoch 4."""
    lock = fence_of(n1.config, "r0", n1.paths)
    lock.create(no_guard)
    path = tmp_path / "store/locks/example-r0"
    backup = path.read_bytes()
    for _ in range(3):
        lock.take()
    path.write_bytes(backup)
    return path


def accept(host: Host, *more: str, epochs: tuple[int, int] = (1, 4)) -> int:
    words = ["accept-restored", "r0", "--stored", str(epochs[0]), "--seen", str(epochs[1]), "--reason", "disk broke"]
    return fence_cli.main([*words, "--confirm", "r0", *more], host.paths)


@pytest.mark.usefixtures("stored")
def test_the_way_out_is_told_with_both_epochs(n1: Host) -> None:
    answer = fence_of(n1.config, "r0", n1.paths).take()
    assert answer.held is Held.UNAVAILABLE
    assert "drbd-fence accept-restored r0 --stored 1 --seen 4" in answer.text


@pytest.mark.usefixtures("stored")
def test_both_up_to_date_is_shared(n1: Host, n2: Host) -> None:
    assert accept(n1) == 0
    record = fence_of(n1.config, "r0", n1.paths).read().record
    assert record is not None
    assert (record.state, record.epoch) == (LockState.SHARED, 5)
    assert record.reason == "restored store accepted: disk broke"
    assert fence_of(n2.config, "r0", n2.paths).read().record == record, "the other node had not seen more"
    assert fence_of(n1.config, "r0", n1.paths).take().held is Held.HELD


def test_alone_a_person_must_name_who_has_the_writes(
    n1: Host, n2: Host, stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = stored.read_bytes()
    n1.alone("Secondary", "Consistent")
    assert accept(n1) == 1
    assert "--owner" in capsys.readouterr().err
    assert stored.read_bytes() == before
    assert accept(n1, "--owner", "n2") == 0
    assert fence_of(n1.config, "r0", n1.paths).take().held is Held.REFUSED
    assert fence_of(n2.config, "r0", n2.paths).take().held is Held.HELD


@pytest.mark.parametrize("epochs", [(2, 4), (1, 3), (1, 5), (4, 1)])
def test_both_epochs_must_be_those_of_now(n1: Host, stored: Path, epochs: tuple[int, int]) -> None:
    before = stored.read_bytes()
    assert accept(n1, epochs=epochs) == 1
    assert stored.read_bytes() == before


def test_a_store_that_did_not_go_back_needs_no_word(n1: Host) -> None:
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    assert accept(n1, epochs=(1, 1)) == 1


@pytest.mark.parametrize("words", [["--owner", "n9"], ["--reason", " "], ["--confirm", "r1"]])
def test_bad_input(n1: Host, stored: Path, words: list[str]) -> None:
    before = stored.read_bytes()
    assert accept(n1, *words) == 2
    assert stored.read_bytes() == before


def test_garbage_and_a_missing_object_are_not_accepted(n1: Host, stored: Path) -> None:
    stored.write_text(json.dumps({"format": 1}))
    assert accept(n1) == 1
    stored.unlink()
    assert accept(n1) == 1


def test_a_lock_that_is_made_anew_after_a_loss_does_not_look_restored(n1: Host, stored: Path) -> None:
    stored.unlink()
    lock = fence_of(n1.config, "r0", n1.paths)
    assert lock.create(no_guard).held is Held.HELD
    seen = lock.read().record
    assert seen is not None
    assert seen.epoch == 5


@pytest.mark.usefixtures("stored")
def test_a_write_that_lands_first_is_not_taken_for_the_own_one(n1: Host, n2: Host) -> None:
    """The other node, which has seen less, takes the lock between the look and the write."""
    theirs = fence_of(n2.config, "r0", n2.paths)

    def guard() -> str:
        theirs.take()
        return ""

    answer = fence_of(n1.config, "r0", n1.paths).accept_restored(1, 4, "", guard, "test")
    assert answer.held is Held.UNAVAILABLE
    record = theirs.read().record
    assert record is not None
    assert record.owner == "uuid-n2"
