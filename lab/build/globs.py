"""Patterns of paths: `*`, `?` and `[…]` stay within one name, `**` stands for any number of names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a relative path matches one of these patterns, whole."""
    texts = [_expression(glob) for glob in globs]
    if not texts:
        return lambda _: False
    pattern = re.compile("|".join(texts))
    return lambda path: pattern.fullmatch(path) is not None


def first(table: Mapping[str, T], path: str, otherwise: T) -> T:
    """Return the value of the first pattern that matches a path."""
    return next((value for glob, value in table.items() if matcher([glob])(path)), otherwise)


def _expression(glob: str) -> str:
    names = [name for name in glob.split("/") if name not in ("", ".")]
    text = ""
    for name in names[:-1]:
        text += "(?:[^/]+/)*" if name == "**" else f"{_name(name)}/"
    return text + (".+" if names[-1] == "**" else _name(names[-1]))


def _name(glob: str) -> str:
    # [!a] and [^a] leave out; everything else that is no wildcard stands for itself.
    parts = re.split(r"(\*|\?|\[[!^]?\]?[^]]*\])", glob)
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part == "*":
        return "[^/]*"
    if part == "?":
        return "[^/]"
    if part.startswith("[") and part.endswith("]"):
        body = part[1:-1].replace("\\", r"\\")
        return f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]"
    return re.escape(part)
