"""What the build cache holds: listing and cleaning it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lab import paths
from lab.build import godeps, manifest, spec
from lab.errors import HapairError

PARTS = ("artifacts", "logs", "scratch", "warm")


@dataclass(frozen=True)
class Row:
    """One artifact in the cache, or a buildspec that has none (`folder` is None)."""

    name: str
    folder: Path | None
    state: str
    size_bytes: int = 0


def rows() -> list[Row]:
    """Return every buildspec with its artifacts, each checked against its manifest."""
    listed: list[Row] = []
    for name in spec.names():
        folders = _of("artifacts", name)
        listed += [_row(name, folder) for folder in folders] or [Row(name, None, "not built")]
    return listed


def _row(name: str, folder: Path) -> Row:
    try:
        manifest.find(folder)
    except manifest.Damaged as error:
        return Row(name, folder, error.message, _size(folder))
    return Row(name, folder, "good", _size(folder))


def clean(names: list[str], *, sources: bool = False) -> int:
    """Remove the artifacts, logs and scratch folders of these buildspecs (of all, when none is named).

    Args:
        names: buildspecs.
        sources: remove what was downloaded, too, and what `--source` gave.

    Returns:
        The number of bytes that were freed.

    Raises:
        BadInput: there is no buildspec of that name.
        HapairError: one of them is being built now.
    """
    freed = 0
    for name in names or spec.names():
        described, _ = spec.load(name)
        doomed = [folder for part in PARTS for folder in _of(part, name)]
        if sources:
            doomed += _sources(described)
        locks = paths.cache() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(locks / f"build-{name}.lock", timeout=0):
                for folder in doomed:
                    freed += _size(folder)
                    shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            raise HapairError(f"{name} is being built now", "wait for its end, or stop that run") from None
    return freed


def _sources(described: spec.Spec) -> list[Path]:
    shelf = paths.cache() / "sources"
    found = [folder for source in described.sources for folder in _of("sources", source)]
    found += [folder for source in described.sources for folder in shelf.glob(f"{source}-given-*")]
    if described.go_deps:
        known = godeps.recorded(described.go_deps)
        found += [godeps.shelf(described.go_deps), *([godeps.extracted(known)] if known else [])]
    return found


def _of(part: str, name: str) -> list[Path]:
    # A key has no hyphen, so "lxd" does not take what belongs to "lxd-agent".
    shelf = paths.cache() / part
    wanted = [*shelf.glob(name), *shelf.glob(f"{name}-*")]
    return sorted(path for path in wanted if "-" not in _key(path.name[len(name) + 1 :]))


def _key(rest: str) -> str:
    return rest.removesuffix(manifest.SYSTEM).removesuffix(manifest.UNVERIFIED)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
