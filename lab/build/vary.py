"""Is an artifact the same whoever builds it, where and when? Rebuild it in other surroundings, compare every byte."""

from __future__ import annotations

import contextlib
import filecmp
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab import paths, proc
from lab.build import engine, manifest, runner
from lab.build.progress import Progress, Step
from lab.build.rebuild import Request
from lab.build.variations import Combined, Variation, combine, variations
from lab.deadline import Deadline, wait_until
from lab.errors import HapairError

Liblxc = Literal["own", "system"]
REBUILD_S = 4 * 3600.0
DIFFOSCOPE_S = 1200.0
MOUNT_S = 30.0
TAIL_BYTES = 2000
NAMED = 4
SHARED = ("sources",)
"""What a rebuild takes from the real cache: files that are verified whenever they are used."""


@dataclass(frozen=True)
class Verdict:
    """What came of one verification."""

    spec: str
    applied: tuple[Variation, ...]
    skipped: tuple[Variation, ...]
    different: tuple[str, ...] = ()
    """Artifact and file, for each that is not the same in both builds; empty: all is the same."""
    members: tuple[str, ...] = ()
    """What differs inside of the archives."""
    culprits: tuple[frozenset[str], ...] = ()
    """The smallest sets of variations that make a difference; an empty set: even a rebuild without any differs."""
    report: Path | None = None
    """What diffoscope says."""
    remark: str = ""

    def lines(self) -> list[str]:
        """Return the verdict for a person to read."""
        same = not self.different
        told = [f"{self.spec}: {'the same, byte for byte' if same else 'DIFFERENT'}"]
        told += [f"  varied {one.name}: {one.what}, {one.where}" for one in self.applied]
        told += [f"  not varied on this machine: {one.name}: {one.skipped}" for one in self.skipped]
        told += [f"  different: {name}" for name in self.different]
        told += [f"    in it: {name}" for name in self.members]
        told += [f"  because of: {_named(culprit)}" for culprit in self.culprits]
        told += [f"  diffoscope: {self.report}"] if self.report else []
        return told + ([f"  {self.remark}"] if self.remark else [])

    def enforce(self) -> None:
        """Fail when the builds differ.

        Raises:
            HapairError: the message says what differs, and which variation did it.
        """
        if self.different:
            hint = f"read {self.report}" if self.report else self.remark
            raise HapairError("\n".join(self.lines()), hint or "mend the buildspec, and verify again")


def _named(culprit: frozenset[str]) -> str:
    return " with ".join(sorted(culprit)) or "chance: it differs without any variation too"


@dataclass(frozen=True)
class _Job:
    """What is verified, and how it is shown."""

    spec: str
    liblxc: Liblxc
    sources: Mapping[str, Path]
    first: Path
    progress: Progress
    stop: threading.Event | None
    kept: list[Path] = field(default_factory=list)
    """Folders with results that differed."""


