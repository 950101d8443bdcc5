"""The engine: one key over every input, a scratch folder for the steps, one atomic move when all is well."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lab import paths, proc
from lab.build import fetch, manifest, runner, unpack
from lab.build import spec as specs
from lab.build.fetch import Fetched
from lab.build.manifest import Artifact
from lab.build.progress import Progress
from lab.build.progress import Step as Shown
from lab.build.spec import Spec, Step
from lab.errors import BadInput, HapairError, HostLacks

ENGINE = 1
"""Part of every key: raise it when the engine does something else with the same spec."""

# What kbuild and automake print for each object they compile.
OBJECT = re.compile(rb"^  (?:CC|AS) ", re.MULTILINE)
LOCK_S = 0.5
VERSION_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Everything about a build that is known before its sources are."""

    spec: Spec
    folder: Path
    files: Mapping[str, str]
    """File beside the spec → its SHA-256."""
    tools: Mapping[str, str]
    """Program → the first line of its version."""

    def inputs(self, sources: Mapping[str, Fetched]) -> dict[str, Any]:
        """Return all that goes into the key, and the manifest tells."""
        described = {"about", "packages", "disk_bytes", "sources"}
        spec = self.spec.model_dump(exclude=described, exclude_defaults=True)
        for step in spec["steps"]:
            for shown in ("limit_s", "expect_objects", "estimate_s"):
                step.pop(shown, None)
        unpacked = {
            name: source.model_dump(include={"member", "strip", "exclude"})
            for name, source in self.spec.sources.items()
        }
        return {
            "engine": ENGINE,
            "spec": {**spec, "unpack": unpacked},
            "files": dict(self.files),
            "tools": dict(self.tools),
            "sources": {name: asdict(source) for name, source in sources.items()},
        }

    def key(self, sources: Mapping[str, Fetched]) -> str:
        """Return the content key: the same inputs always have the same key."""
        inputs = self.inputs(sources)
        inputs["sources"] = {name: source.sha256 for name, source in sources.items()}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]

    def target(self, sources: Mapping[str, Fetched]) -> Path:
        """Return where the artifact stands or will stand."""
        verified = all(source.verified for source in sources.values())
        return manifest.place(self.spec.name, self.key(sources), verified=verified)


def plan(name: str) -> Plan:
    """Read a spec and everything beside it that counts.

    Raises:
        BadInput: the spec, or a file that it names, is not there or not valid.
        HostLacks: a tool is not installed.
    """
    spec, path = specs.load(name)
    missing = [file for file in spec.files if not (path.parent / file).is_file()]
    if missing:
        raise BadInput(f"{path}: files: {missing[0]} is not beside it", "write that file, or take it off the list")
    files = {file: fetch.digest_file(path.parent / file) for file in spec.files}
    return Plan(spec, path.parent, files, {tool: _version(tool, spec) for tool in spec.tools})


def _version(tool: str, spec: Spec) -> str:
    try:
        done = proc.run([proc.which(tool), "--version"], limit_s=VERSION_S)
    except HostLacks:
        raise HostLacks(
            f"{tool} is not installed, and building {spec.name} needs it",
            f"apt-get install {' '.join(spec.packages)}",
        ) from None
    return done.text.partition("\n")[0]


def ensure(
    name: str,
    progress: Progress,
    *,
    sources: Mapping[str, Path] | None = None,
    stop: threading.Event | None = None,
) -> Artifact:
    """Return the artifact of a buildspec, from the cache or built now.

    Args:
        name: the buildspec's name.
        progress: where the steps are shown.
        sources: local files that take the place of a source, remembered from now on.
        stop: set from another thread, it ends the build as Ctrl-C does (raises `runner.Stopped`).

    Raises:
        BadInput: the spec is wrong, or `sources` names something that is not there.
        HostLacks: a tool, room on the disk or a source is missing; every place tried is listed.
        Damaged: the cached artifact is not what its manifest says.
        CommandFailed: a step failed; the message shows its last lines and names its log.
    """
    made = plan(name)
    given = dict(sources or {})
    if unknown := sorted(set(given) - set(made.spec.sources)):
        raise BadInput(f"{name} has no source {unknown[0]!r}", f"it has: {', '.join(made.spec.sources)}")
    if not given and (found := _cached(made)):
        return found
    with _alone(name, progress, stop), _scratch(made.spec) as scratch:
        site = _Site(made, progress, scratch, stop)
        for source, file in given.items():
            fetch.adopt(source, made.spec.sources[source], file, scratch)
        # Somebody else may have built it while this run waited for its turn.
        if found := _cached(made):
            return found
        return _build(site, {source: _obtain(site, source) for source in made.spec.sources})


def cached(name: str) -> Artifact | None:
    """Return the artifact of a buildspec if the cache has it; nothing is built, and no tool need be there."""
    try:
        return _cached(plan(name))
    except HostLacks:
        return None


@dataclass(frozen=True)
class _Site:
    """Where one build takes place."""

    made: Plan
    progress: Progress
    scratch: Path
    stop: threading.Event | None


def _cached(made: Plan) -> Artifact | None:
    known = {name: fetch.recorded(name, source) for name, source in made.spec.sources.items()}
    complete = {name: source for name, source in known.items() if source is not None}
    return manifest.find(made.target(complete)) if len(complete) == len(known) else None


