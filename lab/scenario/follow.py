"""Follow a command's output in a node, across the node's reboots, until told to stop."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence

from lab.deadline import Deadline
from lab.errors import HapairError
from lab.providers.base import Node

ANSWER_S = 5.0  # how long one attempt waits for a node to answer before it looks whether it should go on
RETRY_S = 0.2
STREAM_LIMIT_S = 6 * 3600.0  # longer than any scenario; the end is always asked for
# The shell leaves its own id behind and becomes the command: the way to end it from another connection.
_WRAP = ("sh", "-c", 'echo $$ > "$0"; exec "$@"')
_END = ("sh", "-c", 'kill "$(cat "$0")"')


class Follower:
    """A thread that hands every line of a command in a node to a function.

    With `again`, a stream that ended is started anew as soon as the node answers; `before` runs ahead of each start.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        argv: Callable[[], Sequence[str]],
        on_line: Callable[[bytes], None],
        *,
        again: bool = True,
        before: Callable[[], None] = lambda: None,
        on_change: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare to follow; `on_change` is told "follow" at the first line of a stream and "lost" when it breaks."""
        self.node, self.name = node, name
        self.argv, self.on_line, self.before, self.on_change = argv, on_line, before, on_change
        self.again = again
        self.problem = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"{node.name} {name}", daemon=True)
        self._pid_file = f"/run/hapair-lab-{name}.pid"

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether it still follows."""
        return self._thread.is_alive()

    def stop(self, deadline: Deadline) -> None:
        """End the command in the node and wait for its last line; a node that is gone has ended it already."""
        self._ending.set()
        with contextlib.suppress(HapairError):
            self.node.run([*_END, self._pid_file], limit_s=max(0.5, min(5.0, deadline.left_s)), check=False)
        if self._thread.ident is not None:
            self._thread.join(timeout=deadline.left_s)

    def _follow(self) -> None:
        while not self._ending.is_set():
            try:
                self._once()
            except HapairError as error:
                self.problem = str(error)
            if not self.again:
                return
            self._ending.wait(RETRY_S)

    def _once(self) -> None:
        self.node.wait_ready(Deadline.after(ANSWER_S))
        self.before()
        argv = [*_WRAP, self._pid_file, *self.argv()]
        seen = False
        try:
            for line in self.node.stream(argv, limit_s=STREAM_LIMIT_S):
                if not seen:
                    self.on_change("follow")
                    seen = True
                self.on_line(line)
        finally:
            if seen and not self._ending.is_set():
                self.on_change("lost")