def verify(
    spec: str,
    progress: Progress,
    *,
    sources: Mapping[str, Path] | None = None,
    liblxc: Liblxc = "own",
    only: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> Verdict:
    """Rebuild an artifact and all its needs in an empty cache, with everything varied at once, and compare.

    When something differs, the variations are halved until those that do it are known, which takes some more builds.

    Args:
        spec: the buildspec's name.
        progress: where the steps are shown.
        sources: as in `engine.ensure`.
        liblxc: as in `engine.ensure`.
        only: names of variations; without them, all that this machine can do.
        stop: set from another thread, it ends the work.

    Raises:
        BadInput, HostLacks, CommandFailed: it cannot be built at all; see `engine.ensure`.
    """
    known = [one for one in variations() if not only or one.name in only]
    applied = tuple(one for one in known if not one.skipped)
    skipped = tuple(one for one in known if one.skipped)
    given = {name: path.resolve() for name, path in (sources or {}).items()}
    first = engine.ensure(spec, progress, sources=given, liblxc=liblxc, stop=stop).folder
    job = _Job(spec, liblxc, given, first, progress, stop)
    folder = paths.cache() / "verify"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{spec}-", dir=folder) as scratch:
        different = _differences(job, applied, Path(scratch))
        if not different:
            return Verdict(spec, applied, skipped)
        by_name = {one.name: one for one in applied}

        def differs(chosen: frozenset[str]) -> bool:
            return bool(_differences(job, [by_name[name] for name in sorted(chosen)], Path(scratch)))

        found = culprits(frozenset(by_name), differs)
        report, remark = _diffoscope(job, different)
        return Verdict(spec, applied, skipped, tuple(sorted(different)), _members(job), tuple(found), report, remark)


def culprits(names: frozenset[str], differs: Callable[[frozenset[str]], bool]) -> list[frozenset[str]]:
    """Return the smallest sets of names that make a difference, given that all of them together do.

    Args:
        names: of the variations.
        differs: whether a rebuild with just these variations is different.
    """
    if differs(frozenset()):
        return [frozenset()]
    return _halve(names, differs)


def _halve(names: frozenset[str], differs: Callable[[frozenset[str]], bool]) -> list[frozenset[str]]:
    if len(names) <= 1:
        return [names]
    ordered = sorted(names)
    halves = [frozenset(ordered[: len(ordered) // 2]), frozenset(ordered[len(ordered) // 2 :])]
    found = [culprit for half in halves if differs(half) for culprit in _halve(half, differs)]
    return found or [_together(names, differs)]


def _together(names: frozenset[str], differs: Callable[[frozenset[str]], bool]) -> frozenset[str]:
    """Neither half does it alone: leave out one after another as long as it still differs."""
    kept = names
    for name in sorted(names):
        if len(kept) > 1 and differs(kept - {name}):
            kept -= {name}
    return kept


def _differences(job: _Job, chosen: Sequence[Variation], scratch: Path) -> dict[str, Path]:
    """Rebuild once; return what differs: artifact and file → the file of the rebuild."""
    names = [one.name for one in chosen]
    what = ", ".join(names) if len(names) <= NAMED else f"{len(names)} things"
    room = Path(tempfile.mkdtemp(prefix="re build ", dir=scratch))
    with (
        job.progress.step(f"{job.spec}: rebuild with {what or 'nothing'} varied") as shown,
        _cache(room, combine(chosen)) as cache,
    ):
        again = _rebuild(job, combine(chosen), room, cache, shown)
        different = _compare(job.first, again)
        if different and not job.kept:
            # The first of them is what diffoscope gets to see; the mount goes away.
            kept = scratch / "different"
            shutil.copytree(again.parent, kept)
            job.kept.append(kept)
            different = {name: kept / path.relative_to(again.parent) for name, path in different.items()}
    shutil.rmtree(room, ignore_errors=True)
    return different


@contextlib.contextmanager
def _cache(room: Path, how: Combined) -> Iterator[Path]:
    """Make an empty cache that shares the verified sources, its folders listed backwards if that is wanted."""
    real = room / "cache"
    (real / "hapair").mkdir(parents=True)
    for name in SHARED:
        (paths.cache() / name).mkdir(parents=True, exist_ok=True)
        (real / "hapair" / name).symlink_to(paths.cache() / name)
    if not how.reversed_folders:
        yield real
        return
    mount = room / "mount"
    mount.mkdir()
    options = ["--multi-user=no", "--sort-dirents=yes", "--reverse-dirents=yes"]
    # In the foreground, so that it ends with this process, however that ends.
    child = proc.spawn([*runner.ORPHANED, "disorderfs", "-f", *options, real, mount])
    try:
        wait_until("disorderfs is mounted", mount.is_mount, Deadline.after(MOUNT_S))
        yield mount
    finally:
        proc.run(["fusermount", "-u", "-z", mount], limit_s=MOUNT_S, check=False)
        proc.kill_group(child)
        child.wait()


def _rebuild(job: _Job, how: Combined, room: Path, cache: Path, shown: Step) -> Path:
    answer, log = room / "answer", room / "log"
    given = {name: str(path) for name, path in job.sources.items()}
    wanted = Request(job.spec, job.liblxc, given, how.surroundings, how.umask_around, str(answer))

    def watch() -> None:
        lines = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace").split("\n")
        shown.note(next((line.strip() for line in reversed(lines) if line.strip()), ""))

    runner.run(
        [*how.around, sys.executable, "-m", "lab.build.rebuild", wanted.text()],
        cwd=paths.PROJECT,
        log=log,
        limit_s=REBUILD_S,
        env={**how.env_around, "XDG_CACHE_HOME": str(cache)},
        watch=watch,
        stop=job.stop,
    )
    return Path(answer.read_text(encoding="utf-8"))


def _compare(first: Path, again: Path) -> dict[str, Path]:
    """Compare every artifact of the rebuild with its like in the real cache: the wanted one, and what it needed."""
    different: dict[str, Path] = {}
    if first.name != again.name:
        different[f"{first.name} (now {again.name})"] = again / manifest.MANIFEST
    for folder in sorted(again.parent.iterdir()):
        like = first if folder == again else first.parent / folder.name
        if not like.is_dir():
            # What the first build no longer needed to keep cannot be compared.
            continue
        names = {str(path.relative_to(top)) for top in (like, folder) for path in top.rglob("*") if path.is_file()}
        for name in sorted(names):
            if not _same(like / name, folder / name):
                different[f"{like.name}/{name}"] = folder / name
    return different


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def _members(job: _Job) -> tuple[str, ...]:
    """Return what differs inside of the archives, as far as the manifests tell."""
    told: list[str] = []
    for folder in sorted(job.kept[0].iterdir()) if job.kept else []:
        trees = []
        for side in (job.first.parent / folder.name, folder):
            with contextlib.suppress(OSError, ValueError):
                trees.append(json.loads((side / manifest.MANIFEST).read_text(encoding="utf-8")).get("tree", {}))
        if len(trees) == 2:
            one, other = trees
            told += [f"{folder.name}: {path}" for path in sorted({*one, *other}) if one.get(path) != other.get(path)]
    return tuple(told)


def _diffoscope(job: _Job, different: dict[str, Path]) -> tuple[Path | None, str]:
    """Let diffoscope compare the first archive that differs; return its report and a remark."""
    if shutil.which("diffoscope") is None:
        return None, "apt-get install diffoscope-minimal shows what differs inside"
    name, again = min(different.items(), key=lambda item: (".tar" not in item[0], item[0]))
    first = job.first.parent / again.parent.name / again.name
    if not first.is_file() or not again.is_file():
        return None, f"{name} is there in one of the builds only"
    report = paths.cache() / "logs" / f"verify-{job.spec}.txt"
    report.parent.mkdir(parents=True, exist_ok=True)
    with job.progress.step(f"{job.spec}: diffoscope"):
        try:
            # Exit code 1 says that there are differences.
            proc.run(["diffoscope", "--text", report, first, again], limit_s=DIFFOSCOPE_S, check=False)
        except proc.CommandFailed as error:
            return None, f"diffoscope did not come to an end: {error.message.splitlines()[0]}"
    return (report, "") if report.is_file() else (None, "diffoscope left no report")
