"""The pytest plugin of the scenarios: the pair, one scene for each test, the audit after it, and what a run leaves.

A scenario is a test function that takes `scene`. It passes when its own waits succeed and every invariant is valid.
A test marked `planted("I6")` passes when exactly the named invariants are invalid. Scenarios that were valid leave
their pair to the next one, as they found it (I8): it is made new after any other, and after one marked `spoils`.

With `--pairs` several pairs are up at once, each in a worker of pytest-xdist, which plays what no other has begun. The
workers audit; what they found goes with pytest's own report to the process that writes the run's files.
"""

from __future__ import annotations

import inspect
import random
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import log
from lab.errors import HapairError
from lab.hosts.site import EXAMPLE, Site, load_site
from lab.providers import pair
from lab.providers.base import LIBVIRTS, PROVIDERS
from lab.scenario import page, pairs, runfolder, shell
from lab.scenario.capture import uncaptured
from lab.scenario.pairs import Share
from lab.scenario.report import Report, Result
from lab.scenario.runfolder import About, RunFile
from lab.scenario.scene import Pair, Scene
from lab.scenario.verdict import Outcome

if TYPE_CHECKING:
    from lab.artifacts import Ready

SWITCHOVERS = 3
TEST_LIMIT_S = 600.0  # one scenario without its set-up; every wait inside is bounded far below


@dataclass(frozen=True)
class Rig:
    """A pair that is up, and how to make it new."""

    pair: Pair
    reset: Callable[[], None]


class Run:
    """One pytest session, or a worker's part of it: its folder, its seed, its lab, its results so far."""

    def __init__(self, provider: str, share: Share) -> None:
        self.provider, self.share, self.seed, self.folder = provider, share, share.seed, Path(share.folder)
        folder, seed = self.folder, self.seed
        self.report = Report(folder, provider, seed)
        self.file = RunFile(folder, time.time())
        self.usable = True
        """The pair was just brought up, or is as good as new; else it is made new before the next scenario."""
        self.ended = 0.0
        """Wall time at which the last scenario on this pair ended; 0: none has begun since it was made new."""
        self.left_out: list[str] = []
        """Scenarios that are left out only because they take long."""
        self.orphans: list[str] = []
        """Labs of workers that died."""
        self.unplayed: list[str] = []
        """Tests that a worker found and of which nothing was reported yet."""
        self.found_labs: list[str] = []
        """Labs that were there before and are left up, though reset."""
        self.cleared_labs: list[str] = []
        """Labs of earlier sessions that were killed, removed before this one brought up its own."""

    def folder_of(self, name: str) -> Path:
        """Return a new folder for one attempt at a scenario."""
        taken = sum(1 for _ in self.folder.glob(f"{name}*"))
        return self.folder / (f"{name}-{taken + 1}" if taken else name)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down what a scenario's report brought."""
        found = vars(report).get(pairs.OURS)
        if report.when == "teardown" and report.nodeid in self.unplayed:
            self.unplayed.remove(report.nodeid)
        if found is not None:
            drawn, about, self.file.command = pairs.unpacked(found)
            self.report.add(drawn)
            self.file.add(about)

    @pytest.hookimpl(optionalhook=True)  # pytest-xdist's
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        """Note what is to be played: every worker finds the same, before any plays."""
        self.unplayed = list(ids)

    @pytest.hookimpl(optionalhook=True)  # pytest-xdist's
    def pytest_testnodedown(self, node: pairs.Worker, error: object) -> None:
        """Take from a worker what it left out and left up, or note that it died."""
        self.left_out = pairs.told(node, "left_out") or self.left_out
        self.found_labs += pairs.told(node, "found_labs")
        self.cleared_labs += pairs.told(node, "cleared_labs")
        if error:
            self.orphans.append(pairs.lab_of(node))


