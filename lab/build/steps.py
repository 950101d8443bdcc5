"""The rooms that builds take place in: prepared once, worked in step by step, and taken up again after a failure."""

from __future__ import annotations

import json
import platform
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import paths
from lab.build import fetch, godeps, memo, plan, relocate, runner, unpack
from lab.build.fetch import Fetched
from lab.build.manifest import Artifact
from lab.build.plan import Plan
from lab.build.progress import Progress
from lab.build.progress import Step as Shown
from lab.build.sandbox import Sandbox
from lab.build.spec import DEPS, Patch, Source, Step, fill
from lab.build.surroundings import Surroundings
from lab.errors import BadInput, HapairError, HostLacks
from lab.proc import CommandFailed

# What kbuild and automake print for each object they compile.
OBJECT = re.compile(rb"^  (?:CC|AS) ", re.MULTILINE)
STATE = "state.json"
PARTS = ("src", "files", "work", "stage")
PATCH_S = 60.0
WARM = 2
"""So many folders of compiler caches are kept of each spec, those that were used last."""
FULL_BYTES = 32 << 20
"""Less room than this, and a failed step is put down to the full disk."""


@dataclass(frozen=True)
class Room:
    """Where one build takes place, and all that it is given."""

    made: Plan
    key: str
    folder: Path
    logs: Path
    sources: Mapping[str, Fetched]
    needs: Mapping[str, Artifact]
    go_deps: godeps.Packages
    progress: Progress
    surroundings: Surroundings
    stop: threading.Event

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox that sees this room."""
        real = {part: self.folder / part for part in (*PARTS, "tree")}
        real["cache"] = warm(self.made)
        shared = {f"deps/{name}": self.folder / "deps" / name for name in self.needs}
        shared |= {"go_deps": godeps.extracted(self.go_deps)} if self.go_deps else {}
        return Sandbox(real, shared, self.folder / "etc", self.made.spec.epoch, surroundings=self.surroundings)

    @property
    def values(self) -> dict[str, str]:
        """The placeholders, as the steps see them."""
        box, spec, around = self.sandbox, self.made.spec, self.surroundings
        values = {part: box.path(part) for part in (*PARTS, "cache", "go_deps")}
        values |= {DEPS + name: box.path("deps", name) for name in self.needs}
        values |= {DEPS + name: "/usr" for name in spec.needs if name not in self.needs}
        values |= {"prefix": around.prefix, "tree": values["stage"] + around.prefix, "release": spec.release or ""}
        values |= {"epoch": str(spec.epoch), "jobs": str(around.jobs or plan.jobs())}
        return values | {"multiarch": multiarch()}

    @property
    def installed(self) -> Path:
        """The real folder that {tree} stands for."""
        return self.folder / "stage" / self.surroundings.prefix.lstrip("/")

    def log(self, number: int, name: str) -> Path:
        """Return the log file of a piece of work."""
        return self.logs / f"{number:02}-{name}.log"

    def run(self, words: Sequence[str], *, log: Path, cwd: str, limit_s: float, **more: Any) -> None:  # noqa: ANN401
        """Run a command in the sandbox; `more` goes to `runner.run`, raises as it does."""
        env = more.pop("env", {})
        argv = self.sandbox.argv(words, cwd=cwd, env=env)
        runner.run(argv, cwd=self.folder, log=log, limit_s=limit_s, stop=self.stop, shown=tuple(words), **more)


def multiarch() -> str:
    """Return Debian's name of this machine's folder of libraries."""
    return f"{platform.machine()}-linux-gnu"


def warm(made: Plan) -> Path:
    """Return the folder of a spec's compiler caches."""
    return paths.cache() / "warm" / f"{made.spec.id}-{made.warmth()}"


def work(room: Room) -> None:
    """Prepare the room, unless it stands from a run that failed in a step, and perform the steps that remain.

    After a step that failed the room stays, and the next run with the same key begins with that step. After anything
    else (a kill, a full disk) nobody knows what is half written, so the room goes.

    Raises:
        CommandFailed: a step failed; the message shows its last lines and names its log.
        HostLacks: the disk is full.
        Stopped: the stop event was set.
    """
    done = _resumable(room)
    try:
        _share(room)
        if done is None:
            done = 0
            _prepare(room)
        for number, step in enumerate(room.made.spec.steps[done:], done + 1):
            _note(room, number - 1, clean=False)
            _perform(room, step, room.log(number, step.name))
            _note(room, number, clean=True)
    except CommandFailed as error:
        _explain(room, error)
        if error.done.code > 0:
            _note_failed(room)
        raise
    except OSError as error:
        raise unpack.full(error, f"building {room.made.spec.id}") from None


