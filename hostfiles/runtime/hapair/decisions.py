"""The decision log: one JSON line for each action, with the rule that asked for it; on disk and in the journal.

A disk that hangs must not hold up a decision, so a thread of its own writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path


class DecisionLog:
    """Writes to `path` and to standard error (the journal). Nothing here raises or blocks, `drain` excepted."""

    def __init__(self, path: Path, *, journal: bool = True) -> None:
        self._path, self._journal = path, journal
        self._lines: queue.Queue[tuple[str, bool]] = queue.Queue()
        self._thread = threading.Thread(target=self._write, name=path.name, daemon=True)
        self._thread.start()

    def add(
        self,
        resource: str,
        *,
        rule: str,
        action: str,
        outcome: str,
        why: str,
        took_s: float = 0.0,
        durable: bool = False,
    ) -> None:
        """Log one action of one rule, and how it ended; `durable`: also wait for the disk, in the writer's thread."""
        entry = {
            "t": round(time.time(), 6),
            "resource": resource,
            "rule": rule,
            "action": action,
            "outcome": outcome,
            "why": why,
            "took_s": round(took_s, 4),
        }
        self.line(json.dumps(entry), durable=durable)

    def line(self, text: str, *, durable: bool = False) -> None:
        """Log a line as it is (the kernel's events use this)."""
        self._lines.put((text, durable))

    def drain(self, limit_s: float) -> None:
        """Wait until everything so far is written, but not longer than `limit_s`."""
        # Queue.join has no time limit, and the writer may hang on a broken disk.
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, limit_s)

    def _write(self) -> None:
        while True:
            lines = [self._lines.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._lines.get_nowait())
            text = "".join(f"{line}\n" for line, _ in lines)
            if self._journal and sys.stderr is not None:
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.write(text)
                    sys.stderr.flush()
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a") as log:
                    log.write(text)
                    if any(durable for _, durable in lines):
                        log.flush()
                        os.fsync(log.fileno())
            for _ in lines:
                self._lines.task_done()