RUN = pytest.StashKey[Run]()
FOUND = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run."""
    group = parser.getgroup("hapair", "scenarios on a real pair")
    group.addoption("--provider", default="uml", help="what the nodes are: " + ", ".join(PROVIDERS))
    group.addoption("--site", type=Path, default=EXAMPLE, help="the site file (default: hostfiles/site.example.yaml)")
    group.addoption("--libvirt", default=None, help="which libvirt runs virtual machines: " + ", ".join(LIBVIRTS))
    group.addoption(
        "--seed", type=int, default=None, help="of everything random; printed, so that a run can be repeated"
    )
    group.addoption("--long", action="store_true", help="with the scenarios that take minutes")
    group.addoption("--keep", action="store_true", help="leave the lab running at the end")
    group.addoption("--shell-on-failure", action="store_true", help="drop into the pair when a scenario fails")
    group.addoption("--lab", default="scenarios", help="name of the lab to bring up")
    group.addoption(
        "--pairs",
        default="1",
        help="how many pairs play scenarios side by side (default 1; NAME, NAME-2, … are their labs), or auto: two of "
        "User-Mode Linux where cores and memory are enough, else, or with -k, one",
    )
    group.addoption("--run-dir", type=Path, default=None, help="where the run is written (default out/runs/TIME-PID)")
    group.addoption("--switchovers", type=int, default=SWITCHOVERS, help="how many switchovers scenario 31 makes")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose seed and folder before anything is started."""
    config.addinivalue_line("markers", "scenario(number): the scenario's number in the catalogue")
    config.addinivalue_line("markers", "long: takes minutes; left out without --long")
    config.addinivalue_line("markers", "only(provider, why): skipped, with the reason, on nodes of another provider")
    config.addinivalue_line("markers", "spoils: leaves something that the next scenario must not meet (say what)")
    config.addinivalue_line(
        "markers", "planted(*invariants, may=()): a planted fault that turns exactly these red, and may turn those red"
    )
    if threading.current_thread() is threading.main_thread():
        # As Ctrl-C: whoever ends a session wants its labs gone, too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    provider = config.getoption("--provider")
    if provider not in PROVIDERS:
        raise pytest.UsageError(f"unknown provider {provider!r}; there is {', '.join(PROVIDERS)}")
    daemon = config.getoption("--libvirt")
    if daemon not in {None, *LIBVIRTS}:
        raise pytest.UsageError(f"unknown libvirt {daemon!r}; there is {', '.join(LIBVIRTS)}")
    share = pairs.given(config) or _whole(config)
    config.stash[RUN] = run = Run(provider, share)
    if not share.part:
        config.pluginmanager.register(run, "hapair-run")
    if config.option.xmlpath is None and not config.option.collectonly:
        config.option.xmlpath = str(Path(share.folder) / "junit.xml")


