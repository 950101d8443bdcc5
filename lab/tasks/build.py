"""Artifacts from their buildspecs: build, list, clean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from lab import build, log
from lab.build import shelves
from lab.errors import BadInput
from lab.tasks._run import guarded


@task(
    auto_shortflags=False,
    iterable=["source"],
    help={"source": "NAME=FILE: take this local file for a source from now on (here: linux=FILE); repeatable"},
)
@guarded
def kernel(_context: Context, source: Iterable[str] | None = None) -> None:
    """Build the kernel of the lab's nodes, unless it is in the cache; the last line is its path."""
    given = _sources(source or ())
    with log.steps("Building the lab's kernel") as progress:
        made = build.kernel(progress, sources=given)
    if not made.verified:
        log.warn("nothing vouches for a source of this kernel: it came from a local file")
    log.out(str(made.path))


@task(name="list", auto_shortflags=False)
@guarded
def list_(_context: Context) -> None:
    """List the buildspecs and what the cache holds of each, checked against its manifest."""
    for row in shelves.rows():
        where = f"  {row.size_bytes / 1e6:.1f} MB  {row.folder}" if row.folder else ""
        log.out(f"{row.name}  {row.state}{where}")


@task(
    auto_shortflags=False,
    iterable=["only"],
    help={
        "only": "NAME of a buildspec to clean, instead of all; repeatable",
        "sources": "remove downloaded and given sources, too",
    },
)
@guarded
def clean(_context: Context, only: Iterable[str] | None = None, sources: bool = False) -> None:
    """Remove what was built from the cache."""
    log.say(f"freed {shelves.clean(list(only or ()), sources=sources) / 1e6:.0f} MB")


def _sources(given: Iterable[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    if bad := next((f"{name}{equals}{path}" for name, equals, path in pairs if not (name and path)), ""):
        raise BadInput(f"--source {bad} is not NAME=FILE", "for example: --source linux=linux-7.2.tar.xz")
    return {name: Path(path).expanduser() for name, _, path in pairs}
