"""The only place that starts processes: argument lists, a built environment, no standard input, a time limit."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lab.errors import HapairError, HostLacks

Child = subprocess.Popen[bytes]
LAST_LINES = 15
INHERITED = ("PATH", "HOME", "LANG", "TERM", "TMPDIR", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Completed:
    """A process that ended: `code` is its exit status, or minus the signal that ended it."""

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the last line ends."""
        return self.stdout.decode(errors="replace").rstrip("\n")


class CommandFailed(HapairError):
    """A command ended badly; the message shows the command, how it ended and its last lines."""

    def __init__(self, done: Completed, how: str = "") -> None:
        ended = how or (
            f"was ended by {signal.Signals(-done.code).name}" if done.code < 0 else f"exit code {done.code}"
        )
        lines = (done.stderr or done.stdout).decode(errors="replace").splitlines()[-LAST_LINES:]
        super().__init__("\n    ".join([f"{shlex.join(done.argv)}: {ended}", *lines]))
        self.done = done


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a child: the few inherited variables, C.UTF-8, and `extra`."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def which(program: str, package: str = "") -> str:
    """Return the path of `program`.

    Raises:
        HostLacks: it is not installed; the hint names the Debian package.
    """
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise HostLacks(f"{program} is not installed", f"apt-get install {package or program}")
    return found


def run(
    argv: Sequence[str | Path],
    *,
    limit_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
    log: Path | None = None,
) -> Completed:
    """Run a command to its end and return what it printed.

    Args:
        argv: the program and its arguments; never a shell string.
        limit_s: seconds after which its whole process group is killed.
        env: added to the few inherited variables.
        check: raise when the exit code is not 0.
        log: a file that both outputs are appended to, instead of being captured apart.

    Raises:
        CommandFailed: it ended badly (with `check`) or ran out of time.
        HostLacks: the program is not installed.
    """
    words = tuple(str(word) for word in argv)
    sink: IO[bytes] | None = log.open("ab") if log else None
    try:
        child = spawn(words, cwd=cwd, env=env, stdout=sink or subprocess.PIPE, stderr=sink or subprocess.PIPE)
        try:
            out, err = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            kill_group(child)
            out, err = child.communicate()
            raise CommandFailed(
                Completed(words, -signal.SIGKILL, out or b"", err or b""), f"no end after {limit_s:g} s"
            ) from None
        except BaseException:
            kill_group(child)
            child.communicate()
            raise
    finally:
        if sink:
            sink.close()
    if log and child.returncode:
        err = log.read_bytes()[-8192:]
    done = Completed(words, child.returncode, out or b"", err or b"")
    if check and done.code != 0:
        raise CommandFailed(done)
    return done


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: IO[bytes] | int | None = subprocess.DEVNULL,
    stderr: IO[bytes] | int | None = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a command in a session of its own, so that `kill_group` reaches all of it.

    Raises:
        HostLacks: the program is not installed or not executable.
    """
    words = [str(word) for word in argv]
    try:
        return subprocess.Popen(
            words,
            cwd=cwd,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except FileNotFoundError:
        raise HostLacks(f"{words[0]} is not installed", "./dev --packages lab prints what to install") from None
    except PermissionError:
        raise HostLacks(
            f"{words[0]} may not be executed", "look at its mode, and at the mount options of its folder"
        ) from None


def kill_group(child: Child, sig: signal.Signals = signal.SIGKILL) -> None:
    """Send `sig` to a spawned child's whole process group; a group that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, sig)