def _whole(config: pytest.Config) -> Share:
    """Return what one process plays that plays everything."""
    given = config.getoption("--seed")
    seed = given if given is not None else random.SystemRandom().randrange(1 << 31)
    folder = config.getoption("--run-dir") or runfolder.new(time.time())
    return Share(seed, str(Path(folder).absolute()), config.getoption("--lab"))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks how many workers it shall start
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Decide how many pairs there will be."""
    pairs.choose(config, partial(load_site, config.getoption("--site")))


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_configure_node(node: pairs.Worker) -> None:
    """Give a worker its share of the run."""
    run = node.config.stash[RUN]
    pairs.give(node, run.share)


def pytest_report_header(config: pytest.Config) -> str:
    """Say what repeats the run."""
    run = config.stash[RUN]
    return f"hapair: provider {run.provider}, seed {run.seed}, run in {run.folder}"


@pytest.hookimpl(trylast=True)  # what -k and -m leave out is nobody's concern
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave planted faults and long scenarios out unless they are asked for, and bound every scenario."""
    asked = "planted" in (config.option.markexpr or "")
    left = [item for item in items if item.get_closest_marker("planted") and not asked]
    slow = [item for item in items if item.get_closest_marker("long") and not config.getoption("--long")]
    run = config.stash[RUN]
    run.left_out = [item.name for item in slow if item not in left]
    if run.share.part:
        pairs.tell(config, left_out=run.left_out, found_labs=run.found_labs, cleared_labs=run.cleared_labs)
    left += [item for item in slow if item not in left]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    for item in items:
        only = item.get_closest_marker("only")
        if only and only.args[0] != run.provider:
            item.add_marker(pytest.mark.skip(reason=f"only with --provider {only.args[0]}: {only.args[1]}"))
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_LIMIT_S, func_only=True))
    run.file.command = command(items, config)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """This session's run."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Site:
    """The pair that is rehearsed."""
    return load_site(request.config.getoption("--site"))


@pytest.fixture(scope="session")
def rig(request: pytest.FixtureRequest, run: Run, site: Site, ready: Ready) -> Iterator[Rig]:
    """A pair, brought up once, and destroyed at the end unless it is to be kept.

    `ready` (all that nodes are made of) is a fixture of the tests' own conftest.
    """
    name = run.share.lab
    shown = log.silent() if run.share.part else log.steps(f"Bringing up the pair ({run.provider})")
    with ExitStack() as held:
        try:
            held.enter_context(pair.reserved(name))
            run.cleared_labs += [name] * pair.clear(name)
            # One that is there may have been played with.
            found = pair.folder_of(name).exists()
            run.usable = not found
            with uncaptured(request.config), shown as progress:
                made = ready.artifacts
                up = pair.bring_up(
                    name,
                    site,
                    made,
                    progress,
                    seed_number=run.seed,
                    hypervisor=ready.hypervisor,
                    for_once=not request.config.getoption("--keep"),
                )
        except HapairError as error:
            if run.share.part:
                # Or this worker would take scenario after scenario from the others, and fail each at once.
                request.session.shouldstop = f"the lab {name} does not come up: {error.message}"
            pytest.fail(str(error), pytrace=False)
        yield Rig(up, lambda: pair.reset(up, log.silent()))
        if found:
            run.found_labs.append(name)
        elif not request.config.getoption("--keep"):
            pair.destroy(name)


@pytest.fixture
def scene(request: pytest.FixtureRequest, rig: Rig, run: Run) -> Scene:
    """A healthy pair, followed, and under acknowledged writes."""
    if not run.usable:
        rig.reset()
        run.ended = 0.0
    run.usable = False
    name = request.node.name.removeprefix("test_")
    made = Scene(rig.pair, name, run.folder_of(name), seed=run.seed, since=run.ended)
    try:
        made.begin()
    except HapairError as error:
        keep(request.node, run, made, made.finish(str(error)))
        raise
    return made


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Audit after the scenario, inside its call: a violation is its failure, not an error in a teardown."""
    scene = pyfuncitem.funcargs.get("scene")
    if not isinstance(scene, Scene):
        return (yield)
    failure: BaseException | None = None
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        failure = error
    run = pyfuncitem.config.stash[RUN]
    drawn = scene.finish(f"{type(failure).__name__}: {failure}" if failure else "")
    keep(pyfuncitem, run, scene, drawn)
    pyfuncitem.user_properties += properties(drawn)
    planted = pyfuncitem.get_closest_marker("planted")
    good = failure is None and drawn.verdict is Outcome.VALID
    run.usable = good and not planted and not pyfuncitem.get_closest_marker("spoils")
    run.ended = time.time()
    if planted:
        judge_planted(drawn, planted.args, failure, may=planted.kwargs.get("may", ()))
        return True
    if good:
        return True
    text = f"{drawn.explanation()}\nkept in {scene.folder}\nrepeat: {repeat(pyfuncitem, run)}"
    if pyfuncitem.config.getoption("--shell-on-failure"):
        with uncaptured(pyfuncitem.config):
            shell.drop(scene.lab, text)
    if failure is not None:
        pyfuncitem.add_report_section("call", "hapair", text)
        raise failure
    pytest.fail(text, pytrace=False)


def keep(item: pytest.Function, run: Run, scene: Scene, drawn: Result) -> None:
    """Hand over how a scenario ended, and what it was, to go with pytest's own report of it."""
    mark, planted = item.get_closest_marker("scenario"), item.get_closest_marker("planted")
    about = About(
        name=drawn.name,
        folder=scene.folder.name,
        number=mark.args[0] if mark and mark.args else None,
        sentence=" ".join((inspect.getdoc(item.function) or "").split()),
        planted=tuple(str(name) for name in planted.args) if planted else (),
        repeat=repeat(item, run),
        error=drawn.error,
    )
    item.stash[FOUND] = pairs.packed(drawn, about, run.file.command)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to pytest's report what the audit found."""
    report = yield
    if FOUND in item.stash:
        vars(report)[pairs.OURS] = item.stash[FOUND]  # pytest-xdist takes any attribute to the process that reports
        del item.stash[FOUND]
    return report


