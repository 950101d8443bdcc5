"""Buildspecs are refused with file and line, and the committed ones are sound."""

from __future__ import annotations

import pytest

from lab.build import spec
from lab.errors import BadInput
from tests.unit.build.conftest import Toy

FAULTS = [
    ("about: a toy", "abuot: a toy", 2, "abuot: unknown key"),
    ("strip: 1", "strip: one", 7, "sources.toy.strip"),
    ("strip: 1", "sha256: abc", 7, "sources.toy.sha256"),
    ("result: toy", "result: ../toy", 15, "without '..'"),
    ("files: [toy.config]", "files: [/etc/passwd]", 8, "must be a relative path"),
    ("words {files}", "words {home}", 11, "unknown placeholder {home}; known are {files}, {jobs}, {src}, {stage}"),
    ("words {files}", "words {files", 11, "unexpected '{'"),
    ("- file:", "- apt: {suite: s, package: p}\n        file:", 6, "exactly one of 'apt' and 'file'"),
    ("- name: make", "- name: make\n    lines: {of: a, inside: b}", 10, "exactly one of 'run' and 'lines'"),
]


@pytest.mark.parametrize(("old", "new", "line", "says"), FAULTS)
def test_a_fault_names_its_file_and_line(toy: Toy, old: str, new: str, line: int, says: str) -> None:
    toy.edit(old, new)
    with pytest.raises(BadInput) as caught:
        spec.load("toy")
    assert says in caught.value.message
    assert f"{toy.spec}:{line}: " in caught.value.message


@pytest.mark.parametrize("text", ["", "- 1\n", "just words\n"])
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
    assert described.packages
