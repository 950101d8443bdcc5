"""The host programs' bytecode: made by the first start, used by the next ones, and never in place of another text."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lab import proc
from lab.hosts.runtime import FOLDER, SHEBANG, zipapp

pytestmark = pytest.mark.spawns
PROGRAM = "def main(*_: object) -> int:\n    print('{text}', __file__)\n    return 0\n"


class Programs:
    """A zipapp of the real start and of two small programs, under both of their names."""

    def __init__(self, folder: Path) -> None:
        self.sources, self.cache, self.archive = folder / "sources", folder / "cache", folder / "hapair.pyz"
        package = self.sources / "hapair"
        package.mkdir(parents=True)
        for name in ("__init__.py", "__main__.py", "bytecode.py"):
            text = (FOLDER / "hapair" / name).read_text()
            (package / name).write_text(text.replace('"/var/cache/hapair"', f'"{self.cache}"'))
        for name in ("hapair", "fence-peer"):
            (folder / name).symlink_to("hapair.pyz")
        self.install("one")

    def install(self, text: str) -> None:
        """Write programs that print `text` in place of those that are there."""
        for name in ("cli", "handlers"):
            (self.sources / "hapair" / f"{name}.py").write_text(PROGRAM.format(text=text))
        fresh = self.archive.with_name("fresh")
        fresh.write_bytes(zipapp(self.sources).replace(SHEBANG, f"#!{sys.executable} -IS\n".encode(), 1))
        fresh.chmod(0o755)
        fresh.replace(self.archive)

    def run(self, name: str) -> tuple[str, bool]:
        """Return what a program prints, and whether bytecode printed it."""
        text, _, file = proc.run([self.archive.with_name(name)], limit_s=20).text.partition(" ")
        return text, file.startswith(str(self.cache))

    def kept(self) -> list[Path]:
        return sorted(self.cache.glob("*"), key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_the_first_start_makes_it_and_a_handler_uses_it(programs: Programs) -> None:
    assert programs.run("fence-peer") == ("one", False)
    assert programs.kept() == [], "a handler makes none: I/O is frozen"
    assert programs.run("hapair") == ("one", True)
    (kept,) = programs.kept()
    made = kept.stat().st_mtime_ns
    assert [programs.run(name) for name in ("fence-peer", "hapair")] == [("one", True)] * 2
    assert kept.stat().st_mtime_ns == made


def test_another_text_is_run_at_once_though_size_and_time_are_the_same(programs: Programs) -> None:
    """A new release, or a defect that a scenario plants: by another file, and by writing into the one that is there."""
    programs.run("hapair")
    before = programs.archive.stat()
    programs.install("two")
    os.utime(programs.archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = programs.archive.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert programs.run("fence-peer") == ("two", False)
    assert programs.run("hapair") == ("two", True)
    bytes_of_three = programs.archive.read_bytes().replace(b"two", b"six")
    with programs.archive.open("r+b") as archive:
        archive.write(bytes_of_three)
    assert programs.archive.stat().st_ino == after.st_ino
    assert programs.run("fence-peer") == ("six", False)


def test_of_former_bytecode_the_last_one_stays(programs: Programs) -> None:
    """A program that was started with it may import from it later."""
    made = []
    for text in ("one", "two", "six"):
        programs.install(text)
        programs.run("hapair")
        made.append(programs.kept()[-1])
    assert programs.kept() == made[1:]


@pytest.mark.parametrize("text", [b"", b"PK"])
def test_bytecode_that_cannot_be_read_is_passed_over(programs: Programs, text: bytes) -> None:
    programs.run("hapair")
    programs.kept()[0].write_bytes(text)
    assert [programs.run(name) for name in ("fence-peer", "hapair")] == [("one", False)] * 2


def test_where_none_can_be_written_the_programs_run_all_the_same(programs: Programs) -> None:
    programs.cache.write_text("in the way")
    assert programs.run("hapair") == ("one", False)
    assert programs.cache.read_text() == "in the way"


def test_sources_run_without_it(programs: Programs) -> None:
    code = "import sys; from hapair.__main__ import main; sys.argv[0] = 'hapair'; main()"
    done = proc.run([sys.executable, "-c", code], limit_s=20, cwd=programs.sources, env={"PYTHONPATH": "."})
    assert done.text.startswith("one ")
    assert programs.kept() == []
