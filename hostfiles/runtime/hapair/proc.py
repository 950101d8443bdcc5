"""The only place that starts processes: argument lists, a built environment, no standard input, a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import IO, Mapping, NamedTuple, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ABANDON_S = 1.0
"""How long a killed child may take to go. One that hangs in the kernel (frozen I/O) cannot be killed: it is left."""


class Completed(NamedTuple):
    """How a command ended: exit code (minus the signal), or None when it had to be given up; and what it printed."""

    code: int | None
    output: str

    @property
    def ok(self) -> bool:
        """True when it ended well."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """The last line it printed: the one that most often says why."""
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


def run(argv: Sequence[str], limit_s: float, env: Mapping[str, str] | None = None) -> Completed:
    """Run a command to its end; after `limit_s` its process group is killed. Raises nothing."""
    try:
        child = _start(argv, subprocess.PIPE, subprocess.STDOUT, env)
    except OSError as bad:
        return Completed(127, f"{argv[0]}: {bad.strerror}")
    try:
        out, _ = child.communicate(timeout=limit_s)
        return Completed(child.returncode, out.decode(errors="replace"))
    except subprocess.TimeoutExpired:
        _kill(child)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=ABANDON_S)
        return Completed(None, f"{' '.join(argv)}: no end after {limit_s:g} s")


def ordinary(argv: Sequence[str]) -> list[str]:
    """Return the command that runs a user's program at the usual priority: that of the agent is for its decisions."""
    return ["nice", "-n", str(-os.nice(0)), *argv]


def ahead(thread: int = 0) -> None:
    """Let a thread or process (0: the calling thread) run whenever it can, before all that is not real-time.

    With the round-robin policy and the lowest of its priorities (sched(7)), as cluster software does; what is started
    from there is ordinary again. Where that is refused (an ordinary user, a kernel with real-time groups) nothing
    changes: the unit's nice value stays.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def stream(argv: Sequence[str]) -> "Stream":
    """Start a command whose standard output is read as it comes.

    Raises:
        OSError: it cannot be started.
    """
    return Stream(_start(argv, subprocess.PIPE, subprocess.DEVNULL, None))


class Stream:
    """A running command; `fd` is its standard output, in non-blocking mode, `pid` its process."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child = child
        self.pid = child.pid
        assert child.stdout is not None  # noqa: S101 - it was started with a pipe
        self._out: IO[bytes] = child.stdout
        self.fd = self._out.fileno()
        os.set_blocking(self.fd, False)

    def close(self) -> None:
        """End the command and forget it."""
        _kill(self._child)
        self._out.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(ABANDON_S)


def replace_self(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become another program, with this process's standard input, output and terminal.

    Raises:
        OSError: there is no such program.
    """
    os.execvpe(argv[0], list(argv), {**os.environ, **env})  # noqa: S606 - no shell is meant


def _start(argv: Sequence[str], out: int, err: int, env: Mapping[str, str] | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd="/",
        env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **(env or {})},
        start_new_session=True,
    )


def _kill(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