def _explain(room: Room, error: CommandFailed) -> None:
    free = shutil.disk_usage(room.folder).free
    if free < FULL_BYTES:
        raise HostLacks(
            f"the disk is full: {free >> 20} MiB are left in {room.folder}\n{error.message}",
            "make room there, or point XDG_CACHE_HOME at a larger disk; what was built before is intact",
        ) from None


def _state(room: Room) -> dict[str, Any]:
    try:
        state = json.loads((room.folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _resumable(room: Room) -> int | None:
    """Return how many steps are done, or None when the room has to be made anew."""
    state = _state(room)
    # Paths and the like end up in what configure writes: other surroundings begin anew.
    if state.get("clean") is True and state.get("surroundings") == repr(room.surroundings):
        return int(state["done"])
    return None


def _note(room: Room, done: int, *, clean: bool) -> None:
    text = json.dumps({"done": done, "clean": clean, "surroundings": repr(room.surroundings)})
    new = room.folder / f"{STATE}.new"
    new.write_text(text, encoding="utf-8")
    new.replace(room.folder / STATE)


def _note_failed(room: Room) -> None:
    state = _state(room)
    if "done" in state:
        _note(room, int(state["done"]), clean=True)


def resumes(room: Path) -> bool:
    """Tell whether a later run can go on in a room."""
    try:
        return json.loads((room / STATE).read_text(encoding="utf-8"))["clean"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _prepare(room: Room) -> None:
    spec = room.made.spec
    for old in (room.folder, room.logs):
        shutil.rmtree(old, ignore_errors=True)
    for part in (*PARTS, "tree", "etc", "deps"):
        (room.folder / part).mkdir(parents=True)
    room.logs.mkdir(parents=True)
    for file in spec.files:
        (room.folder / "files" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(room.made.folder / file, room.folder / "files" / file)
    for name, need in room.needs.items():
        unpack.unpack(need.path, room.folder / "deps" / name, strip=1, stop=room.stop)
    for name, source in spec.sources.items():
        with room.progress.step(f"{spec.id}: unpack {name}"):
            archive = fetch.file_of(name, source, room.sources[name])
            into = source_folder(room, name)
            unpack.unpack(
                archive, into, strip=source.strip, exclude=source.exclude, member=source.member, stop=room.stop
            )
    for name, source in spec.sources.items():
        if source.patches:
            with room.progress.step(f"{spec.id}: patch {name}"):
                _patch(room, name, source)


def _share(room: Room) -> None:
    """See that what builds share is there: `build.clean` may have come between a failed run and this one."""
    own = warm(room.made)
    own.mkdir(parents=True, exist_ok=True)
    own.touch()
    # LXD's fills half a gigabyte, and a changed spec begins another one. The last one may be that of --liblxc=system.
    others = sorted(own.parent.glob(f"{room.made.spec.id}-*"), key=lambda path: path.stat().st_mtime)
    for old in others[:-WARM]:
        shutil.rmtree(old, ignore_errors=True)
    wanted = room.made.spec.go_deps
    if wanted and not godeps.extracted(room.go_deps).exists():
        with room.progress.step(f"{room.made.spec.id}: unpack {len(room.go_deps)} Go packages"):
            godeps.extract(wanted, room.go_deps)


def source_folder(room: Room, name: str) -> Path:
    """Return where a source stands in a room."""
    top = room.folder / "src"
    return top if len(room.made.spec.sources) == 1 else top / name


def patch_files(room: Room, patch: Patch) -> list[tuple[str, Path]]:
    """Return the patches that one entry stands for, each with its name.

    Raises:
        BadInput: a series, or a patch in it, is not where the spec says.
    """
    if patch.file is not None:
        return [(patch.file, room.made.folder / patch.file)]
    if patch.series is None:
        raise AssertionError("a patch is a file or a series")
    top = source_folder(room, patch.series.source)
    series = top / patch.series.path
    if not series.is_file():
        raise BadInput(f"{patch.series.source} has no {patch.series.path}", "mend `series` in the spec")
    words = [line.split() for line in series.read_text(encoding="utf-8").splitlines()]
    names = [word[0] for word in words if word and not word[0].startswith("#")]
    if unknown := set(patch.series.skip) - set(names):
        raise BadInput(f"{patch.series.source}: its series has no {min(unknown)} to skip", "mend `skip` in the spec")
    kept = [(series.parent / name) for name in names if name not in patch.series.skip]
    inside = top.resolve()
    if lost := [path for path in kept if not path.resolve().is_relative_to(inside) or not path.is_file()]:
        raise BadInput(f"{patch.series.source}: {lost[0].name} stands in its series but is not there", "use another")
    return [(f"{patch.series.source}/{path.relative_to(top).as_posix()}", path) for path in kept]


def _patch(room: Room, name: str, source: Source) -> None:
    box = room.sandbox
    cwd = box.path("src") if len(room.made.spec.sources) == 1 else box.path("src", name)
    queue = room.folder / "work" / ".patch"
    for patch in source.patches:
        for told, file in patch_files(room, patch):
            # It may lie outside of what the sandbox sees.
            shutil.copyfile(file, queue)
            words = [
                "patch",
                f"-p{patch.strip}",
                "--force",
                "--no-backup-if-mismatch",
                "-i",
                box.path("work", ".patch"),
            ]
            try:
                room.run(words, log=room.logs / f"00-patch-{name}.log", cwd=cwd, limit_s=PATCH_S)
            except CommandFailed as error:
                raise HapairError(f"{told} does not apply to {name}: {error.message}", "mend it, or skip it") from None
            queue.unlink()


def _perform(room: Room, step: Step, log: Path) -> None:
    values, spec = room.values, room.made.spec
    with room.progress.step(f"{spec.id}: {step.name}", estimate_s=step.estimate_s) as shown:
        if step.lines is not None:
            compare_lines(_real(room, fill(step.lines.of, values)), _real(room, fill(step.lines.inside, values)))
        if step.run is None:
            return
        known = memo.memo(room.folder, warm(room.made), step, _beside(room)) if step.reads else None
        if known is not None and known.recall():
            shown.note("as before")
            return
        before = known.look() if known else {}
        room.run(
            [fill(word, values) for word in step.run],
            cwd=fill(step.cwd, values),
            env={name: fill(value, values) for name, value in {**spec.env, **step.env}.items()},
            log=log,
            limit_s=step.limit_s,
            watch=counter(log, step.expect_objects, shown) if step.expect_objects else None,
        )
        if known is not None:
            known.remember(before)


def _beside(room: Room) -> dict[str, object]:
    """Return what a remembered step depends on besides its spec, the tools and what it reads of the sources."""
    needs = {name: need.key for name, need in room.needs.items()}
    return {"needs": needs, "files": dict(room.made.files), "surroundings": repr(room.surroundings)}


def _real(room: Room, path: str) -> Path:
    """Return where a path of the sandbox really is."""
    return room.folder / path.removeprefix(f"{room.surroundings.root}/")


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


def install(room: Room) -> Path:
    """Merge, choose and relocate what the steps left; return the artifact's tree.

    Raises:
        HapairError: a rule of the spec has nothing to work on, or the steps installed outside of {tree}.
    """
    spec, taken = room.made.spec, room.folder / "taken"
    for old in (taken, room.folder / "tree"):
        shutil.rmtree(old, ignore_errors=True)
    (room.folder / "tree").mkdir()
    if stray := [path for path in relocate.files(room.folder / "stage") if not _below(room, path)]:
        raise HapairError(
            f"{spec.id}: the steps installed {stray[0]} outside of {{tree}}",
            "install below {prefix}, or remove it in a step",
        )
    if room.installed.is_dir():
        shutil.copytree(room.installed, taken, symlinks=True)
    else:
        taken.mkdir()
    for name, need in spec.needs.items():
        if name in room.needs:
            relocate.merge(room.folder / "deps" / name, taken, need.merge)
    tree = room.folder / "tree" / "top"
    log = room.logs / "99-relocate.log"

    def run(words: Sequence[str]) -> None:
        room.run(words, log=log, cwd=room.sandbox.path("tree", "top"), limit_s=PATCH_S * 5)

    with room.progress.step(f"{spec.id}: relocate"):
        relocate.install(spec, taken, tree, room.values, run)
    shutil.rmtree(taken)
    return tree


def _below(room: Room, path: str) -> bool:
    return path.startswith(f"{room.surroundings.prefix.lstrip('/')}/")
