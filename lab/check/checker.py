"""All checks of one artifact, one after another, each going on after the faults of those before."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from lab.check import elf, hygiene, leaks, manifest, moved, papers, policy
from lab.check.elf import Facts
from lab.check.hygiene import Tree
from lab.check.manifest import MANIFEST, Manifest
from lab.check.policy import Policy
from lab.check.report import Report
from lab.check.subject import Subject
from lab.check.tarball import Broken, Reader
from lab.errors import BadInput, HostLacks

ARCHIVE = ".tar.zst"
UNTRUSTED = {"manifest", "digest", "archive", "entry", "link", "name"}
"""After a fault of these, nothing of the artifact is executed."""
ROOM_FACTOR = 30
"""Room for the check, in archives: a tree is three times its archive, and stands there twice; the rest is in hand."""


class Progress(Protocol):
    """Where the steps are shown (lab.log.Steps fits)."""

    def step(self, title: str, *, estimate_s: float | None = None) -> AbstractContextManager[object]:
        """Open a step."""


def check(
    artifact: Path, progress: Progress, *, rules: Policy | None = None, seed: int | None = None, run: bool = True
) -> Report:
    """Check an artifact in every way and return all that was found; nothing is raised for a fault.

    Args:
        artifact: the .tar.zst, or the folder that holds it.
        progress: where the steps are shown.
        rules: the ELF policy; without it, that of buildspecs/abi.yaml.
        seed: of the random places it is run at; without it, a new one, which the report tells.
        run: False when nothing of the artifact may be executed, because nobody trusts it yet.

    Raises:
        BadInput: there is no such artifact.
        HostLacks: there is too little room to unpack it.
    """
    folder = artifact.parent if artifact.is_file() else artifact
    if not folder.is_dir() or not (artifact.is_dir() or artifact.name.endswith(ARCHIVE)):
        raise BadInput(f"{artifact} is no artifact", "name the .tar.zst, or the folder that holds it and manifest.json")
    rules = rules or policy.load()
    seed = secrets.randbits(32) if seed is None else seed
    report = Report()
    with progress.step("manifest and digests"):
        told = manifest.read(folder, report)
        digests = _digests(folder, told, report)
    archive = _archive(artifact, folder, told, report)
    if archive is None:
        return report
    with tempfile.TemporaryDirectory(prefix="hapair-check-") as scratch:
        room = Path(scratch)
        _enough(room, archive)
        with progress.step("archive"):
            tree = _unpack(archive, told, room, report)
        with progress.step("ELF files"):
            elves = _elves(tree, report)
            also = ["liblxc.so.1"] if told and told.liblxc == "system" else []
            policy.judge(tree, elves, rules, report, also_system=also)
        if told is not None:
            subject = Subject(folder, told, digests, tree, elves)
            _told(subject, progress, report)
            if report.rules & UNTRUSTED:
                report.note("not run: it is not what its manifest says, or its archive is unsafe")
            elif run:
                with progress.step("moved and run"):
                    (room / "moved").mkdir()
                    report.note(f"seed of the three places: {seed}")
                    moved.run(subject, room / "moved", seed, report)
    return report


def _told(subject: Subject, progress: Progress, report: Report) -> None:
    """Check all that the manifest lets one check."""
    with progress.step("SBOM and provenance"):
        papers.provenance(subject, report)
        papers.sbom(subject, report)
    with progress.step("leaked paths"):
        leaks.scan(subject, report)
        _asserted(subject, report)


def _digests(folder: Path, told: Manifest | None, report: Report) -> dict[str, str]:
    """Digest every file in the folder, and compare with the manifest in both directions."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            report.fault("digest", name, "is neither a plain file nor a folder")
        elif path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    if told is None:
        return found
    for name in sorted(set(found) | set(told.files)):
        said = told.files.get(name)
        if said is None:
            report.fault("digest", name, "the manifest does not name it")
        elif name not in found:
            report.fault("digest", name, "the manifest names it, and it is not there")
        elif found[name] != said.sha256:
            report.fault("digest", name, f"sha256 is {found[name]}, the manifest says {said.sha256}")
        elif (folder / name).stat().st_size != said.size_bytes:
            report.fault("digest", name, f"size is not the {said.size_bytes} bytes that the manifest says")
    return found


