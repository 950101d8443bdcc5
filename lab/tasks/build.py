"""Artifacts from their buildspecs: build, show, verify, check, list, clean."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from lab import build, log
from lab.build import describe, shelves, spec
from lab.errors import BadInput, HapairError
from lab.tasks._run import guarded

SOURCE = "NAME=FILE or NAME=FOLDER: take this for a source of the build, or of what it needs; repeatable"
RELEASE = "RELEASE to build, instead of that of buildspecs/defaults.yaml"
LIBLXC = "own, or system: link against the distribution's liblxc, which the artifact's name then says"


@task(
    auto_shortflags=False,
    iterable=["source"],
    help={"source": "NAME=FILE: take this local file for a source from now on (here: linux=FILE); repeatable"},
)
@guarded
def kernel(_context: Context, source: Iterable[str] | None = None) -> None:
    """Build the kernel of the lab's nodes, unless it is in the cache; the last line is its path."""
    _make(build.KERNEL, source)


@task(auto_shortflags=False, iterable=["source"], help={"release": RELEASE, "source": SOURCE})
@guarded
def lxc(_context: Context, release: str = "", source: Iterable[str] | None = None) -> None:
    """Build LXC, unless it is in the cache; the last line is the artifact's path."""
    _make(build.released("lxc", release), source)


@task(auto_shortflags=False, iterable=["source"], help={"release": RELEASE, "source": SOURCE, "liblxc": LIBLXC})
@guarded
def lxd(_context: Context, release: str = "", source: Iterable[str] | None = None, liblxc: str = "own") -> None:
    """Build LXD with the LXC, raft and dqlite that it needs; the last line is the artifact's path."""
    _make(build.released("lxd", release), source, liblxc)


@task(auto_shortflags=False, iterable=["source"], help={"source": SOURCE})
@guarded
def recipe(_context: Context, source: Iterable[str] | None = None) -> None:
    """Build the recipe's own pair, LXC and LXD; the last two lines are their paths."""
    given = list(source or ())
    pair = {name: build.source_names(name) for name in build.recipe()}
    if unknown := set(_sources(given)) - set().union(*pair.values()):
        raise BadInput(f"the recipe has no source {min(unknown)!r}", "build.show tells what there is")
    for name, known in pair.items():
        _make(name, [text for text in given if text.partition("=")[0] in known])


@task(auto_shortflags=False, iterable=["source"], help={"name": "a buildspec, as build.list tells", "source": SOURCE})
@guarded
def one(_context: Context, name: str, source: Iterable[str] | None = None) -> None:
    """Build any buildspec: invoke build.one NAME; the last line is the artifact's path."""
    _make(name, source)


@task(name="all", auto_shortflags=False)
@guarded
def all_(_context: Context) -> None:
    """Build and check every buildspec whose sources answer, and say of each of the others what does not."""
    # The schemas that it checks with take seconds to load, and every task would wait for them.
    from lab import check  # noqa: PLC0415

    absent, failed = [], []
    for name in spec.names():
        try:
            with log.steps(f"Building {name}") as progress:
                made = build.ensure(name, progress)
                report = check.check(made.path, progress) if made.path.suffix == ".zst" else None
            if report:
                report.enforce()
            log.out(str(made.path))
        except build.NoPlace as error:
            absent.append(name)
            log.warn(error.message)
        except HapairError as error:
            failed.append(name)
            log.fail(str(error))
    if absent:
        log.warn(f"not built, because a source answers nowhere: {', '.join(absent)}")
    if failed:
        raise HapairError(f"failed: {', '.join(failed)}", "see above")


@task(auto_shortflags=False, help={"name": "a buildspec, as build.list tells"})
@guarded
def show(_context: Context, name: str) -> None:
    """Print what a buildspec is made of and how far its build is: invoke build.show NAME."""
    for line in describe.describe(name):
        log.out(line)


@task(
    auto_shortflags=False,
    iterable=["source"],
    help={"name": "a buildspec, or all", "source": SOURCE, "liblxc": LIBLXC},
)
@guarded
def verify(_context: Context, name: str, source: Iterable[str] | None = None, liblxc: str = "own") -> None:
    """Rebuild with everything varied that must not matter, and compare byte for byte: invoke build.verify NAME."""
    from lab.build import vary  # noqa: PLC0415 - see all_

    names = [one for one in spec.names() if one != build.KERNEL] if name == "all" else [name]
    given = _sources(source or ())
    verdicts, absent = [], None
    for wanted in names:
        try:
            with log.steps(f"Verifying {wanted}") as progress:
                verdicts.append(vary.verify(wanted, progress, liblxc=_liblxc(liblxc), sources=given))
        except build.NoPlace as error:
            absent = error
            log.warn(error.message)
    for verdict in verdicts:
        for line in verdict.lines():
            log.out(line)
    for verdict in verdicts:
        verdict.enforce()
    if absent:
        raise absent


@task(
    name="check",
    auto_shortflags=False,
    help={"artifact": "a .tar.zst, or the folder that holds it", "run": "--no-run: execute nothing of the artifact"},
)
@guarded
def check_(_context: Context, artifact: str, run: bool = True) -> None:
    """Check an artifact with code that shares nothing with its builder: invoke build.check ARTIFACT."""
    from lab import check  # noqa: PLC0415 - see all_

    with log.steps("Checking the artifact") as progress:
        report = check.check(Path(artifact).expanduser(), progress, run=run)
    for note in report.notes:
        log.say(note)
    report.enforce()
    log.out("good")


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


def _make(name: str, source: Iterable[str] | None, liblxc: str = "own") -> None:
    given = _sources(source or ())
    with log.steps(f"Building {name}") as progress:
        made = build.ensure(name, progress, sources=given, liblxc=_liblxc(liblxc))
    if not made.verified:
        log.warn("nothing vouches for a source of this artifact: it came from a local file")
    log.out(str(made.path))


def _liblxc(text: str) -> build.Liblxc:
    if text == "own":
        return "own"
    if text == "system":
        return "system"
    raise BadInput(f"--liblxc {text} is neither own nor system", "leave it out for own")


def _sources(given: Iterable[str]) -> dict[str, Path]:
    pairs = [text.partition("=") for text in given]
    if bad := next((f"{name}{equals}{path}" for name, equals, path in pairs if not (name and path)), ""):
        raise BadInput(f"--source {bad} is not NAME=FILE", "for example: --source linux=linux-7.2.tar.xz")
    return {name: Path(path).expanduser() for name, _, path in pairs}
