"""What Go programs say about themselves, and damaged ELF files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.check import elf, hygiene, papers

TABLE = b"\0".join(
    [
        b"",
        b"runtime.main",
        b"main.main",
        b"github.com/gorilla/mux.(*Router).Match",
        b"github.com/gorilla/mux/deep.New",
        b"gopkg.in/yaml%2ev2.Unmarshal.func1",
        b"golang.org/x/exp/slices.Sort[go.shape.string]",
        b"example.org/a.b.(*T[github.com/other/thing.X]).Do",
        b"github.com/gorilla/mux/route.go",
        b"net/http.(*Client).do",
        b"type..eq.github.com/x/y.T",
        b"",
    ]
)


def test_the_packages_of_a_stripped_go_program_are_read() -> None:
    assert elf.go_packages(TABLE) == {
        "github.com/gorilla/mux",
        "github.com/gorilla/mux/deep",
        "gopkg.in/yaml.v2",
        "golang.org/x/exp/slices",
        "example.org/a",
    }


def test_a_package_is_covered_by_its_repository() -> None:
    packages = ["github.com/gorilla/mux/deep", "github.com/gorilla/muxer", "gopkg.in/yaml.v2"]
    assert papers.uncovered(packages, {"github.com/gorilla/mux", "gopkg.in/yaml.v2"}) == ["github.com/gorilla/muxer"]


@pytest.mark.spawns
def test_a_damaged_elf_file_is_no_traceback(compiled: Path, tmp_path: Path) -> None:
    whole = (compiled / "lib" / "libgreet.so.1").read_bytes()
    file = tmp_path / "damaged"

    @given(st.integers(4, len(whole)), st.lists(st.tuples(st.integers(4, 700), st.integers(0, 255)), max_size=4))
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def read(length: int, changes: list[tuple[int, int]]) -> None:
        data = bytearray(whole)
        for at, value in changes:
            data[at] = value
        file.write_bytes(data[:length])
        assert elf.is_elf(file)
        try:
            assert elf.read(file).machine
        except elf.NotElf as error:
            assert str(error).startswith("cannot be read as ELF")

    read()


GLOBS = [
    ("bin/lxd", "bin/*", True),
    ("bin/a/lxd", "bin/*", False),
    ("bin/lxd", "**", True),
    ("bin/lxd", "**/lxd", True),
    ("lxd", "**/lxd", True),
    ("lib/a/b/c.so.1", "lib/**/*.so*", True),
    ("lib/c.so.1", "lib/**/*.so*", True),
    ("lib/cxso", "lib/c.so", False),
    ("lib/liba.so", "lib/lib[ab].so", True),
    ("lib/libc.so", "lib/lib[ab].so", False),
    ("bin/lxd-agent", "bin/lxd?agent", True),
    ("lib/liba.so", "lib/lib[!a].so", False),
]


@pytest.mark.parametrize(("path", "pattern", "fits"), GLOBS)
def test_globs_of_the_manifest(path: str, pattern: str, fits: bool) -> None:
    assert hygiene.matches(path, pattern) == fits
