"""Steps that need not run again: what `autoreconf` or `configure` wrote, kept as long as what they read is the same.

A step that names in `reads` all that it reads of the sources is remembered in the spec's warm folder, under a key over
those files, the step itself, tools, packages, needs and surroundings. `build.verify` begins without any of it, so a
`reads` that says too little shows there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.build import archive, globs
from lab.build.spec import Step

PARTS = ("src", "work")
"""The folders of a room in which a remembered step may write."""
Seen = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Memo:
    """What is remembered of one step."""

    room: Path
    shelf: Path
    """Holds one folder for each key of this step; an older one goes when a new one comes."""
    key: str

    @property
    def _kept(self) -> Path:
        return self.shelf / self.key

    def recall(self) -> bool:
        """Put back what the step wrote, if it is remembered."""
        if not self._kept.is_dir():
            return False
        for path in archive.walk(self._kept):
            target = self.room / path.relative_to(self._kept)
            if path.is_dir() and not path.is_symlink():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.unlink(missing_ok=True)
            shutil.copy(path, target, follow_symlinks=False)
        # One moment for all: to make, none of them is older than another, and each is newer than its sources.
        now = time.time_ns()
        for path in archive.walk(self._kept):
            if path.is_symlink() or not path.is_dir():
                os.utime(self.room / path.relative_to(self._kept), ns=(now, now), follow_symlinks=False)
        return True

    def look(self) -> Seen:
        """Return what stands in the room now."""
        return {
            path.relative_to(self.room).as_posix(): _look(path)
            for part in PARTS
            for path in archive.walk(self.room / part)
            if path.is_symlink() or not path.is_dir()
        }

    def remember(self, before: Seen) -> None:
        """Keep what the step wrote since `before`; a step that removed something is not remembered."""
        after = self.look()
        if set(before) - set(after):
            return
        new = self.shelf.with_name(f"{self.shelf.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        for name, seen in after.items():
            if before.get(name) != seen:
                (new / self.key / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.room / name, new / self.key / name, follow_symlinks=False)
        if new.is_dir():
            shutil.rmtree(self.shelf, ignore_errors=True)
            new.rename(self.shelf)


def _look(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def memo(room: Path, warm: Path, step: Step, more: Mapping[str, object]) -> Memo:
    """Return the memory of a step.

    Args:
        room: the build's room.
        warm: the spec's warm folder; its name stands for the tools, the packages and the spec itself.
        step: with `reads`.
        more: what else the step's result depends on.
    """
    read = {path: _digest(room / "src" / path) for path in _matching(room / "src", step.reads)}
    text = json.dumps({"step": step.model_dump(), "read": read, **more}, sort_keys=True, default=str)
    return Memo(room, warm / "memo" / step.name, hashlib.sha256(text.encode()).hexdigest()[:20])


def _matching(folder: Path, patterns: Iterable[str]) -> list[str]:
    wanted = globs.matcher(patterns)
    names = (
        path.relative_to(folder).as_posix() for path in archive.walk(folder) if path.is_symlink() or path.is_file()
    )
    return [name for name in names if wanted(name)]


def _digest(path: Path) -> str:
    return f"link to {path.readlink()}" if path.is_symlink() else archive.digest(path)
