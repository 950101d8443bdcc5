"""Checks of this machine, each made by doing the thing, each with its cure."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from filelock import FileLock, Timeout

from lab import paths, proc
from lab.errors import HapairError
from lab.providers import memory
from lab.providers.pair import FREE_BYTES

NEEDED_DISK_BYTES = 6 << 30
"""Sources, kernel tree, image and the disks of one lab, at their largest, all together."""
KERNEL_BUILD, IMAGE_BUILD = "about 5 min", "about 30 s"
"""How long a build usually takes on two cores."""

RESTRICTION = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
"""Ubuntu's switch, on since 24.04: user namespaces only for programs that AppArmor knows."""

BUILD_PROGRAMS = {"make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "xz": "xz-utils"}
IMAGE_PROGRAMS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "tar": "tar"}


class Grade(Enum):
    """What a finding means for bringing up a lab."""

    GOOD = "ok"
    WORSE = "warn"
    """It works, but slower, or only because something is cached."""
    BAD = "FAIL"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    subject: str
    grade: Grade
    text: str
    cure: str = ""

    def line(self) -> str:
        """Return the finding on one line, the cure last."""
        cure = f"  -> {self.cure}" if self.cure else ""
        return f"{self.grade.value:<5} {self.subject:<18} {self.text}{cure}"


def examine(memory_mb: int, *, kernel_cached: bool, image_cached: bool) -> Iterable[Finding]:
    """Yield every finding; what only a build needs is a warning when its result is in the cache already.

    Args:
        kernel_cached: a kernel of the present buildspec is in the cache.
        image_cached: likewise the root image.
        memory_mb: what the three nodes may use together.
    """
    checks: list[Callable[[], Finding]] = [
        _machine,
        _python,
        lambda: _memory(memory_mb),
        lambda: _memory_folder(memory_mb),
        _pdeathsig,
        lambda: _folder("cache folder", paths.cache(), NEEDED_DISK_BYTES, "XDG_CACHE_HOME"),
        lambda: _folder("labs folder", paths.labs(), FREE_BYTES, "XDG_STATE_HOME"),
        _locks,
        lambda: _programs("kernel build", BUILD_PROGRAMS, kernel_cached, KERNEL_BUILD),
        lambda: _headers(kernel_cached),
        lambda: _programs("image build", IMAGE_PROGRAMS, image_cached, IMAGE_BUILD),
        lambda: _user_namespaces(image_cached),
    ]
    for check in checks:
        yield check()


def _machine() -> Finding:
    text = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return Finding("machine", Grade.BAD, text, "User-Mode Linux nodes run on x86-64 Linux only")
    return Finding("machine", Grade.GOOD, text)


def _python() -> Finding:
    text = f"{platform.python_version()} in {sys.prefix}"
    if importlib.util.find_spec("ensurepip") is None:
        return Finding("python", Grade.WORSE, f"{text}; ./dev could not make it anew", "apt-get install python3-venv")
    return Finding("python", Grade.GOOD, text)


def _memory(memory_mb: int) -> Finding:
    available_mb = memory.available_bytes() >> 20
    text = f"{available_mb} MiB available, the three nodes may use {memory_mb} MiB"
    if available_mb < memory_mb:
        return Finding("memory", Grade.BAD, text, "stop other programs, or lower lab.memory_mb in the site file")
    return Finding("memory", Grade.GOOD, text)


def _memory_folder(needed_mb: int) -> Finding:
    try:
        found = memory.choose(memory.candidates(nearest(paths.labs())), needed_mb << 20)
    except HapairError as error:
        return Finding("memory files", Grade.BAD, error.message, error.hint)
    found.rmdir()
    return Finding("memory files", Grade.GOOD, f"{found.parent} maps executable memory")


def _pdeathsig() -> Finding:
    try:
        proc.run(["setpriv", "--pdeathsig", "KILL", "true"], limit_s=5)
    except HapairError as error:
        return Finding(
            "setpriv", Grade.BAD, error.message.splitlines()[0], "apt-get install util-linux (2.33 or newer)"
        )
    return Finding("setpriv", Grade.GOOD, "ties the nodes' lives to their supervisor")


def nearest(folder: Path) -> Path:
    """Return a folder, or the one that exists already in which it would be made: checks leave nothing behind."""
    return next(there for there in (folder, *folder.parents) if there.exists())


def _folder(subject: str, folder: Path, needed_bytes: int, variable: str) -> Finding:
    there = nearest(folder)
    try:
        with tempfile.TemporaryDirectory(dir=there) as probe:
            (Path(probe) / "file").write_bytes(b"x")
    except OSError as error:
        return Finding(subject, Grade.BAD, f"{there}: {error.strerror}", f"make it writable, or set {variable}")
    free = shutil.disk_usage(there).free
    text = f"{folder}: {free >> 20} MiB free"
    if free < needed_bytes:
        return Finding(subject, Grade.BAD, text, f"free {needed_bytes >> 20} MiB there, or set {variable}")
    return Finding(subject, Grade.GOOD, text)


def _locks() -> Finding:
    try:
        with (
            tempfile.TemporaryDirectory(dir=nearest(paths.cache())) as folder,
            FileLock(Path(folder) / "lock", timeout=1),
        ):
            pass
    except (OSError, Timeout, NotImplementedError) as error:
        return Finding("file locks", Grade.BAD, f"{paths.cache()}: {error}", "use a local file system as cache")
    return Finding("file locks", Grade.GOOD, "work in the cache folder")


def _programs(subject: str, programs: dict[str, str], cached: bool, usually: str) -> Finding:
    state = "its result is in the cache" if cached else f"not in the cache, will take {usually}"
    missing = [package for program, package in programs.items() if shutil.which(program, path=search_path()) is None]
    if not missing:
        return Finding(subject, Grade.GOOD, state)
    grade = Grade.WORSE if cached else Grade.BAD
    cure = "./dev --packages lab prints the packages"
    return Finding(subject, grade, f"{state}; missing: {', '.join(missing)}", cure)


def search_path() -> str:
    """Return where programs are looked for, those for administrators included."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def _headers(cached: bool) -> Finding:
    subject = "libelf headers"
    if cached or shutil.which("gcc") is None:
        return Finding(subject, Grade.GOOD, "not needed now")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("#include <gelf.h>\nint main(void) { return 0; }\n")
        done = proc.run(["gcc", "-c", source, "-o", source.with_suffix(".o")], limit_s=20, check=False)
    if done.code:
        return Finding(
            subject, Grade.BAD, "a program that includes gelf.h does not compile", "apt-get install libelf-dev"
        )
    return Finding(subject, Grade.GOOD, "compile")


def _user_namespaces(cached: bool) -> Finding:
    subject = "image ownership"
    if os.geteuid() == 0:
        return Finding(subject, Grade.GOOD, "root builds the image")
    try:
        proc.run(["unshare", "--map-auto", "--map-root-user", "true"], limit_s=5)
    except HapairError:
        cure = "allow user namespaces and add a subuid range (usermod --add-subuids), or use lab.up --bundle"
        if restricted(RESTRICTION):
            cure = f"as root: sysctl kernel.{RESTRICTION.name}=0 (an Ubuntu restriction); {cure}"
        return Finding(subject, Grade.WORSE if cached else Grade.BAD, "no user namespaces with subordinate ids", cure)
    return Finding(subject, Grade.GOOD, "user namespaces with subordinate ids")


def restricted(switch: Path) -> bool:
    """Return whether AppArmor keeps user namespaces from unknown programs; false where there is no such switch."""
    return switch.exists() and switch.read_text(encoding="ascii").strip() == "1"
