"""YAML is read strictly, and every complaint names the file and the line."""

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, field_validator

from lab.errors import BadInput
from lab.yamlio import load_model


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    size: int = 1

    @field_validator("size")
    @classmethod
    def positive(cls, size: int) -> int:
        if size < 1:
            raise ValueError("must be at least 1")
        return size


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    parts: list[Part]
    by_name: dict[str, Part] = {}


def complaint(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as caught:
        load_model(path, Whole)
    return caught.value.message.replace(str(path), "spec.yaml")


def test_good_file_becomes_a_model(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("parts:\n- {name: a, size: 2}\nby_name:\n  b: {name: b}\n")
    assert load_model(path, Whole) == Whole(parts=[Part(name="a", size=2)], by_name={"b": Part(name="b")})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parts: []\nparts: []\n", "spec.yaml:2: key 'parts' stands twice"),
        ("parts:\n- name: a\n  name: b\n", "spec.yaml:3: key 'name' stands twice"),
        ("parts: []\nsise: 1\n", "spec.yaml:2: sise: unknown key"),
        ("parts:\n- name: a\n- name: b\n  colour: red\n", "spec.yaml:4: parts.1.colour: unknown key"),
        ("parts: []\nby_name:\n  b:\n    name: b\n    size: 0\n", "spec.yaml:5: by_name.b.size: must be at least 1"),
        ("parts:\n- name: a\n- size: 2\n", "spec.yaml:3: parts.1.name: Field required"),
        ("parts: [\n", "spec.yaml:2: "),
        ("parts: !!python/object:os.system []\n", "spec.yaml:1: could not determine a constructor"),
        ("", "spec.yaml: the file is empty"),
        (b"parts: \xff\n", "spec.yaml: not UTF-8 text (byte 7)"),
        ("? [a]\n: 1\n", "spec.yaml: unhashable type"),
    ],
)
def test_fault_names_file_and_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert complaint(tmp_path, text).startswith(expected)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    assert complaint(tmp_path, "parts:\n- size: x\n  b: 1\n").splitlines() == [
        "spec.yaml:2: parts.0.name: Field required",
        "spec.yaml:2: parts.0.size: Input should be a valid integer, unable to parse string as an integer",
        "spec.yaml:3: parts.0.b: unknown key",
    ]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nothing\.yaml: No such file"):
        load_model(tmp_path / "nothing.yaml", Whole)
