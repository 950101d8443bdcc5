"""Where things are kept follows the XDG variables, absolute ones only."""

from pathlib import Path

import pytest

from lab import paths


def test_project_is_the_folder_of_the_entry_points() -> None:
    assert (paths.PROJECT / "tasks.py").is_file() and (paths.PROJECT / "dev").is_file()


def test_variables_move_both_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", "/s")
    assert (paths.cache(), paths.labs()) == (Path("/c/hapair"), Path("/s/hapair/labs"))


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_empty_and_relative_values_are_ignored(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("XDG_STATE_HOME", value)
    assert (paths.cache(), paths.labs()) == (Path("/h/.cache/hapair"), Path("/h/.local/state/hapair/labs"))
