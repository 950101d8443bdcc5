"""The build tasks: what they take, print and answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke.context import Context

from lab.build import manifest
from lab.tasks import build
from tests.unit.build.conftest import Toy


def test_repeatable_flags_collect() -> None:
    flags = {argument.name: argument for task in (build.kernel, build.clean) for argument in task.get_arguments()}
    assert flags["source"].kind is list
    assert flags["only"].kind is list


@pytest.mark.parametrize("given", ["nonsense", "linux=", "=file"])
def test_a_source_flag_without_name_or_file_is_bad_input(
    given: str, toy: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        build.kernel(Context(), source=[given])
    assert caught.value.code == 2
    assert f"--source {given} is not NAME=FILE" in capsys.readouterr().err
    assert toy.kept("sources") == []


@pytest.mark.spawns
def test_kernel_prints_its_path_last(
    toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.build.KERNEL", "toy")
    build.kernel(Context(), source=[f"toy={toy.archive}"])
    told = capsys.readouterr()
    path = Path(told.out.splitlines()[-1])
    assert path.read_text().startswith("hello")
    assert manifest.find(path.parent)
    assert "nothing vouches for a source" in told.err


@pytest.mark.spawns
def test_list_and_clean(toy: Toy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.build.KERNEL", "toy")
    build.list_(Context())
    build.kernel(Context())
    build.list_(Context())
    build.clean(Context(), sources=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "toy  not built"
    assert lines[2].startswith("toy  good  ")
    assert toy.kept("artifacts") == toy.kept("sources") == toy.kept("logs") == []
