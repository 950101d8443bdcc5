"""The checks. `nox -l` lists them; what stands after `--` goes to pytest.

Sessions run in the environment that ./dev makes, with the tools that requirements.txt locks.
"""

import os
import re
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

if any(find_spec(package) is None for package in ("invoke", "nox", "pydantic", "pytest", "rich")):
    sys.stderr.write("hapair: the environment is missing here\n  hint: ./dev nox …   makes it and runs nox in it\n")
    raise SystemExit(3)

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "none"
nox.options.error_on_missing_interpreters = False

# As Ctrl-C, or what a session has started would go on alone.
signal.signal(signal.SIGTERM, signal.default_int_handler)

TOOLS = Path(sys.executable).parent
CLEAN_UP_S = 60.0


def _run(session: nox.Session, tool: str, *arguments: str) -> None:
    # By path, so that `.venv/bin/nox` does the same as nox in the activated environment.
    session.run(
        str(TOOLS / tool),
        *arguments,
        # Bytecode is kept wherever this runs: each worker would rewrite all assertions anew, which takes seconds.
        env={"PYTHONPATH": "hostfiles/runtime", "PYTHONDONTWRITEBYTECODE": ""},
        # After Ctrl-C the lab is taken down first: Nox's own 0.3 s would leave three nodes running.
        interrupt_timeout=CLEAN_UP_S,
        terminate_timeout=CLEAN_UP_S,
    )


def _play(session: nox.Session, *selected: str) -> None:
    # Verbose: a scenario takes up to two minutes, and each is named while it is played.
    _run(session, "pytest", "--verbose", "--pairs=auto", *selected, *session.posargs)


def _shell_scripts() -> list[str]:
    files = [
        Path("dev"),
        *(path for top in (".ci", "hostfiles", "lab") for path in Path(top).rglob("*") if path.is_file()),
    ]
    return [str(path) for path in files if re.match(rb"#! ?/\S*\b(ba|da)?sh\b", path.read_bytes()[:80])]


@nox.session(tags=["fast"])
def lint(session: nox.Session) -> None:
    """Style, types, import rules, shell scripts, and the schemas of both CI files."""
    _run(session, "ruff", "check", ".")
    _run(session, "ruff", "format", "--check", ".")
    _run(session, "mypy")
    _run(session, "lint-imports")
    _run(session, "shellcheck", *_shell_scripts())
    _run(session, "check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml")
    _run(session, "check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "docs/ci/gitlab.yml")
    if shutil.which("vagrant"):
        session.run("vagrant", "validate", "--ignore-provider", external=True)
    else:
        session.log("the Vagrantfile is not validated: Vagrant is not installed here")


@nox.session(tags=["fast"])
def unit(session: nox.Session) -> None:
    """Unit tests: no node, no network, and processes only where a test is marked for them."""
    _in_workers(session, "not thorough")


@nox.session(tags=["fast"])
def thorough(session: nox.Session) -> None:
    """The unit tests that take seconds each: walks of the protocol's model, races, artifacts that are compiled."""
    _in_workers(session, "thorough")


def _in_workers(session: nox.Session, marked: str) -> None:
    # A third of their time is spent waiting: for processes, for the disk, for time limits.
    workers = (f"--numprocesses={max(2, 3 * len(os.sched_getaffinity(0)) // 2)}", "--dist=worksteal")
    report = f"--junitxml=out/junit-{session.name}.xml"
    _run(session, "pytest", *workers, report, "-m", marked, "tests/unit", *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Every fence backend against a real store and a network that fails; HAPAIR_RACES=10000 for the long race."""
    # The SDKs leave their connections to the garbage collector.
    silent = ("-W", "ignore::ResourceWarning", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")
    _run(session, "pytest", *silent, "--junitxml=out/junit-conformance.xml", "tests/conformance", *session.posargs)


@nox.session(tags=["lab", "slow"])
def failover(session: nox.Session) -> None:
    """Failover scenarios on two real nodes, every invariant audited after each."""
    _play(session, "tests/scenarios/failover")


@nox.session(tags=["lab", "slow"], default=False)
def fencing(session: nox.Session) -> None:
    """Fencing scenarios on two real nodes: cut cables, a store that fails, handlers that fail, stale nodes."""
    _play(session, "tests/scenarios/fencing")


@nox.session(tags=["lab", "slow"], default=False)
def lifecycle(session: nox.Session) -> None:
    """A lab comes and goes, and leaves nothing on the machine: for any provider. With its planted faults."""
    if any(option.split("=")[0] in {"--pairs", "-n", "--numprocesses"} for option in session.posargs):
        session.error("lifecycle compares the whole machine before and after: it plays one pair at a time")
    _run(session, "pytest", "-m", "planted or not planted", "tests/scenarios/lifecycle", *session.posargs)


@nox.session(tags=["lab", "slow"], default=False)
def split_brain(session: nox.Session) -> None:
    """Split brains, forced on two real nodes: seen, repaired, and DRBD's own policies for them."""
    _play(session, "tests/scenarios/split_brain")


@nox.session(tags=["lab", "slow"], default=False)
def planted(session: nox.Session) -> None:
    """Planted faults, one for each scenario: each must turn its scenario red."""
    # Lifecycle's look at the whole machine, which must be at rest: that session plays them.
    _play(session, "-m", "planted", "tests/scenarios", "--ignore=tests/scenarios/lifecycle")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Build and check every buildspec whose sources answer; those that do not are named."""
    _run(session, "invoke", "build.all", *session.posargs)


@nox.session(default=False, venv_backend="venv")
def lock(session: nox.Session) -> None:
    """Write requirements.txt anew from pyproject.toml; pins that still fit stay, unless the file is deleted first."""
    project = nox.project.load_toml("pyproject.toml")
    session.install(*nox.project.dependency_groups(project, "lock"))
    session.run(
        *("uv", "pip", "compile", "--quiet", "--generate-hashes", "--universal", "--python-version=3.11"),
        *("--no-header", "--no-annotate", "--group=test", "--group=stores", "--group=lint"),
        *("pyproject.toml", "-o", "requirements.txt"),
    )
    for kind in ("gcs", "s3"):
        # For the nodes, whose Python may be that of Ubuntu 20.04.
        session.run(
            *("uv", "pip", "compile", "--quiet", "--generate-hashes", "--universal", "--python-version=3.8"),
            *("--no-header", "--no-annotate", f"hostfiles/sdk/{kind}.in", "-o", f"hostfiles/sdk/{kind}.txt"),
        )
