"""The scenarios there are, read from their files without starting or importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import BadInput
from lab.paths import PROJECT

FOLDER = PROJECT / "tests" / "scenarios"


@dataclass(frozen=True)
class Entry:
    """One scenario: its name, its number in the catalogue (None: it has none), its sentence, and where it stands."""

    name: str
    number: int | None
    doc: str
    path: Path
    planted: tuple[str, ...] = ()

    @property
    def session(self) -> str:
        """The Nox session that runs it."""
        return "planted" if self.planted else self.path.parent.name


def scenarios(folder: Path = FOLDER) -> list[Entry]:
    """Return every scenario by session and number; planted faults last."""
    found = [entry for path in sorted(folder.rglob("test_*.py")) for entry in _entries(path)]
    return sorted(found, key=lambda e: (bool(e.planted), e.session, e.number is None, e.number or 0, e.name))


def find(name: str, folder: Path = FOLDER) -> Entry:
    """Return the scenario with that name or number.

    Raises:
        BadInput: there is none.
    """
    known = scenarios(folder)
    wanted = name.removeprefix("test_").replace("-", "_")
    for entry in known:
        if wanted == entry.name or (wanted.isdigit() and int(wanted) == entry.number):
            return entry
    raise BadInput(f"there is no scenario {name!r}", f"one of {', '.join(entry.name for entry in known)}")


def _entries(path: Path) -> Iterator[Entry]:
    for node in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        marks = dict(_mark(decorator) for decorator in node.decorator_list)
        number = next((value for value in marks.get("scenario", ()) if isinstance(value, int)), None)
        doc = " ".join((ast.get_docstring(node) or "").split())
        planted = tuple(str(value) for value in marks.get("planted", ()))
        yield Entry(node.name.removeprefix("test_"), number, doc, path, planted)


def _mark(decorator: ast.expr) -> tuple[str, tuple[object, ...]]:
    """Return (name, arguments) of a `@pytest.mark.NAME(…)`."""
    call = decorator if isinstance(decorator, ast.Call) else None
    named = call.func if call else decorator
    name = named.attr if isinstance(named, ast.Attribute) else ""
    values = [part.value for part in call.args if isinstance(part, ast.Constant)] if call else []
    return name, tuple(values)
