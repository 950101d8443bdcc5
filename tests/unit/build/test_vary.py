"""Which variation makes a difference is found by halving; what a machine cannot vary is said."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import paths
from lab.build import engine, vary
from lab.build.rebuild import Request
from lab.build.surroundings import PLAIN, Surroundings
from lab.build.variations import Variation, combine, variations
from lab.errors import HapairError
from tests.unit.build.conftest import Shown

TELL = """\
name: tell
release: "1.0"
about: takes in all that it must not
sources: {{tell: {{places: [{{file: {file}}}]}}}}
steps:
  - {{name: files, run: [sh, -c, "mkdir -p {{tree}} && touch a b c d e f g h"]}}
  - name: tell
    run:
      - sh
      - -c
      - |
        exec >{{tree}}/seen
        echo environment $CAPTURE_ENVIRONMENT
        echo build_path {{src}}
        echo prefix {{prefix}}
        echo kernel $(uname -r)
        echo aslr $(cat /proc/self/personality)
        echo num_cpus $(nproc) {{jobs}}
        echo time $(date +%Y)
        echo user_group $(id -un) $(id -u) $(id -g)
        echo fileordering $(ls -U)
        echo domain_host $(uname -n) $(cat /proc/sys/kernel/domainname)
        echo home $HOME
        echo locales $LC_ALL
        echo exec_path $PATH
        echo timezone $(date +%z)
        echo umask $(umask)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the project with one buildspec, which the processes that rebuild find too."""
    made = tmp_path / "project"
    shutil.copytree(paths.PROJECT / "lab", made / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    with tarfile.open(tmp_path / "tell.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("readme"))
    (made / "buildspecs").mkdir()
    (made / "buildspecs" / "tell-1.0.yaml").write_text(TELL.format(file=tmp_path / "tell.tar"))
    monkeypatch.setattr(paths, "PROJECT", made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def seen(folder: Path) -> dict[str, str]:
    (packed,) = folder.glob("*.tar.zst")
    data = zstandard.ZstdDecompressor().decompressobj().decompress(packed.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("tell-1.0/seen")
        assert file is not None
        return dict(line.partition(" ")[::2] for line in file.read().decode().splitlines())


@pytest.mark.spawns
@pytest.mark.usefixtures("project")
def test_the_steps_see_every_variation_that_this_machine_can_do(tmp_path: Path, shown: Shown) -> None:
    first = engine.ensure("tell-1.0", shown)
    chosen = [one for one in variations() if not one.skipped]
    job = vary._Job("tell-1.0", "own", {}, first.folder, shown, None)
    different = vary._differences(job, chosen, tmp_path)
    assert f"{first.folder.name}/{first.path.name}" in different
    (again,) = {path.parent for path in different.values()}
    one, other = seen(first.folder), seen(again)
    assert {name for name in one if one[name] != other[name]} == {each.name for each in chosen}


@pytest.mark.spawns
@pytest.mark.usefixtures("project")
def test_the_guilty_variation_is_named(shown: Shown) -> None:
    verdict = vary.verify("tell-1.0", shown, only=["umask"])
    assert verdict.culprits == (frozenset({"umask"}),)
    assert [name.rpartition("/")[2] for name in verdict.different][-1] == "tell-1.0-amd64-unverified.tar.zst"
    assert [name.rpartition(" ")[2] for name in verdict.members] == ["seen"]
    assert "umask" in (verdict.report.read_text() if verdict.report else verdict.remark + "umask")
    with pytest.raises(HapairError, match="because of: umask"):
        verdict.enforce()


@pytest.mark.spawns
def test_what_takes_in_nothing_is_the_same_each_time(project: Path, shown: Shown) -> None:
    spec = project / "buildspecs" / "tell-1.0.yaml"
    spec.write_text(spec.read_text().partition("        echo environment")[0] + "        echo always the same\n")
    verdict = vary.verify("tell-1.0", shown, only=["umask", "home", "fileordering"])
    assert verdict.different == ()
    assert list((paths.cache() / "verify").iterdir()) == []
    verdict.enforce()


NAMES = frozenset("abcdefghijklmno")


def counted(*sets: frozenset[str]) -> tuple[Callable[[frozenset[str]], bool], list[frozenset[str]]]:
    asked: list[frozenset[str]] = []

    def differs(chosen: frozenset[str]) -> bool:
        asked.append(chosen)
        return any(one <= chosen for one in sets)

    return differs, asked


@given(st.frozensets(st.sampled_from(sorted(NAMES)), min_size=1, max_size=3))
def test_the_variations_that_do_it_alone_are_all_found(alone: frozenset[str]) -> None:
    differs, asked = counted(*(frozenset({name}) for name in alone))
    assert sorted(vary.culprits(NAMES, differs), key=sorted) == [frozenset({name}) for name in sorted(alone)]
    assert len(asked) <= 1 + 8 * len(alone)  # 2 * log2(15) each


@given(st.frozensets(st.sampled_from(sorted(NAMES)), min_size=2, max_size=4))
@settings(max_examples=50)
def test_variations_that_do_it_together_are_found_as_one(pair: frozenset[str]) -> None:
    differs, _ = counted(pair)
    assert vary.culprits(NAMES, differs) == [pair]


def test_a_build_that_never_repeats_itself_is_told_apart() -> None:
    differs, asked = counted(frozenset())
    assert vary.culprits(NAMES, differs) == [frozenset()]
    assert asked == [frozenset()]


def test_variations_add_up() -> None:
    made = combine(
        [
            Variation("a", "", inside={"root": "/x"}, env_inside={"A": "1"}, around=("one", "-1")),
            Variation("b", "", inside={"home": "/y"}, env_inside={"B": "2"}, around=("two",), umask_around=0o077),
            Variation("p", "", personality=("-R",)),
            Variation("q", "", personality=("--uname-2.6",)),
            Variation("c", "", reversed_folders=True, env_around={"C": "3"}),
        ]
    )
    assert made.surroundings == Surroundings(root="/x", home="/y", env={"A": "1", "B": "2"})
    assert made.around == ("setarch", os.uname().machine, "-R", "--uname-2.6", "one", "-1", "two")
    assert (made.umask_around, made.reversed_folders, dict(made.env_around)) == (0o077, True, {"C": "3"})


@pytest.mark.spawns
def test_all_of_reprotests_variations_are_known_and_each_differs_from_an_ordinary_build() -> None:
    known = {one.name: one for one in variations()}
    wanted = "environment build_path kernel aslr num_cpus time user_group fileordering domain_host home locales"
    assert set(known) == {*wanted.split(), "exec_path", "timezone", "umask", "prefix"}
    for one in known.values():
        made = combine([one])
        assert one.skipped or made != combine([]), one.name
        assert one.what
    everything = combine(known.values())
    assert all(getattr(everything.surroundings, name) != getattr(PLAIN, name) for name in ("root", "prefix", "locale"))


@pytest.mark.spawns
def test_what_the_machine_lacks_is_skipped_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setattr("lab.build.variations.FAKETIME", "no/such/library")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})
    monkeypatch.setattr("lab.build.variations._locale", lambda: Variation("locales", "C", inside={"locale": "C"}))
    skipped = {one.name: one.skipped for one in variations() if one.skipped}
    assert set(skipped) == {"kernel", "aslr", "num_cpus", "time", "fileordering"}
    assert "apt-get install faketime" in skipped["time"]
    assert "apt-get install disorderfs" in skipped["fileordering"]
    assert skipped["num_cpus"] == "there is one CPU only"


def test_a_request_arrives_as_it_was_sent() -> None:
    sent = Request("toy", "own", {"a": "/b"}, Surroundings(env={"A": "1"}, wrap=("x", "y")), 0o077, "/answer")
    assert Request.read(sent.text()) == sent


def test_a_verdict_names_what_differs_and_who_did_it(tmp_path: Path) -> None:
    applied = (Variation("umask", "002", inside={"umask": 2}),)
    skipped = (Variation("time", "later", skipped="no faketime"),)
    good = vary.Verdict("toy", applied, skipped)
    good.enforce()
    assert good.lines() == [
        "toy: the same, byte for byte",
        "  varied umask: 002, inside the sandbox",
        "  not varied on this machine: time: no faketime",
    ]
    bad = vary.Verdict(
        "toy", applied, skipped, ("toy/a",), ("toy: bin/x",), (frozenset({"umask"}),), tmp_path / "report"
    )
    with pytest.raises(HapairError, match="because of: umask") as caught:
        bad.enforce()
    assert caught.value.hint == f"read {tmp_path / 'report'}"


@pytest.mark.parametrize(
    ("again", "says"),
    [
        ({}, []),
        ({"toy-1/x": "other"}, ["toy-1/x"]),
        ({"toy-1/x": None}, ["toy-1/x"]),
        ({"toy-1/more": "x"}, ["toy-1/more"]),
        ({"need-2/lib": "other"}, ["need-2/lib"]),
        ({"never-built-before/lib": "x"}, []),
    ],
)
def test_every_file_of_every_artifact_is_compared(
    tmp_path: Path, again: dict[str, str | None], says: list[str]
) -> None:
    files = {"toy-1/x": "x", "toy-1/manifest.json": "{}", "need-2/lib": "lib"}
    for side, content in (("one", files), ("two", {**files, **again})):
        for name, text in content.items():
            if text is not None:
                path = tmp_path / side / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    found = vary._compare(tmp_path / "one" / "toy-1", tmp_path / "two" / "toy-1")
    assert sorted(found) == says


def test_another_key_is_a_difference(tmp_path: Path) -> None:
    for side, name in (("one", "toy-1"), ("two", "toy-2")):
        (tmp_path / side / name).mkdir(parents=True)
    assert "toy-1 (now toy-2)" in vary._compare(tmp_path / "one" / "toy-1", tmp_path / "two" / "toy-2")
