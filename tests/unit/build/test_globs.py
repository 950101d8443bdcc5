"""Patterns of paths: what stays within one name, and what spans folders."""

from __future__ import annotations

import pytest

from lab.build import globs

MATCHES = [
    ("lib/*.so*", "lib/libx.so.1", True),
    ("lib/*.so*", "lib/deep/libx.so.1", False),
    ("lib/*.so*", "other/lib/libx.so", False),
    ("**/*.la", "libx.la", True),
    ("**/*.la", "a/b/libx.la", True),
    ("lib/**", "lib/a/b", True),
    ("lib/**", "lib", False),
    ("lib/**", "library/a", False),
    ("a/**/b", "a/b", True),
    ("a/**/b", "a/x/y/b", True),
    ("**", "any/thing", True),
    ("bin/lx?", "bin/lxc", True),
    ("bin/lx?", "bin/lx/", False),
    ("bin/[a-c]x", "bin/bx", True),
    ("bin/[!a-c]x", "bin/bx", False),
    ("a.b+c", "a.b+c", True),
    ("a.b", "axb", False),
]


@pytest.mark.parametrize(("glob", "path", "matches"), MATCHES)
def test_what_a_pattern_matches(glob: str, path: str, matches: bool) -> None:
    assert globs.matcher([glob])(path) is matches


def test_no_pattern_matches_nothing_and_the_first_one_wins() -> None:
    assert not globs.matcher([])("a")
    assert globs.first({"bin/lxd": 1, "bin/*": 2}, "bin/lxd", 0) == 1
    assert globs.first({"bin/lxd": 1, "bin/*": 2}, "bin/lxc", 0) == 2
    assert globs.first({"bin/lxd": 1}, "lib/x", 0) == 0
