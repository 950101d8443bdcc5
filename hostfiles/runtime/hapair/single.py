"""One agent on a node: two would undo each other's work within a second."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Iterator

from hapair.paths import Paths


class AnotherRuns(Exception):
    """Another agent cares for this node's resources."""


@contextlib.contextmanager
def only_agent(paths: Paths) -> Iterator[None]:
    """Be the agent of this node while the context lasts; the kernel ends that with the process, however it ends.

    Raises:
        AnotherRuns: there is one already.
    """
    paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(paths.run / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherRuns(
                "another agent runs on this node: `systemctl status hapair-agent`; nothing was started here"
            ) from None
        yield
    finally:
        os.close(fd)
