"""The ways in which a rebuild is made unlike the first build: reprotest's fourteen, and another install prefix.

Where the sandbox gives every build the same value anyhow (see `Surroundings`), a variation around it would prove the
sandbox only; such a variation is made inside, where the steps do see it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab import proc
from lab.build.surroundings import PLAIN, Surroundings

TRY_S = 10.0
FAKETIME = "usr/lib/*/faketime/libfaketime.so.1"
AHEAD = "+398d"
"""As far as reprotest goes: another year, another day of the week."""


@dataclass(frozen=True)
class Variation:
    """One thing that is different: inside the sandbox (fields of Surroundings), around it, or both."""

    name: str
    """As reprotest calls it."""
    what: str
    inside: Mapping[str, Any] = field(default_factory=dict)
    env_inside: Mapping[str, str] = field(default_factory=dict)
    around: tuple[str, ...] = ()
    """Words before the command that rebuilds."""
    personality: tuple[str, ...] = ()
    """Flags of setarch, which are inherited through every sandbox."""
    env_around: Mapping[str, str] = field(default_factory=dict)
    umask_around: int | None = None
    reversed_folders: bool = False
    """The whole cache of the rebuild lies on disorderfs."""
    skipped: str = ""
    """Why this machine cannot do it."""

    @property
    def where(self) -> str:
        """Say where it takes effect."""
        inside, around = bool(self.inside or self.env_inside), bool(self.around or self.env_around)
        around = around or bool(self.personality) or self.umask_around is not None or self.reversed_folders
        return "inside the sandbox and around it" if inside and around else "inside the sandbox" if inside else "around"


@dataclass(frozen=True)
class Combined:
    """All of a set of variations together."""

    surroundings: Surroundings = PLAIN
    around: tuple[str, ...] = ()
    env_around: Mapping[str, str] = field(default_factory=dict)
    umask_around: int = 0o022
    reversed_folders: bool = False


def combine(chosen: Iterable[Variation]) -> Combined:
    """Return what a rebuild with all of these variations needs."""
    listed = list(chosen)
    flags = [flag for one in listed for flag in one.personality]
    # One call for all of them: each sets the whole personality anew.
    made = Combined(around=("setarch", os.uname().machine, *flags) if flags else ())
    for one in listed:
        inside = made.surroundings
        made = Combined(
            surroundings=replace(inside, **one.inside, env={**inside.env, **one.env_inside}),
            around=(*made.around, *one.around),
            env_around={**made.env_around, **one.env_around},
            umask_around=made.umask_around if one.umask_around is None else one.umask_around,
            reversed_folders=made.reversed_folders or one.reversed_folders,
        )
    return made


def variations() -> list[Variation]:
    """Return all of them, those that this machine cannot do with the reason."""
    noise = {"CAPTURE_ENVIRONMENT": "i_capture_the_environment", "LANGUAGE": "et_EE:fr"}
    return [
        Variation("environment", "two more variables", env_inside=noise, env_around=noise),
        Variation("build_path", "sources in /srv/another/build", inside={"root": "/srv/another/build"}),
        Variation("prefix", "{prefix} is /usr/lib/elsewhere", inside={"prefix": "/usr/lib/elsewhere"}),
        _personality("kernel", "uname says 2.6", "--uname-2.6"),
        _personality("aslr", "addresses not random", "-R"),
        _cpus(),
        _clock(),
        Variation("user_group", "user builder, 1234:1234", inside={"user": "builder", "uid": 1234}),
        _ordering(),
        _domain(),
        Variation("home", "home is /nonexistent/first-build", inside={"home": "/nonexistent/first-build"}),
        _locale(),
        Variation(
            "exec_path",
            "one more folder in PATH",
            inside={"path": f"{PLAIN.path}:/i/capture/the/path"},
        ),
        Variation("timezone", "13 h 45 min east", inside={"timezone": "HAP-13:45"}, env_around={"TZ": "HAP-13:45"}),
        Variation("umask", "002, the builder's own 077", inside={"umask": 0o002}, umask_around=0o077),
    ]


def _personality(name: str, what: str, flag: str) -> Variation:
    return Variation(name, what, personality=(flag,), skipped=_refused("setarch", os.uname().machine, flag))


def _refused(*argv: str) -> str:
    """Return why a wrapper cannot be used here, or nothing."""
    if shutil.which(argv[0]) is None:
        return f"{argv[0]} is not installed"
    done = proc.run([*argv, "true"], limit_s=TRY_S, check=False)
    return "" if done.code == 0 else f"{argv[0]}: {done.stderr.decode(errors='replace').strip()}"


def _cpus() -> Variation:
    allowed = sorted(os.sched_getaffinity(0))
    argv = ("taskset", "-c", str(allowed[-1]))
    skipped = "there is one CPU only" if len(allowed) < 2 else _refused(*argv)
    return Variation("num_cpus", f"one CPU instead of {len(allowed)}", around=argv, skipped=skipped)


def _clock() -> Variation:
    library = next((str(path) for path in sorted(Path("/").glob(FAKETIME))), "")
    # Not around the builder: under libfaketime 0.9.10, Python's waits fail or never end. Its steps have the clock that
    # could end up in a result, and they do not wait with a time limit of their own.
    env = {"LD_PRELOAD": library, "FAKETIME": AHEAD, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return Variation(
        "time",
        "clock 398 days ahead (what does not use libc keeps the right time)",
        env_inside=env,
        skipped="" if library else "libfaketime is not installed (apt-get install faketime)",
    )


def _ordering() -> Variation:
    skipped = ""
    if shutil.which("disorderfs") is None:
        skipped = "disorderfs is not installed (apt-get install disorderfs)"
    elif not os.access("/dev/fuse", os.R_OK | os.W_OK):
        skipped = "this machine has no FUSE (/dev/fuse)"
    return Variation("fileordering", "folders listed from Z to A", reversed_folders=True, skipped=skipped)


def _domain() -> Variation:
    """Return another host name, and another domain where this user may set one."""
    inside = {"hostname": "elsewhere"}
    script = 'echo elsewhere.invalid >/proc/sys/kernel/domainname && exec "$@"'
    argv = ("unshare", "--uts", "sh", "-c", script, "sh")
    if _refused(*argv):
        return Variation("domain_host", "host elsewhere (no domain: that takes root)", inside=inside)
    return Variation("domain_host", "host elsewhere in elsewhere.invalid", inside=inside, around=argv)


def _locale() -> Variation:
    listed = proc.run(["locale", "-a"], limit_s=TRY_S, check=False).text.split()
    others = [name for name in listed if not re.match(r"(C|POSIX)\b", name)]
    if others:
        return Variation("locales", others[0], inside={"locale": others[0]}, env_around={"LC_ALL": others[0]})
    return Variation("locales", "C instead of C.UTF-8 (no other is installed)", inside={"locale": "C"})
