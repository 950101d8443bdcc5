"""What holds for the files of the project as a whole."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from lab.paths import PROJECT

LOCK = (PROJECT / "requirements.txt").read_text()
RUNTIME = PROJECT / "hostfiles/runtime"
HIDDEN_OURS = {".ci", ".github", ".gitignore"}


def committed() -> list[tuple[Path, str]]:
    """Return the text files that belong to the project."""
    found = []
    for path in sorted(PROJECT.rglob("*")):
        parts = path.relative_to(PROJECT).parts
        made = {"out", "__pycache__"} & set(parts) or (parts[0].startswith(".") and parts[0] not in HIDDEN_OURS)
        if path.is_file() and not path.is_symlink() and not made:
            data = path.read_bytes()
            if b"\0" not in data:
                found.append((path, data.decode()))
    return found


def test_lock_names_no_host_and_no_option() -> None:
    assert "://" not in LOCK
    assert [line for line in LOCK.splitlines() if line.startswith("-")] == []


def test_lock_has_hashes_for_every_pin() -> None:
    pins = re.split(r"\n(?=\S)", LOCK.strip())
    assert len(pins) > 20
    assert [pin for pin in pins if not re.match(r"[a-z0-9-]+==\S+.*\\\n    --hash=sha256:[0-9a-f]{64}", pin)] == []


def test_lock_covers_what_the_project_asks_for() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    texts = [*project["project"]["dependencies"], *groups["test"], *groups["lint"]]
    asked = {re.split(r"[\[>=<~! ]", text)[0] for text in texts}
    assert asked - set(re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE)) == set()


def test_no_file_names_this_machine_or_a_registry() -> None:
    hosts = re.compile(r"(pypi|pythonhosted|npmjs|(deb|security|snapshot)\.debian)\.(org|com)\b")
    places = [str(PROJECT)] + ([str(Path.home())] if len(Path.home().parts) > 2 else [])
    files = committed()
    assert len(files) > 20
    assert [str(path) for path, text in files if hosts.search(text) or any(place in text for place in places)] == []


SDKS = {"gcs": {"google", "requests"}, "s3": {"boto3", "botocore"}}
"""The clients of object stores: each for its own fence backend alone, from a tree that lies beside the programs."""


@pytest.mark.parametrize("path", sorted(RUNTIME.rglob("*.py")), ids=lambda path: str(path.relative_to(RUNTIME)))
def test_host_programs_import_only_the_standard_library(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").partition(".")[0])
    sdk = SDKS.get(path.stem, set()) if path.parent.name == "fence" else set()
    assert imported - set(sys.stdlib_module_names) - {"hapair"} - sdk == set()


def test_modules_stay_small() -> None:
    long = [str(path) for path, text in committed() if path.suffix == ".py" and text.count("\n") > 500]
    assert long == []
