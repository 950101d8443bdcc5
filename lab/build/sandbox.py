"""The sandbox of every step: bubblewrap, with no network, a clean environment and the same paths on every machine."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import proc
from lab.build.surroundings import PLAIN, Surroundings
from lab.errors import HostLacks

TRY_S = 10.0
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of the system's programs beside /usr; on most machines they are links into it."""
ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d")
"""All of /etc that compilers and linkers read; the rest could only make one machine's build unlike another's."""
NAMESPACES = ("--unshare-all", "--die-with-parent", "--cap-drop", "ALL")
CCACHE_SIZE = "1G"


@dataclass(frozen=True)
class Sandbox:
    """What the steps of one build see."""

    folders: Mapping[str, Path]
    """Path below the root → the real folder that stands there, writable."""
    shared: Mapping[str, Path]
    """The same for folders that the steps can only read."""
    etc: Path
    """A folder for the few files that are made for the sandbox."""
    epoch: int
    env: Mapping[str, str] = field(default_factory=dict)
    surroundings: Surroundings = PLAIN

    def path(self, *parts: str) -> str:
        """Return a path as the steps see it."""
        return "/".join((self.surroundings.root, *parts))

    def argv(self, words: Sequence[str], *, cwd: str, env: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs `words` in the sandbox; `env` goes over the sandbox's own."""
        around = self.surroundings
        argv = [program(), *NAMESPACES, "--clearenv", "--hostname", around.hostname]
        argv += ["--uid", str(around.uid), "--gid", str(around.uid), *self._system(), *self._folders()]
        for name, value in {**self._environment(), **self.env, **(env or {}), **around.env}.items():
            argv += ["--setenv", name, value]
        # A shell, because bubblewrap cannot set the umask.
        return [*argv, "--chdir", cwd, "sh", "-c", f'umask {around.umask:03o}; exec "$@"', "sh", *around.wrap, *words]

    def _system(self) -> list[str]:
        # What an administrator put into /usr/local is on no list of packages.
        argv = ["--ro-bind", "/usr", "/usr", "--tmpfs", "/usr/local"]
        for name in SYSTEM:
            path = Path("/", name)
            if path.is_symlink():
                argv += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                argv += ["--ro-bind", str(path), str(path)]
        argv += [word for name in ETC for word in ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")]
        for name, text in self._accounts().items():
            file = self.etc / name
            if not file.exists():
                file.write_text(text, encoding="utf-8")
            argv += ["--ro-bind", str(file), f"/etc/{name}"]
        return [*argv, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - its own

    def _accounts(self) -> dict[str, str]:
        around = self.surroundings
        nobody = "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
        return {
            "passwd": f"{around.user}:x:{around.uid}:{around.uid}::{around.home}:/bin/sh\n{nobody}",
            "group": f"{around.user}:x:{around.uid}:\nnogroup:x:65534:\n",
        }

    def _folders(self) -> list[str]:
        argv = ["--dir", self.surroundings.home]
        for name, real in self.folders.items():
            argv += ["--bind", str(real), self.path(name)]
        for name, real in self.shared.items():
            argv += ["--ro-bind", str(real), self.path(name)]
        return argv

    def _environment(self) -> dict[str, str]:
        around = self.surroundings
        return {
            "PATH": around.path,
            "HOME": around.home,
            "USER": around.user,
            "LOGNAME": around.user,
            "TZ": around.timezone,
            "LC_ALL": around.locale,
            "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "CCACHE_DIR": self.path("cache", "ccache"),
            "CCACHE_MAXSIZE": CCACHE_SIZE,
            # The compiler's version is an input of the key of {cache}, its time stamp is nothing.
            "CCACHE_COMPILERCHECK": "content",
        }


def program() -> str:
    """Return the path of bubblewrap.

    Raises:
        HostLacks: it is not installed.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise HostLacks(
            "bubblewrap is not installed, and nothing is built outside a sandbox", "apt-get install bubblewrap"
        )
    return found


@functools.cache
def require() -> None:
    """See whether this machine lets bubblewrap make a sandbox.

    Raises:
        HostLacks: it does not; the hint names the cure.
    """
    words = [program(), *NAMESPACES, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = proc.run(words, limit_s=TRY_S, check=False)
    if done.code != 0:
        told = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise HostLacks(
            f"no sandbox can be made here, and nothing is built outside of one: {told}",
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
            "kernel.apparmor_restrict_unprivileged_userns=0), or run as root; in a container its host must",
        )
