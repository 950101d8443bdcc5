"""From what the steps installed to a tree that runs from any folder: which files, their texts, strip, run paths."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.build import archive, globs
from lab.build.spec import Install, Spec, fill
from lab.errors import HapairError

ELF_MAGIC = b"\x7fELF"
Run = Callable[[Sequence[str]], None]
"""Runs a command in the sandbox; its paths are relative to the tree."""


@dataclass(frozen=True)
class Paths:
    """The run paths of an ELF file: the old kind, which the tree must not have, and the one that it may have."""

    rpath: str
    runpath: str


def install(spec: Spec, taken: Path, tree: Path, values: Mapping[str, str], run: Run) -> None:
    """Make the artifact's tree out of what the steps left.

    Args:
        spec: its rules.
        taken: what stands at {tree} after the steps; links in it may name it as {prefix}.
        tree: the folder to make.
        values: the placeholders, as the steps saw them.
        run: starts strip and patchelf in the sandbox.

    Raises:
        HapairError: a rule has nothing to work on, or a link leads out of the tree.
    """
    rules = spec.install
    _take(rules, taken, tree)
    for link, target in rules.symlinks.items():
        (tree / link).parent.mkdir(parents=True, exist_ok=True)
        (tree / link).unlink(missing_ok=True)
        (tree / link).symlink_to(target)
    _links(spec.id, tree, values["prefix"])
    _substitute(spec, tree, values)
    elf = [path for path in files(tree) if is_elf(tree / path)]
    chosen = globs.matcher(rules.strip)
    for batch in _batches(path for path in elf if chosen(path)):
        run(["strip", "--strip-unneeded", "--", *batch])
    _run_paths(spec, tree, elf, run)


def files(tree: Path) -> list[str]:
    """Return the paths of all regular files in a tree."""
    found = (path for path in archive.walk(tree) if path.is_file() and not path.is_symlink())
    return [path.relative_to(tree).as_posix() for path in found]


def merge(taken: Path, into: Path, patterns: Iterable[str]) -> None:
    """Copy what matches from another artifact's tree.

    Raises:
        HapairError: a pattern matches nothing, or two artifacts have different files of the same name.
    """
    for pattern in patterns:
        wanted = globs.matcher([pattern])
        found = [path for path in archive.walk(taken) if wanted(path.relative_to(taken).as_posix())]
        if not found:
            raise HapairError(f"merge: {pattern} matches nothing in {taken.name}", "mend the pattern")
        for path in found:
            if path.is_symlink() or path.is_file():
                _copy(path, into / path.relative_to(taken))


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink() or target.exists():
        same = path.is_symlink() == target.is_symlink() and (
            path.readlink() == target.readlink()
            if path.is_symlink()
            else archive.digest(path) == archive.digest(target)
        )
        if not same:
            raise HapairError(f"merge: {target.name} is there already, and differs", "merge less")
        return
    shutil.copy2(path, target, follow_symlinks=False)


def _take(rules: Install, taken: Path, tree: Path) -> None:
    wanted, unwanted = globs.matcher(rules.include), globs.matcher(rules.exclude)
    tree.mkdir(parents=True)
    for path in archive.walk(taken):
        name = path.relative_to(taken).as_posix()
        if (path.is_symlink() or path.is_file()) and wanted(name) and not unwanted(name):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            # The stage stays as the steps left it, for a run that resumes.
            shutil.copy2(path, tree / name, follow_symlinks=False)


def _links(name: str, tree: Path, prefix: str) -> None:
    """Make links into the prefix relative, and refuse those that lead elsewhere."""
    for path in archive.walk(tree):
        if not path.is_symlink():
            continue
        target, at = str(path.readlink()), path.relative_to(tree).as_posix()
        if target.startswith(f"{prefix}/"):
            target = posixpath.relpath(target.removeprefix(f"{prefix}/"), posixpath.dirname(at) or ".")
            path.unlink()
            path.symlink_to(target)
        lands = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        if target.startswith("/") or lands.startswith("..") or not (tree / lands).exists():
            raise HapairError(f"{name}: the link {at} leads to {target}, which is not in the tree", "mend `install`")


def _substitute(spec: Spec, tree: Path, values: Mapping[str, str]) -> None:
    for rule in spec.install.substitute:
        wanted = globs.matcher(rule.files)
        old, new = (fill(text, values).encode() for text in (rule.old, rule.new))
        touched = [path for path in files(tree) if wanted(path)]
        if not touched:
            raise HapairError(f"{spec.id}: substitute: no file matches {', '.join(rule.files)}", "mend `install`")
        for path in touched:
            data = (tree / path).read_bytes()
            if old not in data:
                raise HapairError(f"{spec.id}: substitute: {path} does not hold {old.decode()!r}", "mend `install`")
            if data.startswith(ELF_MAGIC):
                raise HapairError(f"{spec.id}: substitute: {path} is a program, not a text", "mend `install`")
            (tree / path).write_bytes(data.replace(old, new))


def is_elf(path: Path) -> bool:
    """Tell whether a file is an ELF file."""
    with path.open("rb") as file:
        return file.read(len(ELF_MAGIC)) == ELF_MAGIC


def run_paths(path: Path) -> Paths | None:
    """Return the run paths of an ELF file, or None when it is not linked dynamically.

    Raises:
        HapairError: the file is damaged.
    """
    # Loaded here, because a build that has nothing to do must not wait for it.
    from elftools.common.exceptions import ELFError  # noqa: PLC0415
    from elftools.elf.dynamic import DynamicSegment  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            segments = [one for one in ELFFile(file).iter_segments() if isinstance(one, DynamicSegment)]
            if not segments:
                return None
            tags = list(segments[0].iter_tags())
            texts = {
                kind: ":".join(getattr(tag, kind) for tag in tags if hasattr(tag, kind))
                for kind in ("rpath", "runpath")
            }
    except (ELFError, OSError, ValueError, KeyError) as error:
        raise HapairError(f"{path.name}: a damaged ELF file ({error})", "look at the step that makes it") from None
    return Paths(texts["rpath"], texts["runpath"])


def _run_paths(spec: Spec, tree: Path, elf: list[str], run: Run) -> None:
    """Give each ELF file the run path that the spec says, and none where it says none."""
    by_value: dict[str, list[str]] = {}
    for path in elf:
        wanted, has = globs.first(spec.rpath, path, ""), run_paths(tree / path)
        if has is not None and has != Paths("", wanted):
            by_value.setdefault(wanted, []).append(path)
    for value, paths in sorted(by_value.items()):
        for batch in _batches(paths):
            run(["patchelf", "--set-rpath", value, *batch] if value else ["patchelf", "--remove-rpath", *batch])
    for path in elf:
        has = run_paths(tree / path)
        if has is not None and has != Paths("", globs.first(spec.rpath, path, "")):
            raise HapairError(f"{spec.id}: {path} has the run path {has.rpath or has.runpath!r} after patchelf")


def _batches(paths: Iterable[str]) -> Iterable[list[str]]:
    """Cut a list of files into pieces that fit on a command line."""
    rest = [os.path.join(".", path) for path in paths]  # noqa: PTH118 - pathlib drops the "./" that tells it from a flag
    while rest:
        yield rest[:200]
        rest = rest[200:]
