"""The record of a lab's processes recognises them again, and only them."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from lab import proc
from lab.providers.record import FILE, Record, identity


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    record = Record.new(tmp_path / "memory")
    record.save(tmp_path)
    assert Record.load(tmp_path) == record
    assert record.alive("supervisor")
    assert not record.alive("n1")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"boot_id": "x", "memory": "y", "processes": {"n1": [1]}}'])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert Record.load(tmp_path) is None
    assert Record.load(tmp_path / "missing") is None


def test_another_process_of_the_same_id_is_not_taken_for_it(tmp_path: Path) -> None:
    record = Record.new(tmp_path)
    number, start = record.processes["supervisor"]
    assert not dataclasses.replace(record, processes={"supervisor": (number, start + 1)}).alive("supervisor")
    assert not dataclasses.replace(record, boot_id="another boot of this machine").alive("supervisor")


def test_only_a_folder_of_ours_is_removed(tmp_path: Path) -> None:
    for name in ("hapair-abc", "home"):
        (tmp_path / name).mkdir()
        dataclasses.replace(Record.new(tmp_path / name)).remove_memory()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.spawns
def test_what_still_runs_is_killed(tmp_path: Path) -> None:
    child = proc.spawn(["sleep", "100"])
    record = Record("", str(tmp_path), {"n1": identity(child.pid)})
    record.kill()
    assert child.poll() is None, "of another boot: not ours"
    record.boot_id = Record.new(tmp_path).boot_id
    record.kill()
    assert child.wait(5) == -9
    assert identity(child.pid) == (child.pid, 0)
    assert identity(os.getpid())[1] > 0
