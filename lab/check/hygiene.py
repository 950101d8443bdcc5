"""What the entries of an archive must be like, and unpacking it where nothing can reach out of the folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from lab.check.report import Report
from lab.check.tarball import FILE, FOLDER, LINK, Broken, Entry, Reader

FILE_MODES = (0o644, 0o755)
MAX_HOPS = 40
"""Links that the kernel follows in one path (path_resolution(7))."""
MODES = {FILE: FILE_MODES, FOLDER: (0o755,), LINK: (0o777,)}


@dataclass(frozen=True)
class Leaf:
    """A file (`sha256`) or a link (`target`) of the tree."""

    mode: int
    size_bytes: int = 0
    sha256: str = ""
    target: str = ""


@dataclass
class Tree:
    """What was unpacked: paths are relative to the one top folder."""

    root: Path
    leaves: dict[str, Leaf] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def resolve(self, path: str) -> str | None:
        """Follow links inside the tree; return the path of the file or folder in the end, or None."""
        # As the kernel does it, part by part: ".." after a link is the parent of where the link leads.
        todo, at, hops = path.split("/")[::-1], list[str](), 0
        while todo:
            part = todo.pop()
            if part == "..":
                if not at:
                    return None
                at.pop()
            elif part not in ("", "."):
                at.append(part)
                leaf = self.leaves.get("/".join(at))
                if leaf is not None and leaf.target:
                    hops += 1
                    if hops > MAX_HOPS or leaf.target.startswith("/"):
                        return None
                    at.pop()
                    todo += leaf.target.split("/")[::-1]
        found = "/".join(at) or "."
        return found if found in self.leaves or found in self.folders else None


def normal(path: str) -> str | None:
    """Return a relative path without "." and "..", or None when it leaves the folder that it is relative to."""
    if path.startswith("/"):
        return None
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not kept:
                return None
            kept.pop()
        elif part not in ("", "."):
            kept.append(part)
    return "/".join(kept) or "."


def unpack(
    reader: Reader,
    into: Path,
    top: str,
    report: Report,
    *,
    mtime: int | None = None,
    modes: frozenset[int] = frozenset(),
) -> Tree:
    """Unpack what may be unpacked into the empty folder `into`, and report everything that is not as it must be.

    Args:
        reader: the archive.
        into: an empty folder that nobody else writes to.
        top: the one folder that the archive may hold.
        report: gets the faults, also that of an archive that breaks off.
        mtime: the one time that all entries must have; without it, any that they share.
        modes: modes that files may have beyond the usual ones.
    """
    tree = Tree(into / top)
    names: list[str] = []
    try:
        for entry in reader.entries():
            path = _inside(entry, top, set(names), report)
            if path is not None and not entry.problem and _parent_there(tree, path, entry, report):
                _write(tree, path, entry, reader)
            names.append(entry.name.rstrip("/"))
            mtime = entry.mtime if mtime is None else mtime
            _normalised(entry, mtime, modes, report)
    except Broken as error:
        report.fault("archive", "", str(error))
    if "." not in tree.folders:
        report.fault("archive", "", f"does not hold the folder {top}/")
    _sorted(names, report)
    for path, leaf in tree.leaves.items():
        if leaf.target:
            _link(tree, path, leaf.target, report)
    return tree


def _inside(entry: Entry, top: str, seen: set[str], report: Report) -> str | None:
    """Return an entry's path below the top folder, or None when it must not be unpacked."""
    name = entry.name.removesuffix("/") if entry.kind == FOLDER else entry.name
    parts = name.split("/")
    wrong = ""
    if entry.problem:
        wrong = f"is {entry.problem}"
    elif name.startswith("/"):
        wrong = "is an absolute path"
    elif ".." in parts:
        wrong = "climbs out with '..'"
    elif "" in parts or "." in parts or "\0" in name or len(name) > 4000 or max(map(len, parts)) > 255:
        wrong = "is no plain path"
    elif parts[0] != top or (len(parts) == 1 and entry.kind != FOLDER):
        wrong = f"stands outside of the one top folder {top}/"
    elif name in seen:
        wrong = "stands there twice"
    if wrong:
        report.fault("entry", entry.name, wrong)
        return None
    return "/".join(parts[1:]) or "."


