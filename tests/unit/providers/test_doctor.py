"""Each check of this machine: good, a warning or bad, with its cure, and nothing left behind."""

from __future__ import annotations

import os
import platform
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from lab import paths
from lab.providers import doctor, memory
from lab.providers.doctor import Finding, Grade
from tests.fakes.programs import Fakes

pytestmark = pytest.mark.spawns

Usage = namedtuple("Usage", "total used free")
PROGRAMS = ("setpriv", "unshare", *doctor.BUILD_PROGRAMS, *doctor.IMAGE_PROGRAMS)


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A good machine: every program is a fake, there is room, and neither cache nor labs folder exists yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home/state"))
    (tmp_path / "home").mkdir()
    (tmp_path / "memory").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name in PROGRAMS:
        fakes.add(name)
    # Programs of this machine count in no test; the fakes themselves need a few.
    for name in ("sh", "basename", "sleep"):
        (fakes.folder / name).symlink_to(str(shutil.which(name)))
    monkeypatch.setenv("PATH", str(fakes.folder))
    monkeypatch.setattr(doctor, "search_path", lambda: str(fakes.folder))
    monkeypatch.setattr(memory, "candidates", lambda _: [tmp_path / "memory"])
    monkeypatch.setattr(memory, "probe", lambda *_: "")
    monkeypatch.setattr(memory, "available_bytes", lambda: 2 << 30)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, 64 << 30))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return fakes


def examine(memory_mb: int = 2048, *, kernel: bool = False, image: bool = False) -> dict[str, Finding]:
    found = doctor.examine(memory_mb, kernel_cached=kernel, image_cached=image)
    return {finding.subject: finding for finding in found}


def graded(findings: dict[str, Finding], grade: Grade) -> list[str]:
    return [subject for subject, finding in findings.items() if finding.grade is grade]


@pytest.mark.usefixtures("host")
def test_a_good_machine_is_good_and_stays_as_it_is(tmp_path: Path) -> None:
    def everything() -> list[Path]:
        return sorted(path for path in tmp_path.rglob("*") if path.name != ".calls")

    before = everything()
    findings = examine()
    assert graded(findings, Grade.GOOD) == list(findings), findings
    assert not any(finding.cure for finding in findings.values())
    assert everything() == before


@pytest.mark.usefixtures("host")
def test_a_line_tells_grade_subject_text_and_cure() -> None:
    assert Finding("disk", Grade.BAD, "full", "free some").line() == "FAIL  disk               full  -> free some"
    assert examine()["setpriv"].line() == "ok    setpriv            ties the nodes' lives to their supervisor"


@pytest.mark.usefixtures("host")
def test_builds_say_whether_they_are_still_to_be_done() -> None:
    fresh, done = examine(), examine(kernel=True, image=True)
    assert fresh["kernel build"].text == "not in the cache, will take about 5 min"
    assert fresh["image build"].text == "not in the cache, will take about 30 s"
    assert done["kernel build"].text == done["image build"].text == "its result is in the cache"


@pytest.mark.parametrize(
    ("subject", "program", "package"), [("kernel build", "xz", "xz-utils"), ("image build", "mke2fs", "e2fsprogs")]
)
def test_a_missing_program_matters_as_long_as_the_result_is_not_cached(
    host: Fakes, subject: str, program: str, package: str
) -> None:
    (host.folder / program).unlink()
    found = examine()[subject]
    assert (found.grade, found.cure) == (Grade.BAD, "./dev --packages lab prints the packages")
    assert found.text.startswith("not in the cache") and found.text.endswith(f"missing: {package}")
    found = examine(kernel=True, image=True)[subject]
    assert found.grade is Grade.WORSE
    assert found.text == f"its result is in the cache; missing: {package}"


@pytest.mark.usefixtures("host")
def test_too_little_memory() -> None:
    found = examine(2049)["memory"]
    assert found.grade is Grade.BAD
    assert found.text == "2048 MiB available, the three nodes may use 2049 MiB"
    assert "lab.memory_mb" in found.cure


@pytest.mark.usefixtures("host")
def test_no_folder_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "probe", lambda *_: "mounted noexec")
    found = examine()["memory files"]
    assert found.grade is Grade.BAD
    assert "mounted noexec" in found.text and "HAPAIR_MEMORY_DIR" in found.cure


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("free_bytes", "bad"),
    [
        (doctor.NEEDED_DISK_BYTES - 1, {"cache folder": "XDG_CACHE_HOME"}),
        ((2 << 30) - 1, {"cache folder": "XDG_CACHE_HOME", "labs folder": "XDG_STATE_HOME"}),
    ],
)
def test_too_little_disk(monkeypatch: pytest.MonkeyPatch, free_bytes: int, bad: dict[str, str]) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 30, 0, free_bytes))
    findings = examine()
    assert graded(findings, Grade.BAD) == list(bad)
    for subject, variable in bad.items():
        assert findings[subject].cure.endswith(f"or set {variable}")


@pytest.mark.usefixtures("host")
def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "home/cache").touch()  # a file, which stops root too
    findings = examine()
    assert graded(findings, Grade.BAD) == ["cache folder", "file locks"]
    assert findings["cache folder"].cure == "make it writable, or set XDG_CACHE_HOME"
    assert findings["file locks"].cure == "use a local file system as cache"
    assert findings["labs folder"].text == f"{paths.labs()}: 65536 MiB free"


def test_a_setpriv_that_cannot_or_is_not_there(host: Fakes) -> None:
    host.add("setpriv", code=1)
    found = examine()["setpriv"]
    assert (found.grade, found.cure) == (Grade.BAD, "apt-get install util-linux (2.33 or newer)")
    (host.folder / "setpriv").unlink()
    assert examine()["setpriv"].text == "setpriv is not installed"


def test_headers_that_are_missing(host: Fakes) -> None:
    host.add("gcc", code=1)
    found = examine()["libelf headers"]
    assert (found.grade, found.cure) == (Grade.BAD, "apt-get install libelf-dev")
    assert examine(kernel=True)["libelf headers"].grade is Grade.GOOD
    (host.folder / "gcc").unlink()
    assert examine()["libelf headers"].text == "not needed now"


@pytest.mark.parametrize("unshare", ["fails", "is missing"])
def test_no_user_namespaces(host: Fakes, monkeypatch: pytest.MonkeyPatch, unshare: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert examine()["image ownership"].text == "user namespaces with subordinate ids"
    assert host.calls("unshare") == [["unshare", "--map-auto", "--map-root-user", "true"]]
    if unshare == "fails":
        host.add("unshare", code=1)
    else:
        (host.folder / "unshare").unlink()
    found = examine()["image ownership"]
    assert found.grade is Grade.BAD
    assert "subuid" in found.cure and "lab.up --bundle" in found.cure
    assert examine(image=True)["image ownership"].grade is Grade.WORSE


def test_ubuntus_restriction_is_named(host: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "RESTRICTION", tmp_path / "apparmor_restrict_unprivileged_userns")
    host.add("unshare", code=1)
    assert "sysctl" not in examine()["image ownership"].cure
    doctor.RESTRICTION.write_text("1\n")
    assert "sysctl kernel.apparmor_restrict_unprivileged_userns=0" in examine()["image ownership"].cure


def test_root_needs_no_user_namespaces(host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    host.add("unshare", code=1)
    assert examine()["image ownership"].text == "root builds the image"


@pytest.mark.usefixtures("host")
def test_another_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    found = examine()["machine"]
    assert found.grade is Grade.BAD and "aarch64" in found.text