def judge_planted(
    drawn: Result, names: Sequence[str], failure: BaseException | None, *, may: Sequence[str] = ()
) -> None:
    """Fail unless exactly the named invariants are invalid; those in `may` (what follows by chance) may be.

    "scenario" among the names stands for the scenario's own steps; a step that fails because of a red invariant
    (nothing is acknowledged any more, say) needs no name.
    """
    red = {name for name, verdict in drawn.invariants.items() if verdict.outcome is Outcome.INVALID}
    if failure is not None and (not red or "scenario" in names):
        red.add("scenario")
    if red - set(may) != set(names):
        wanted, seen = ", ".join(sorted(names)), ", ".join(sorted(red)) or "nothing"
        pytest.fail(f"planted for {wanted}, but red: {seen}\n{drawn.explanation()}", pytrace=False)


def properties(drawn: Result) -> list[tuple[str, object]]:
    """Return what JUnit shows of a result."""
    own: Mapping[str, object] = {"verdict": drawn.verdict.value, "rto_s": drawn.rto_s, "acked": drawn.acked}
    audited = {name: f"{verdict.outcome}: {verdict.why}" for name, verdict in drawn.invariants.items()}
    return [*own.items(), ("lost", drawn.lost), *audited.items()]


def repeat(item: pytest.Item, run: Run) -> str:
    """Return the one command that repeats a scenario."""
    long = ["--long"] if item.get_closest_marker("long") else []
    given = ["-k", item.name, *long, "--provider", run.provider, "--seed", str(run.seed), *_given(item.config)]
    return shlex.join(["./dev", "nox", "-s", session_of(item), "--", *given])


def _given(config: pytest.Config) -> list[str]:
    """Return the options that change what is played and were given."""
    values = {name: config.getoption(name) for name in ("--site", "--libvirt", "--switchovers")}
    usual = {"--site": EXAMPLE, "--libvirt": None, "--switchovers": SWITCHOVERS}
    return [word for name, value in values.items() if value != usual[name] for word in (name, str(value))]


def session_of(item: pytest.Item) -> str:
    """Return the Nox session that runs a scenario."""
    return "planted" if item.get_closest_marker("planted") else item.path.parent.name


def command(items: Sequence[pytest.Item], config: pytest.Config) -> str:
    """Return the one command that repeats a run of these scenarios."""
    run, only = config.stash[RUN], str(config.option.keyword or "")
    if len(items) == 1:
        return repeat(items[0], run)
    sessions = sorted({session_of(item) for item in items})
    given = [*(("-k", only) if only else ()), *(("--long",) if config.getoption("--long") else ())]
    chosen = [*given, "--provider", run.provider, "--seed", str(run.seed), *_given(config)]
    return shlex.join(["./dev", "nox", "-s", *sessions, "--", *chosen])


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the JUnit file with the run, wherever else it was asked for."""
    outcome = yield
    run, written = session.config.stash[RUN], session.config.option.xmlpath
    kept = run.folder / "junit.xml"
    if (
        not run.share.part
        and run.folder.is_dir()
        and written
        and Path(written).exists()
        and Path(written).resolve() != kept.resolve()
    ):
        shutil.copyfile(written, kept)
    return outcome


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of the run, and write its page: JUnit's file is there by now."""
    run = config.stash[RUN]
    if run.left_out:
        terminalreporter.line(f"left out without --long: {', '.join(run.left_out)}")
    for name in run.orphans:
        terminalreporter.line(f"what played on the lab {name} died, and scenarios were not played; remove the lab with")
        terminalreporter.line(f"    ./dev invoke lab.destroy --name {name}")
    if run.orphans and run.unplayed:
        terminalreporter.line(f"not played to their end: {', '.join(run.unplayed)}")
    for name in run.cleared_labs:
        terminalreporter.line(f"the lab {name} of an earlier session, which had been killed, was removed first")
    for name in run.found_labs:
        terminalreporter.line(f"the lab {name} was there before: it was reset, and is left up; remove it with")
        terminalreporter.line(f"    ./dev invoke lab.destroy --name {name}")
    if run.report.results:
        terminalreporter.section("scenarios")
        for line in [*run.report.table(), f"run: {run.folder}", drawn_page(run.folder)]:
            terminalreporter.line(line)


def drawn_page(folder: Path) -> str:
    """Write the page of a run; return where it is, or why there is none: the verdicts stand without it."""
    try:
        return f"report: {page.write(folder)}"
    except (HapairError, OSError) as error:
        return f"no report: {error}"
