"""Long commands: their output goes to a log, somebody watches, and stopping reaches the whole process group."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lab.errors import HapairError
from lab.proc import CommandFailed, Completed, kill_group, spawn, which

LOOK_S = 0.5
TAIL_BYTES = 8192
ORPHANED = ("setpriv", "--pdeathsig", "TERM", "--")


class Stopped(HapairError):
    """The caller's stop event was set; nothing was left behind."""


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    watch: Callable[[], None] | None = None,
    stop: threading.Event | None = None,
    shown: tuple[str, ...] | None = None,
) -> None:
    """Run a command to its end; `watch` is called about twice a second while it runs.

    `shown` is what errors call the command, where the words that start it say less.

    Whatever ends the wait early (the limit, Ctrl-C, `stop`, a failing `watch`) kills the command's process group; if
    this process itself is killed, the command gets SIGTERM from the kernel, which make passes on to all it started.

    Raises:
        CommandFailed: it ended badly or ran out of time; the message shows the log's last lines and its path.
        HostLacks: the program is not installed.
        Stopped: `stop` was set.
    """
    started = tuple(str(word) for word in argv)
    words = shown or started
    which(started[0])
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as sink:
        child = spawn([*ORPHANED, *started], cwd=cwd, env=env, stdout=sink, stderr=sink)
        ended = os.pidfd_open(child.pid)
        try:
            until = time.monotonic() + limit_s
            while not select.select([ended], [], [], LOOK_S)[0]:
                if stop is not None and stop.is_set():
                    raise Stopped(f"stopped while running {words[0]}")
                if time.monotonic() > until:
                    raise CommandFailed(_completed(words, -9, log, begin), f"no end after {limit_s:g} s (log: {log})")
                if watch is not None:
                    watch()
        finally:
            os.close(ended)
            # Also after a good end: nothing that the command left in its group may outlive it.
            kill_group(child)
            code = child.wait()
    if code != 0:
        raise CommandFailed(_completed(words, code, log, begin))


def _completed(words: tuple[str, ...], code: int, log: Path, begin: int) -> Completed:
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - TAIL_BYTES))
        return Completed(words, code, b"", file.read())
