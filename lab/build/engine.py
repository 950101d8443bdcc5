"""The engine: sources first, then each build as soon as what it needs is there, all of it cached by content."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from lab import paths
from lab.build import fetch, godeps, product, runner, sandbox, steps, unpack
from lab.build.lookup import Given, Lookup
from lab.build.manifest import Artifact
from lab.build.plan import Liblxc, Plan, closure
from lab.build.progress import Progress
from lab.build.spec import Spec
from lab.build.steps import Room
from lab.build.surroundings import PLAIN, Surroundings
from lab.errors import BadInput, HapairError, HostLacks

LOCK_S = 0.5
KERNEL = "linux-uml"


@dataclass(frozen=True)
class Job:
    """What was asked for, and how it is to be made."""

    lookup: Lookup
    progress: Progress
    stop: threading.Event
    command: str
    """What the user can run to ask for it again."""
    surroundings: Surroundings

    @property
    def plans(self) -> Mapping[str, Plan]:
        """The spec that was asked for, and all that it needs."""
        return self.lookup.plans


def ensure(
    name: str,
    progress: Progress,
    *,
    sources: Mapping[str, Path] | None = None,
    stop: threading.Event | None = None,
    liblxc: Liblxc = "own",
    surroundings: Surroundings = PLAIN,
) -> Artifact:
    """Return the artifact of a buildspec, from the cache or built now, with all that it needs.

    Args:
        name: the buildspec's name (its file without `.yaml`).
        progress: where the steps are shown.
        sources: local files or folders that take the place of sources, here and in what is needed.
        stop: set from another thread, it ends the build as Ctrl-C does (raises `runner.Stopped`).
        liblxc: "system" links against the distribution's liblxc, and the artifact's name says so.
        surroundings: what the steps see of the machine; no part of the key.

    Raises:
        BadInput: a spec is wrong, or `sources` names something that is not there.
        HostLacks: a tool, room on the disk or a source is missing; every place tried is listed.
        Damaged: a cached artifact is not what its manifest says.
        CommandFailed: a step failed; the message shows its last lines and names its log.
    """
    plans = closure(name, liblxc=liblxc)
    command = command_for(plans[name].spec) + (" --liblxc=system" if liblxc == "system" else "")
    lookup = Lookup(plans, _adopt(plans, sources) if sources else {})
    if found := lookup.cached(name):
        return found
    sandbox.require()
    job = Job(lookup, progress, stop or threading.Event(), command, surroundings)
    missing = _missing(lookup, name)
    _roomy(plans[one].spec for one in missing)
    _sources(job, missing)
    return _builds(job, name, missing)


def cached(name: str, *, liblxc: Liblxc = "own") -> Artifact | None:
    """Return the artifact of a buildspec if the cache has it; nothing is built, and no tool need be there."""
    try:
        plans = closure(name, liblxc=liblxc)
    except HostLacks:
        return None
    return Lookup(plans).cached(name)


def command_for(spec: Spec) -> str:
    """Return the command that builds a spec."""
    if spec.id == KERNEL:
        return "invoke build.kernel"
    if spec.name in ("lxc", "lxd"):
        return f"invoke build.{spec.name} --release {spec.release}"
    return f"invoke build.one {spec.id}"


def _adopt(plans: Mapping[str, Plan], sources: Mapping[str, Path]) -> Given:
    """Take what `--source` names for every source of that name."""
    named = {source for plan in plans.values() for source in plan.spec.sources}
    if unknown := sorted(set(sources) - named):
        known = ", ".join(sorted(named))
        raise BadInput(f"{list(plans)[-1]} has no source {unknown[0]!r}", f"it has: {known}")
    given: Given = {}
    with _scratch("given") as scratch:
        for plan in plans.values():
            for name in sorted(set(sources) & set(plan.spec.sources)):
                source = plan.spec.sources[name]
                given[plan.spec.id, name] = fetch.adopt(name, source, sources[name], scratch)
    return given


def _missing(lookup: Lookup, name: str) -> list[str]:
    """Return the specs that have to be built for one, those that are needed first."""
    wanted: list[str] = []

    def visit(one: str) -> None:
        # A library that is there needs no source any more.
        if one not in wanted and lookup.cached(one) is None:
            for other in lookup.plans[one].needs.values():
                visit(other)
            wanted.append(one)

    visit(name)
    return wanted


def _roomy(specs: Iterable[Spec]) -> None:
    parent = paths.cache() / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    for spec in specs:
        if free < spec.disk_bytes:
            raise HostLacks(
                f"building {spec.id} needs {spec.disk_bytes >> 20} MiB in {parent}, {free >> 20} MiB are free",
                "make room there, or point XDG_CACHE_HOME at a larger disk",
            )


def _sources(job: Job, missing: list[str]) -> None:
    """Fetch what the missing artifacts are made of, side by side, and tell of all that fails at once."""
    work = [
        partial(_obtain, job, job.plans[one].spec, name)
        for one in missing
        for name in job.plans[one].spec.sources
        if (one, name) not in job.lookup.given
    ]
    work += [partial(_obtain_go, job, job.plans[one].spec) for one in missing]
    failures: list[fetch.NoPlace] = []
    for future in _side_by_side(job, work):
        try:
            future.result()
        except fetch.NoPlace as error:
            failures.append(error)
    if failures:
        raise fetch.combined(failures, job.command)


def _side_by_side(job: Job, work: list[partial[None]]) -> list[Future[None]]:
    with ThreadPoolExecutor(max(1, len(work))) as pool:
        futures = [pool.submit(one) for one in work]
        try:
            wait(futures)
        except BaseException:
            job.stop.set()
            raise
    return futures


def _obtain(job: Job, spec: Spec, name: str) -> None:
    source = spec.sources[name]
    with _alone(f"source-{fetch.shelf(name, source).name}", job.progress, job.stop, name):
        known = fetch.recorded(name, source)
        if known and fetch.have(name, source, known):
            return
        with _scratch(f"source-{name}") as scratch, job.progress.step(f"{spec.id}: source {name}") as shown:
            fetch.fetch(spec.id, name, source, scratch=scratch, step=shown, stop=job.stop, command=job.command)


def _obtain_go(job: Job, spec: Spec) -> None:
    if spec.go_deps is None:
        return
    with _alone(f"source-{godeps.shelf(spec.go_deps).name}", job.progress, job.stop, "Go packages"):
        known = godeps.recorded(spec.go_deps)
        if known and godeps.have(spec.go_deps, known):
            return
        with _scratch("source-go-deps") as scratch, job.progress.step(f"{spec.id}: Go packages") as shown:
            godeps.fetch(spec.id, spec.go_deps, scratch=scratch, step=shown, stop=job.stop)


def _builds(job: Job, name: str, missing: list[str]) -> Artifact:
    """Build what is missing, each spec as soon as its needs are there."""
    if missing == [name]:
        return _build(job, name, {})
    futures: dict[str, Future[Artifact]] = {}
    with ThreadPoolExecutor(len(missing)) as pool:
        try:
            for one in missing:  # a thread for each, and needs come first: nobody waits for one that never starts
                futures[one] = pool.submit(_build, job, one, dict(futures))
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            # Also after a good end, when nobody listens any more.
            if not all(future.done() and future.exception() is None for future in futures.values()):
                job.stop.set()
    failures = [error for future in futures.values() if (error := future.exception())]
    if failures:
        raise next((error for error in failures if not isinstance(error, runner.Stopped)), failures[0])
    return futures[name].result()


def _build(job: Job, name: str, others: Mapping[str, Future[Artifact]]) -> Artifact:
    made = job.plans[name]
    needs: dict[str, Artifact] = {}
    for alias, other in made.needs.items():
        need = others[other].result() if other in others else job.lookup.cached(other)
        if need is None:
            raise HapairError(f"{other} went out of the cache while {name} was built", "run the same command again")
        needs[alias] = need
    with _alone(f"build-{name}", job.progress, job.stop, name):
        # Somebody else may have built it while this run waited for its turn.
        if found := job.lookup.cached(name):
            return found
        known = job.lookup.identity(name)
        if known is None:
            raise HapairError(f"a source of {name} went out of the cache", "run the same command again")
        target = made.target(known.key, verified=known.verified)
        with _room(made.spec, known.key) as folder:
            room = Room(
                made,
                known.key,
                folder,
                logs=paths.cache() / "logs" / target.name,
                sources=known.sources,
                needs=needs,
                go_deps=known.go_deps,
                progress=job.progress,
                surroundings=job.surroundings,
                stop=job.stop,
            )
            steps.work(room)
            return product.publish(room)


@contextmanager
def _alone(lock_name: str, progress: Progress, stop: threading.Event, what: str) -> Iterator[None]:
    """Hold a lock: two runs at once would do the same work twice, and slower."""
    folder = paths.cache() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{lock_name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with progress.step(f"{what}: waiting for another run that builds it"):
            while not lock.is_locked:
                if stop.is_set():
                    raise runner.Stopped(f"stopped while waiting for another build of {what}") from None
                try:
                    lock.acquire(timeout=LOCK_S)
                except Timeout:
                    continue
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _room(spec: Spec, key: str) -> Iterator[Path]:
    """Give one build its folder, under its lock: the one that a failed step left, else none yet."""
    parent = paths.cache() / "scratch" / spec.id
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / key
    for old in parent.iterdir():
        if old != folder or not steps.resumes(old):
            shutil.rmtree(old, ignore_errors=True)
    good = False
    try:
        yield folder
        good = True
    except OSError as error:
        raise unpack.full(error, f"building {spec.id}") from None
    finally:
        if good or not steps.resumes(folder):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """Make a folder for the time of one piece of work; what a killed run left is swept with the next `build.clean`."""
    parent = paths.cache() / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        yield folder
    except OSError as error:
        raise unpack.full(error, f"fetching {name}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