def _archive(artifact: Path, folder: Path, told: Manifest | None, report: Report) -> Path | None:
    """Return the archive to look into, if there is one; a plain file (the lab's kernel) has none."""
    if artifact.is_file():
        archive = artifact
    elif told is not None:
        archive = folder / told.result
    else:
        archives = sorted(folder.glob(f"*{ARCHIVE}"))
        archive = archives[0] if archives else folder / "none"
    if told is not None:
        _named(told, archive.name, folder.name, report)
        if told.top is None:
            report.note(f"{told.result} is a plain file: only its digest was checked")
            return None
    return archive if archive.is_file() else None


def _named(told: Manifest, archive: str, folder: str, report: Report) -> None:
    """Compare the names with what the manifest says: an artifact must not look better than it is."""
    if archive != told.result:
        report.fault("name", archive, f"the manifest is that of {told.result}")
    weak = [name for name, source in told.inputs.sources.items() if not source.verified]
    if told.verified and weak:
        report.fault("name", MANIFEST, f"says verified, but nothing vouches for the source {weak[0]}")
    if told.top is None:
        return
    expected = f"{told.top}-{told.arch}{'' if told.verified else '-unverified'}"
    expected += "-liblxc-system" if told.liblxc == "system" else ""
    if told.result != expected + ARCHIVE:
        report.fault("name", told.result, f"must be called {expected}{ARCHIVE}")
    if told.key not in folder and told.key:
        report.note(f"the folder {folder} does not carry the key {told.key}")


def _enough(room: Path, archive: Path) -> None:
    wanted = archive.stat().st_size * ROOM_FACTOR
    free = shutil.disk_usage(room).free
    if free < wanted:
        raise HostLacks(
            f"the check needs {wanted >> 20} MiB in {room.parent}, {free >> 20} MiB are free",
            "make room there, or point TMPDIR at a larger disk",
        )


def _unpack(archive: Path, told: Manifest | None, room: Path, report: Report) -> Tree:
    into = room / "unpacked"
    into.mkdir()
    top = told.top if told and told.top else _top(archive)
    modes = _special_modes(told, report)
    with archive.open("rb") as file:
        mtime = told.source_date_epoch if told else None
        tree = hygiene.unpack(Reader(file), into, top, report, mtime=mtime, modes=modes)
    if told is not None:
        hygiene.compare(tree, told.tree, report)
    return tree


def _special_modes(told: Manifest | None, report: Report) -> frozenset[int]:
    """Return the modes beyond the usual ones that the spec asks for, and say which files are to have them."""
    asked = told.inputs.spec.get("install", {}) if told else {}
    modes = asked.get("modes", {}) if isinstance(asked, dict) else {}
    for pattern, mode in sorted(modes.items()) if isinstance(modes, dict) else ():
        report.note(f"the spec asks for mode {mode} of {pattern}")
    return frozenset(int(str(mode), 8) for mode in modes.values()) if isinstance(modes, dict) else frozenset()


def _top(archive: Path) -> str:
    """Return the first entry's top folder, when no manifest says which it must be."""
    with archive.open("rb") as file:
        try:
            return next(Reader(file).entries()).name.split("/")[0]
        except (StopIteration, Broken):
            # The real pass finds the same and reports it.
            return "?"


def _elves(tree: Tree, report: Report) -> dict[str, Facts]:
    found: dict[str, Facts] = {}
    for path, leaf in sorted(tree.leaves.items()):
        if leaf.target or not elf.is_elf(tree.root / path):
            continue
        try:
            found[path] = elf.read(tree.root / path)
        except elf.NotElf as error:
            report.fault("elf", path, str(error))
    return found


def _asserted(subject: Subject, report: Report) -> None:
    """Check what the spec asserts: the libraries that certain files must need, and which are bundled."""
    told, elves = subject.manifest, subject.elves
    for pattern, wanted in sorted(told.checks.needed.items()):
        files = [path for path in elves if hygiene.matches(path, pattern)]
        if not files:
            report.fault("needed", pattern, "the spec's checks name it, and no ELF file is there")
        for path in files:
            for soname in sorted(set(wanted) - set(elves[path].needed)):
                report.fault("needed", path, f"does not need {soname}, as the spec says it must")
    bundled = {facts.soname for facts in elves.values()}
    for soname in sorted(set(told.libraries.bundled) - bundled):
        report.fault("needed", MANIFEST, f"lists {soname} as bundled, and no file of the tree calls itself so")
