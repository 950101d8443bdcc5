"""./dev, with fake programs in place of apt, dpkg, pip and Python."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import proc
from lab.paths import PROJECT
from tests.fakes.programs import Fakes

pytestmark = pytest.mark.spawns

# A Python that makes "environments" holding a program that only logs: `pip install` is a call of it.
MAKES_VENV = """
case "$*" in *"-m venv"*)
    mkdir -p .venv/bin
    cp "$(dirname "$0")/venv-python" .venv/bin/python
    cp "$(dirname "$0")/venv-python" .venv/bin/nox
esac
"""


Dev = Callable[..., proc.Completed]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a folder with the project's entry in it, and a lock."""
    folder = tmp_path / "a project"
    folder.mkdir()
    shutil.copy(PROJECT / "dev", folder)
    (folder / "requirements.txt").write_text("one==1\n")
    return folder


@pytest.fixture
def dev(project: Path, fakes: Fakes) -> Dev:
    """Return a way to call ./dev as root on a machine where all packages are installed."""
    fakes.add("dpkg-query", script='for word; do printf "installed:%s " "$word"; done')
    fakes.add("apt-get")
    fakes.add("id", prints="0")
    fakes.add("venv-python")
    python = fakes.add("python-good", script=MAKES_VENV)

    def call(*words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> proc.Completed:
        env = {"PYTHON": str(python), **(env or {})}
        return proc.run([project / "dev", *words], limit_s=30, cwd=cwd, env=env, check=False)

    return call


def test_first_call_makes_the_environment_and_runs_the_command(dev: Dev, project: Path, fakes: Fakes) -> None:
    done = dev("sh", "-c", 'echo "$VIRTUAL_ENV $PWD $1"; command -v nox', "sh", "a  b", cwd=Path("/"))
    assert (done.code, done.text) == (0, f"{project}/.venv {project} a  b\n{project}/.venv/bin/nox")
    (pip,) = fakes.calls("python")
    assert pip[1:4] == ["-m", "pip", "install"]
    assert "--require-hashes" in pip and pip[-2:] == ["-r", "requirements.txt"]
    assert not [word for word in pip if "index" in word or "://" in word]


def test_second_call_starts_no_python_and_no_package_manager(dev: Dev, fakes: Fakes) -> None:
    dev("true")
    before = len(fakes.calls())
    assert dev("true").code == 0
    assert len(fakes.calls()) == before


def test_exit_code_is_that_of_the_command(dev: Dev) -> None:
    assert [dev("sh", "-c", f"exit {code}").code for code in (0, 1, 7)] == [0, 1, 7]


def test_changed_lock_makes_it_anew(dev: Dev, project: Path, fakes: Fakes) -> None:
    dev("true")
    (project / "requirements.txt").write_text("one==2\n")
    dev("true")
    assert len(fakes.calls("python")) == 2


def test_moved_project_makes_it_anew(dev: Dev, project: Path, fakes: Fakes) -> None:
    dev("true")
    moved = project.rename(project.with_name("moved"))
    python = str(fakes.folder / "python-good")
    assert proc.run([moved / "dev", "true"], limit_s=30, env={"PYTHON": python}).code == 0
    assert len(fakes.calls("python")) == 2


def test_half_made_environment_is_noticed(dev: Dev, fakes: Fakes) -> None:
    fakes.add("venv-python", code=1)
    failed = dev("true")
    assert (failed.code, b"hint: " in failed.stderr) == (3, True)
    fakes.add("venv-python")
    assert dev("true").code == 0
    assert [call[1] for call in fakes.calls("python-good")] == ["-c", "-m", "-c", "-m"]


def test_two_at_once_make_one_environment(dev: Dev, fakes: Fakes) -> None:
    fakes.add("venv-python", delay_s=0.5)
    with ThreadPoolExecutor(2) as pool:
        codes = [done.code for done in pool.map(lambda _: dev("true"), range(2))]
    assert (codes, len(fakes.calls("python"))) == ([0, 0], 1)


def test_without_arguments_it_says_how_to_activate(dev: Dev, project: Path) -> None:
    done = dev()
    assert (done.code, f". '{project}/.venv/bin/activate'" in done.text) == (0, True)


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_is_printed_and_nothing_is_made(dev: Dev, project: Path, word: str) -> None:
    done = dev(word)
    assert (done.code, "./dev CMD" in done.text, (project / ".venv").exists()) == (0, True, False)


def test_a_command_that_does_not_exist_is_bad_input(dev: Dev) -> None:
    done = dev("no-such-command")
    assert done.code == 2
    assert b"there is no command no-such-command" in done.stderr


@pytest.mark.parametrize("name", ["base", "test", "lab", "build", "vagrant"])
def test_packages_of_a_set_are_printed_and_nothing_is_made(dev: Dev, project: Path, fakes: Fakes, name: str) -> None:
    done = dev("--packages", name)
    names = done.text.splitlines()
    assert done.code == 0 and names
    assert all(word == word.strip().lower() and " " not in word for word in names)
    assert fakes.calls() == [] and not (project / ".venv").exists()


@pytest.mark.parametrize(
    ("release", "has", "lacks"),
    [
        ("ID=debian\nVERSION_ID=12\n", "vagrant-libvirt", "libvirt-daemon-driver-storage"),
        ('ID=debian\nVERSION_ID="13"\n', "libvirt-daemon-driver-storage", "dnsmasq-base"),
        ('ID=ubuntu\nVERSION_ID="24.04"\n', "libvirt-daemon", "vagrant"),
        ("", "vagrant", "dnsmasq-base"),
    ],
)
def test_vagrants_packages_are_those_that_the_distribution_has(
    dev: Dev, tmp_path: Path, release: str, has: str, lacks: str
) -> None:
    (tmp_path / "os-release").write_text(release)
    names = dev("--packages", "vagrant", env={"OS_RELEASE": str(tmp_path / "os-release")}).text.splitlines()
    assert has in names and lacks not in names


@pytest.mark.parametrize("words", [["--packages"], ["--packages", "nonsense"], ["--packages", "lab", "build"]])
def test_unknown_set_is_bad_input(dev: Dev, words: list[str]) -> None:
    done = dev(*words)
    assert (done.code, done.text, b"base, test, lab, build or vagrant" in done.stderr) == (2, "", True)


@pytest.mark.parametrize(
    ("command", "sets"),
    [
        ("true", []),
        ("invoke --list", []),
        ("invoke --help lab.up", []),
        ("invoke hosts.render out", []),
        ("invoke hosts.check", ["test"]),
        ("invoke build.list", []),
        ("invoke lab.doctor", []),
        ("invoke lab.up", ["lab"]),
        ("inv lab.up --name two", ["lab"]),
        ("invoke lab.up --bundle lab.tar", []),
        ("invoke lab.up --provider vagrant", ["lab", "vagrant"]),
        ("invoke lab.up --provider=vagrant", ["lab", "vagrant"]),
        ("invoke lab.box", ["lab", "vagrant"]),
        ("invoke scenario.run power_loss", ["lab"]),
        ("invoke build.kernel", ["lab"]),
        ("invoke build.lxd", ["build"]),
        ("invoke build.show lxd-5.0.2", []),
        ("invoke build.check out/lxd.tar.zst", []),
        ("nox -s build", ["build"]),
        ("nox", ["test", "lab"]),
        ("nox -l", []),
        ("nox -s lint", []),
        ("nox -s lint unit", ["test"]),
        ("nox --session=failover", ["lab"]),
        ("nox -s failover -- -k unit", ["lab"]),
        ("nox -s lifecycle -- --provider vagrant", ["lab", "vagrant"]),
        ("nox -t slow", ["lab"]),
        ("nox -s failover -- --provider vagrant", ["lab", "vagrant"]),
        ("nox -- --provider vagrant", ["test", "lab", "vagrant"]),
    ],
)
def test_only_the_packages_that_the_command_needs(dev: Dev, fakes: Fakes, command: str, sets: list[str]) -> None:
    for program in ("invoke", "inv", "nox"):
        fakes.add(program)
    fakes.add("venv-python", script='rm -f "$(dirname "$0")/nox"')
    fakes.add("dpkg-query", code=1)  # knows none of them
    wanted = [name for one in sets for name in dev("--packages", one).text.splitlines()]
    assert dev(*command.split()).code == 0
    installed = [call[call.index("install") + 2 :] for call in fakes.calls("apt-get") if "install" in call]
    assert sorted({name for names in installed for name in names}) == sorted(set(wanted))


def test_missing_packages_are_named_to_whoever_is_not_root(dev: Dev, fakes: Fakes, project: Path) -> None:
    fakes.add("id", prints="1000")
    fakes.add("dpkg-query", prints="installed:gcc not-installed:flex ", code=1)
    done = dev("invoke", "lab.up")
    missing = [name for name in dev("--packages", "lab").text.splitlines() if name != "gcc"]
    assert done.code == 3
    assert f"dev: missing: {' '.join(missing)}\n" in done.stderr.decode()
    assert f"apt-get install {' '.join(missing)}\n" in done.stderr.decode()
    assert fakes.calls("apt-get") == [] and not (project / ".venv").exists()


def test_stale_package_lists_are_renewed_once(dev: Dev, fakes: Fakes) -> None:
    fakes.add("dpkg-query", code=1)
    marker = fakes.folder / "updated"
    fakes.add("apt-get", script=f"case $* in *update*) touch '{marker}' ;; *) test -e '{marker}' || exit 100 ;; esac")
    assert dev("nox", "-s", "unit").code == 0
    assert [call for call in fakes.calls("apt-get") if "update" in call]


def test_apt_that_fails_ends_with_3(dev: Dev, fakes: Fakes) -> None:
    fakes.add("dpkg-query", code=1)
    fakes.add("apt-get", code=100)
    assert dev("nox", "-s", "unit").code == 3


def test_unfit_python_is_bad_input(dev: Dev, fakes: Fakes) -> None:
    old = fakes.add("python-old", code=1)
    done = dev("true", env={"PYTHON": str(old)})
    assert (done.code, f"PYTHON={old} is no Python >= 3.11" in done.stderr.decode()) == (2, True)


def test_what_it_says_itself_stays_off_standard_output(dev: Dev, fakes: Fakes) -> None:
    fakes.add("dpkg-query", code=1)
    fakes.add("apt-get", prints="noise\n")
    fakes.add("venv-python", prints="noise\n", script='test -z "${0##*nox}" || exit 0')
    assert dev("nox", "-s", "unit").text in {"noise", ""}
    assert dev("echo", "result").text == "result"