@contextmanager
def _alone(name: str, progress: Progress, stop: threading.Event | None) -> Iterator[None]:
    """Hold the lock of this build: two runs at once would do the same work twice, and slower."""
    folder = paths.cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"build-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with progress.step(f"{name}: waiting for another run that builds it"):
            while not lock.is_locked:
                if stop is not None and stop.is_set():
                    raise runner.Stopped(f"stopped while waiting for another build of {name}") from None
                try:
                    lock.acquire(timeout=LOCK_S)
                except Timeout:
                    continue
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _scratch(spec: Spec) -> Iterator[Path]:
    """Make a folder for one build, under its lock; what killed builds left behind goes first."""
    parent = paths.cache() / "scratch" / spec.name
    shutil.rmtree(parent, ignore_errors=True)
    parent.mkdir(parents=True)
    free = shutil.disk_usage(parent).free
    if free < spec.disk_bytes:
        raise HostLacks(
            f"building {spec.name} needs {spec.disk_bytes >> 20} MiB in {parent}, {free >> 20} MiB are free",
            "make room there, or point XDG_CACHE_HOME at a larger disk",
        )
    try:
        yield Path(tempfile.mkdtemp(dir=parent))
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _obtain(site: _Site, name: str) -> Fetched:
    spec, source = site.made.spec, site.made.spec.sources[name]
    known = fetch.recorded(name, source)
    if known and fetch.have(name, source, known):
        return known
    with site.progress.step(f"{spec.name}: source {name}") as shown:
        return fetch.fetch(spec.name, name, source, scratch=site.scratch, step=shown, stop=site.stop)


def _build(site: _Site, got: Mapping[str, Fetched]) -> Artifact:
    made, spec, target = site.made, site.made.spec, site.made.target(got)
    if found := manifest.find(target):
        return found
    logs = paths.cache() / "logs" / target.name
    shutil.rmtree(logs, ignore_errors=True)
    room = {part: site.scratch / part for part in ("src", "files", "stage")}
    for folder in (*room.values(), logs):
        folder.mkdir(parents=True)
    for file in spec.files:
        (room["files"] / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.folder / file, room["files"] / file)
    for name, source in spec.sources.items():
        into = room["src"] if len(spec.sources) == 1 else room["src"] / name
        archive = fetch.shelf(name, source) / got[name].file
        with site.progress.step(f"{spec.name}: unpack {name}"):
            log = logs / f"00-unpack-{name}.log"
            unpack.unpack(source, archive, into, scratch=site.scratch, log=log, stop=site.stop)
    values = {**{part: str(folder) for part, folder in room.items()}, "jobs": str(len(os.sched_getaffinity(0)))}
    for number, step in enumerate(spec.steps, 1):
        _perform(site, step, values, logs / f"{number:02}-{step.name}.log")
    if not (room["stage"] / spec.result).is_file():
        raise HapairError(f"{spec.name}: the steps left no {spec.result} in the stage", f"read the logs in {logs}")
    content = {"name": spec.name, "key": made.key(got), "result": spec.result, "inputs": made.inputs(got)}
    return manifest.publish(room["stage"], target, content)


def _perform(site: _Site, step: Step, values: Mapping[str, str], log: Path) -> None:
    def fill(text: str) -> str:
        return text.format_map(values)

    with site.progress.step(f"{site.made.spec.name}: {step.name}", estimate_s=step.estimate_s) as shown:
        if step.lines is not None:
            compare_lines(Path(fill(step.lines.of)), Path(fill(step.lines.inside)))
        if step.run is not None:
            runner.run(
                [fill(word) for word in step.run],
                cwd=Path(values["src"]),
                env={name: fill(value) for name, value in site.made.spec.env.items()},
                log=log,
                limit_s=step.limit_s,
                watch=counter(log, step.expect_objects, shown) if step.expect_objects else None,
                stop=site.stop,
            )


def compare_lines(of: Path, inside: Path) -> None:
    """Refuse a file that lacks a line of another: an option that the source no longer takes must not go unnoticed.

    Raises:
        HapairError: the message lists the lines.
    """
    wanted = [line.strip() for line in of.read_text(encoding="utf-8").splitlines()]
    there = set(inside.read_text(encoding="utf-8").splitlines())
    missing = [line for line in wanted if line and not line.startswith("#") and line not in there]
    if missing:
        raise HapairError(
            f"{inside.name} does not have every line of {of.name}: {', '.join(missing)}",
            f"mend {of.name}: the source knows no such option, or it depends on another one",
        )


def counter(log: Path, expected: int, shown: Shown) -> Callable[[], None]:
    """Return a function that counts the objects announced in a growing log, and says what remains."""
    began = time.monotonic()
    seen, offset, rest = 0, 0, b""

    def watch() -> None:
        nonlocal seen, offset, rest
        with log.open("rb") as file:
            file.seek(offset)
            new = file.read()
        offset += len(new)
        whole, _, rest = (rest + new).rpartition(b"\n")
        seen += len(OBJECT.findall(whole))
        # The expected number is of one compiler and source version; another may need some more.
        total = max(expected, seen)
        took_s = time.monotonic() - began
        left = f", about {took_s * (total - seen) / seen:.0f} s left" if seen > total // 20 else ""
        shown.note(f"{seen} of {total} objects{left}")

    return watch
