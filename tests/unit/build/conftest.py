"""A buildspec of our own in a temporary folder, with a cache beside it, and progress that remembers."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SPEC = """\
name: toy
about: a toy
sources:
  toy:
    places:
      - file: {archive}
    strip: 1
files: [toy.config]
steps:
  - name: make
    run: [sh, -c, "echo '  CC      a.o'; cat words {{files}}/toy.config > {{stage}}/toy"]
    expect_objects: 2
  - name: check
    lines: {{of: "{{files}}/toy.config", inside: "{{stage}}/toy"}}
result: toy
"""


@dataclass
class Shown:
    """Progress that remembers what it was told."""

    titles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, title: str, *, estimate_s: float | None = None) -> Iterator[Shown]:
        self.titles.append(title if estimate_s is None else f"{title} ({estimate_s:g} s)")
        yield self

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Toy:
    """The buildspec "toy", its files, and the cache it is built into."""

    folder: Path
    cache: Path
    archive: Path

    @property
    def spec(self) -> Path:
        return self.folder / "toy.yaml"

    def edit(self, old: str, new: str) -> None:
        text = self.spec.read_text()
        assert old in text
        self.spec.write_text(text.replace(old, new))

    def pack(self, words: str) -> None:
        """Write the source archive anew."""
        content = self.folder / "words"
        content.write_text(words)
        with tarfile.open(self.archive, "w") as archive:
            archive.add(content, "toy-1/words")

    def kept(self, part: str) -> list[str]:
        return sorted(path.name for path in (self.cache / "hapair" / part).glob("*"))


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(tmp_path / "buildspecs", tmp_path / "cache", tmp_path / "toy-1.tar")
    made.folder.mkdir()
    made.pack("hello\n")
    made.spec.write_text(SPEC.format(archive=made.archive))
    (made.folder / "toy.config").write_text("# a comment\nA=y\n")
    monkeypatch.setattr("lab.build.spec.folder", lambda: made.folder)
    monkeypatch.setattr("lab.build.fetch.folder", lambda: made.folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.cache))
    return made
