"""Buildspecs are refused with file and line, and the committed ones are sound."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.build import spec
from lab.errors import BadInput
from lab.paths import PROJECT
from lab.yamlio import load_model
from tests.unit.build.conftest import Toy

FAULTS = [
    ("about: a toy", "abuot: a toy", 2, "abuot: unknown key"),
    ("strip: 1", "strip: one", 7, "sources.toy.strip"),
    ("strip: 1", "sha256: abc", 7, "sources.toy.sha256"),
    ("result: toy", "result: ../toy", 15, "without '..'"),
    ("files: [toy.config]", "files: [/etc/passwd]", 8, "must be a relative path"),
    ("words {files}", "words {home}", 11, "unknown placeholder {home}; known are {cache}, {epoch}, {files}, "),
    ("words {files}", "words {files", 11, "unexpected '{'"),
    (
        "- file:",
        "- apt: {suite: s, package: p}\n        file:",
        6,
        "a place is exactly one of 'apt', 'deb_src', 'url' and 'file'",
    ),
    ("- name: make", "- name: make\n    lines: {of: a, inside: b}", 10, "exactly one of 'run' and 'lines'"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), FAULTS)
def test_a_fault_names_its_file_and_line(toy: Toy, old: str, new: str, line: int, says: str) -> None:
    toy.edit(old, new)
    with pytest.raises(BadInput) as caught:
        spec.load("toy")
    assert says in caught.value.message
    assert f"{toy.spec}:{line}: " in caught.value.message


@pytest.mark.parametrize("text", ["- 1\n", "just words\n"])
def test_what_is_no_mapping_is_refused(toy: Toy, text: str) -> None:
    toy.spec.write_text(text)
    with pytest.raises(BadInput, match=r"toy\.yaml:1: "):
        spec.load("toy")


def test_an_unknown_spec_names_the_known_ones(toy: Toy) -> None:
    with pytest.raises(BadInput) as caught:
        spec.load("../toy")
    assert caught.value.hint == f"known are: {toy.spec.stem}"


def test_a_spec_must_have_the_name_of_its_file(toy: Toy) -> None:
    toy.edit("name: toy", "name: troy")
    with pytest.raises(BadInput, match="its name is 'troy'"):
        spec.load("toy")


@pytest.mark.parametrize("name", spec.names())
def test_the_committed_specs_are_sound(name: str) -> None:
    described, path = spec.load(name)
    assert all((path.parent / file).is_file() for file in described.files)
    assert described.packages or described.build_deps


def test_the_package_set_has_all_that_the_committed_specs_need() -> None:
    dev = (PROJECT / "dev").read_text()
    known = set(re.sub(r"\\\n", "", dev[dev.index("build) echo") :]).partition(";;")[0].split())
    # Their development packages bring them.
    known |= {"libfuse3-3", "liblz4-1", "libsqlite3-0", "libuv1"}
    missing = {name: sorted(set(spec.load(name)[0].build_deps) - known) for name in spec.names()}
    assert {name: absent for name, absent in missing.items() if absent} == {}


def test_the_example_is_good_and_shows_every_field() -> None:
    example = Path(__file__).parent / "hello-1.0.yaml"
    assert load_model(example, spec.Spec).id == "hello-1.0"
    models = (spec.Spec, spec.Source, spec.Step, spec.Install, spec.Patch, spec.Series)
    fields = {name for model in models for name in model.model_fields}
    shown = set(re.findall(r"([a-z_0-9]+):", example.read_text()))
    # Of linux-uml, of sources inside of a .deb or with vendored Go code, and of LXD.
    assert fields - shown == {"result", "lines", "member", "go_modules", "system_liblxc"}
