"""SDK trees: the pins for each Python, what of a wheel lands in a tree, and a tree that pip's real download makes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from lab.errors import BadInput, HapairError, HostLacks
from lab.hosts import sdk


@pytest.mark.parametrize("kind", sdk.KINDS)
@pytest.mark.parametrize("python", sdk.PYTHONS)
def test_every_python_has_one_pin_for_each_package(kind: str, python: str) -> None:
    heads = [line.split(" ")[0] for line in sdk.pins(kind, python, "x86_64").splitlines() if not line.startswith(" ")]
    names = [head.split("==")[0] for head in heads]
    assert len(names) == len(set(names)), "the markers of two pins overlap"
    assert {"gcs": "google-cloud-storage", "s3": "boto3"}[kind] in names
    assert all("==" in head for head in heads)
    assert sdk.pins(kind, python, "x86_64").count("--hash=sha256:") >= len(heads)


def test_old_pythons_have_pins_of_their_own() -> None:
    assert sdk.pins("s3", "3.8", "x86_64") != sdk.pins("s3", "3.9", "x86_64") != sdk.pins("s3", "3.11", "x86_64")


def wheel(folder: Path, *more: str) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("tiny/__init__.py", *more):
            archive.writestr(name, "TINY = 1\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


def files(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())


def test_what_of_a_wheel_lands_in_the_tree(tmp_path: Path) -> None:
    inside = (
        *("tiny-1.0.data/purelib/extra.py", "tiny-1.0.data/scripts/tiny", "tiny-1.0.data/headers/x.h"),
        *("botocore/data/endpoints.json", "botocore/data/s3/2006/a.json", "botocore/data/ec2/2016/a.json"),
    )
    sdk.unpack(wheel(tmp_path, *inside), tmp_path / "tree")
    assert [name for name in files(tmp_path / "tree") if "dist-info" not in name] == [
        *("botocore/data/endpoints.json", "botocore/data/s3/2006/a.json", "extra.py", "tiny/__init__.py")
    ]


@pytest.mark.parametrize("name", ["../out.py", "/out.py"])
def test_a_wheel_that_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(HapairError, match="leads out of the tree"):
        sdk.unpack(wheel(tmp_path, name), tmp_path / "a" / "tree")
    assert not (tmp_path / "a" / "out.py").exists()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index of one wheel, and a list that pins it."""
    made = wheel(tmp_path)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    (tmp_path / "s3.txt").write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n")
    monkeypatch.setattr(sdk, "LISTS", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return tmp_path


@pytest.mark.spawns
def test_a_tree_is_made_and_made_anew(index: Path) -> None:
    for _ in range(2):
        tree = sdk.make("s3", "3.9", index / "out", "x86_64")
    assert tree == index / "out" / "s3-py3.9"
    assert json.loads((tree / sdk.MARK).read_text())["python"] == "3.9"
    assert (tree / "tiny/__init__.py").exists()
    assert [path.name for path in (index / "out").iterdir()] == ["s3-py3.9"]


@pytest.mark.spawns
def test_a_wheel_that_is_not_the_pinned_one(index: Path) -> None:
    wheel(index, "tiny/more.py")
    with pytest.raises(HostLacks, match="HASHES"):
        sdk.make("s3", "3.11", index / "out", "x86_64")
    assert list((index / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "python", "machine", "said"),
    [
        ("ftp", "3.11", "x86_64", "kind ftp"),
        ("s3", "2.7", "x86_64", "--python 2.7"),
        ("s3", "3.11", "vax", "--machine vax"),
    ],
)
def test_what_is_not_pinned(tmp_path: Path, kind: str, python: str, machine: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        sdk.make(kind, python, tmp_path / "out", machine)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_elses_is_kept(tmp_path: Path) -> None:
    (tmp_path / "s3-py3.11").mkdir()
    with pytest.raises(BadInput, match="no SDK tree"):
        sdk.make("s3", "3.11", tmp_path, "x86_64")