def _parent_there(tree: Tree, path: str, entry: Entry, report: Report) -> bool:
    # A folder that the archive made itself, and no link: so nothing is ever written through a link.
    if path == "." or (parent := str(PurePosixPath(path).parent)) in tree.folders:
        return True
    report.fault("entry", entry.name, f"its folder {parent} has no entry of its own before it")
    return False


def _write(tree: Tree, path: str, entry: Entry, reader: Reader) -> None:
    place = tree.root / path
    if entry.kind == FOLDER:
        place.mkdir(mode=0o755)
        tree.folders.add(path)
    elif entry.kind == LINK:
        if entry.target and "\0" not in entry.target and len(entry.target) < 4000:
            place.symlink_to(entry.target)
        tree.leaves[path] = Leaf(entry.mode, target=entry.target or "?")
    else:
        digest = hashlib.sha256()
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o700)
        with os.fdopen(fd, "wb") as file:
            for piece in reader.content():
                digest.update(piece)
                file.write(piece)
        place.chmod(entry.mode & 0o755)
        tree.leaves[path] = Leaf(entry.mode, entry.size_bytes, digest.hexdigest())


def _normalised(entry: Entry, mtime: int, modes: frozenset[int], report: Report) -> None:
    if (entry.uid, entry.gid) != (0, 0) or entry.uname not in ("", "root") or entry.gname not in ("", "root"):
        owner = f"{entry.uid}:{entry.gid} {entry.uname}:{entry.gname}"
        report.fault("owner", entry.name, f"belongs to {owner.strip()}, not to 0:0")
    if entry.mtime != mtime:
        report.fault("mtime", entry.name, f"its time is {entry.mtime}, not {mtime}")
    if entry.kind and entry.mode not in MODES[entry.kind] and not (entry.kind == FILE and entry.mode in modes):
        report.fault("mode", entry.name, f"its mode is {entry.mode:04o}, not a normal one")
    if entry.kind in (LINK, FOLDER) and entry.size_bytes:
        report.fault("entry", entry.name, "a link or folder has content")


def matches(path: str, pattern: str) -> bool:
    """Tell whether a path fits a glob of the manifest: `*` and `?` stay within one name, `**` spans folders."""
    parts = [".*" if part == "**" else _name_glob(part) for part in pattern.split("/")]
    text = "/".join(parts).replace(".*/", "(?:.*/)?")
    return re.fullmatch(text, path) is not None


def _name_glob(part: str) -> str:
    text = re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return text.replace(r"\[", "[").replace(r"\]", "]").replace("[!", "[^")


def _sorted(names: Iterable[str], report: Report) -> None:
    listed = list(names)
    whole, by_folder = sorted(listed), sorted(listed, key=lambda name: name.split("/"))
    if listed not in (whole, by_folder):
        wrong = next(name for name, right in zip(listed, whole, strict=True) if name != right)
        report.fault("order", wrong, "the entries are not sorted by name")


def _link(tree: Tree, path: str, target: str, report: Report) -> None:
    if target.startswith("/"):
        report.fault("link", path, f"links to the absolute path {target}")
    elif normal(str(PurePosixPath(path).parent / target)) is None:
        report.fault("link", path, f"links out of the tree: {target}")
    elif tree.resolve(path) is None:
        report.fault("link", path, f"links to nothing in the tree: {target}")


def compare(tree: Tree, told: Mapping[str, Mapping[str, object]], report: Report) -> None:
    """Compare the unpacked tree with what the manifest says about each of its files and links."""
    for path in sorted(set(tree.leaves) | set(told)):
        leaf, said = tree.leaves.get(path), told.get(path)
        if leaf is None or said is None:
            gone = "the manifest names it, the archive lacks it" if leaf is None else "the manifest does not name it"
            report.fault("digest", path, gone)
            continue
        if leaf.target:
            found: dict[str, object] = {"link": leaf.target}
        else:
            found = {"mode": f"{leaf.mode:04o}", "size_bytes": leaf.size_bytes, "sha256": leaf.sha256}
        for key in sorted(set(found) | set(said)):
            if found.get(key) != said.get(key):
                report.fault("digest", path, f"{key} is {found.get(key)}, the manifest says {said.get(key)}")
