"""The build tasks: what they take, print and answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke.context import Context

from lab import build as building
from lab import log
from lab.build import manifest, spec
from lab.errors import BadInput
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


DEFAULTS = """\
releases: {toy: "1.0"}
recipe: {toy: "1.0"}
"""


@pytest.fixture
def released(toy: Toy) -> Toy:
    """The same spec, as release 1.0, and the file that makes it the default."""
    text = toy.spec.read_text().replace("name: toy\n", "name: toy\nrelease: '1.0'\n")
    (toy.folder / "toy-1.0.yaml").write_text(text)
    (toy.folder / "defaults.yaml").write_text(DEFAULTS)
    (toy.folder / "abi.yaml").write_text("{}\n")
    return toy


@pytest.mark.usefixtures("released")
def test_the_default_release_is_built_unless_another_is_named() -> None:
    assert spec.names() == ["toy", "toy-1.0"]
    assert building.released("toy") == "toy-1.0"
    with pytest.raises(BadInput) as caught:
        building.released("toy", "2.0")
    assert "there are: 1.0" in caught.value.hint
    with pytest.raises(BadInput, match="names no release of lxd"):
        building.released("lxd")


@pytest.mark.spawns
def test_the_recipe_is_built_from_what_is_given(released: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    build.recipe(Context(), source=[f"toy={released.archive}"])
    assert Path(capsys.readouterr().out.splitlines()[-1]).read_text().startswith("hello")
    with pytest.raises(SystemExit) as caught:
        build.recipe(Context(), source=["none=x"])
    assert caught.value.code == 2
    assert "the recipe has no source 'none'" in capsys.readouterr().err


@pytest.mark.spawns
def test_all_builds_what_answers_and_names_what_does_not(released: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    released.edit(str(released.archive), "/nowhere.tar")
    build.all_(Context())
    told = capsys.readouterr()
    assert [Path(line).parent.name.rpartition("-")[0] for line in told.out.splitlines()] == [
        f"toy-1.0-{building.ensure('toy-1.0', log.silent()).key}"
    ]
    assert "file /nowhere.tar: no such file" in told.err
    assert "a source answers nowhere: toy\n" in told.err
    released.edit("cat words", "false; exit 3; cat words")
    (released.folder / "toy-1.0.yaml").unlink()
    released.edit("/nowhere.tar", str(released.archive))
    with pytest.raises(SystemExit) as caught:
        build.all_(Context())
    assert caught.value.code == 1
    assert "failed: toy" in capsys.readouterr().err


@pytest.mark.spawns
def test_show_tells_places_and_state(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    build.show(Context(), "toy")
    before = capsys.readouterr().out
    assert f"place   file {toy.archive}" in before
    assert "no key yet: a source was never fetched" in before
    made = building.ensure("toy", log.silent())
    build.show(Context(), "toy")
    after = capsys.readouterr().out
    assert f"key       {made.key}" in after
    assert f"state     {made.path}" in after


def test_liblxc_is_own_or_system(released: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    (released.folder / "defaults.yaml").write_text('releases: {lxd: "1.0"}\nrecipe: {}\n')
    text = (released.folder / "toy-1.0.yaml").read_text().replace("name: toy\n", "name: lxd\n")
    (released.folder / "lxd-1.0.yaml").write_text(text)
    for liblxc, says in (("theirs", "neither own nor system"), ("system", "does not link against liblxc")):
        with pytest.raises(SystemExit) as caught:
            build.lxd(Context(), liblxc=liblxc)
        assert caught.value.code == 2
        assert says in capsys.readouterr().err
