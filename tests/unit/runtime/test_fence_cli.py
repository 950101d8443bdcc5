"""drbd-fence's words that only look: what they print, their exit codes, and what is said when it does not work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hapair import fence_cli
from hapair.fence.site import fence_of
from hapair.fencing import no_guard

from .conftest import Host
from .test_credentials import put


@pytest.fixture
def made(n1: Host) -> Host:
    """A node whose lock was created and taken."""
    fence = fence_of(n1.config, "r0", n1.paths)
    fence.create(no_guard)
    fence.take()
    return n1


def run(host: Host, *words: str) -> int:
    return fence_cli.main(list(words), host.paths)


def with_store(host: Host, **changed: str) -> None:
    data: dict[str, Any] = json.loads(host.paths.config.read_text())
    data["store"].update(changed)
    host.paths.config.write_text(json.dumps(data))


def test_no_lock_is_taken_from_under_a_connected_peer_that_serves(
    made: Host, n2: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(made, "unlock", "r0") == 0
    serves = "version: 8.4.11\n 0: cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----\n"
    n2.paths.proc_drbd.write_text(serves)
    assert run(n2, "lock", "r0") == 1
    assert "n1 is connected and serves: `r0 secondary` there moves the services" in capsys.readouterr().err
    n2.alone("Secondary")
    assert run(n2, "lock", "r0") == 0


def test_status_for_people(made: Host, store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, "status", "r0") == 0
    told = capsys.readouterr().out
    assert told.startswith("r0: SOLO n1, epoch 2, written by n1 at 20")
    assert f"in {store_url}/v1/locks/example-r0" in told


@pytest.mark.parametrize("words", [("status", "r0", "--json"), ("--json", "status", "r0"), ("status", "--json", "r0")])
def test_status_for_programs(
    made: Host, store_url: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(made, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["owner"], told["epoch"]) == ("SOLO", "n1", 2)
    assert told["place"] == f"{store_url}/v1/locks/example-r0"


def test_history(made: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(made, "history", "r0") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "epoch 1  SHARED n1  by n1" in lines[0]
    assert "epoch 2  SOLO n1  by n1" in lines[1]
    assert len(lines) == 2
    assert run(made, "history", "r0", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [(one["epoch"], one["state"], one["owner"], one["writer"]) for one in told] == [
        (1, "SHARED", "n1", "n1"),
        (2, "SOLO", "n1", "n1"),
    ]


def test_probe_leaves_the_lock_alone(made: Host, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert run(made, "probe", "r0") == 0
    assert "honours conditions" in capsys.readouterr().out
    record = fence_of(made.config, "r0", made.paths).read().record
    assert record is not None
    assert record.epoch == 2


@pytest.mark.parametrize("word", ["status", "history", "lock", "unlock"])
def test_no_lock_yet(n1: Host, store_url: str, capsys: pytest.CaptureFixture[str], word: str) -> None:
    assert run(n1, word, "r0") == 1
    told = capsys.readouterr().err
    assert "no such lock; drbd-fence init r0 makes it" in told
    assert f"{store_url}/v1/locks/example-r0" in told


@pytest.mark.usefixtures("made")
def test_a_lock_of_the_peers(n2: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(n2, "lock", "r0") == 1
    assert "refused: the lock is SOLO n1, epoch 2\n  in http://" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [(), ("status",), ("status", "--json"), ("lock", "r0", "--json"), ("erase", "r0"), ("status", "r0", "r1")]
)
def test_words_that_are_none(n1: Host, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(n1, *words) == 2
    assert "usage: drbd-fence" in capsys.readouterr().err


def test_a_resource_that_is_none(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(n1, "status", "r9") == 2
    assert "no such resource: r9; this site has r0" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["lock", "unlock", "status", "history", "probe", "init"])
def test_credentials_that_others_may_read(
    n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str
) -> None:
    with_store(n1, credentials=put(tmp_path / "store.json", '{"bearer": "tell-nobody"}', 0o644))
    assert run(n1, word, "r0") == 2
    told = capsys.readouterr().err
    assert "chmod 600" in told
    assert "tell-nobody" not in told


@pytest.mark.parametrize(
    "words",
    [
        ("steal", "r0", "--epoch", "2", "--owner", "n2", "--reason", "x", "--confirm", "r0"),
        ("steal", "r0", "--epoch", "2", "--owner", "n2", "--reason", "x", "--confirm", "r0", "--undo"),
        ("accept-restored", "r0", "--stored", "1", "--seen", "2", "--reason", "x", "--confirm", "r0"),
    ],
)
def test_credentials_that_are_missing_are_bad_input_to_all(
    n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    with_store(n1, credentials=str(tmp_path / "none.json"))
    assert run(n1, *words) == 2
    assert "none.json: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("status", "--help")])
def test_help_is_no_complaint(n1: Host, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(n1, *words) == 0
    told = capsys.readouterr()
    assert told.out.startswith("usage: drbd-fence")
    assert told.err == ""


def test_nobody_listens(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with_store(n1, url="http://127.0.0.1:9")
    assert run(n1, "probe", "r0") == 1
    assert "the store cannot be probed" in capsys.readouterr().err
    assert run(n1, "status", "r0") == 1
    assert "127.0.0.1:9/v1/locks/example-r0" in capsys.readouterr().err
