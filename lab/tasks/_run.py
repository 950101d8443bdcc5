"""What every task shares: errors become a message and an exit code, and signals unwind like exceptions."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import ParamSpec, TypeVar

from lab import log
from lab.errors import HapairError

P = ParamSpec("P")
T = TypeVar("T")


def guarded(body: Callable[P, T]) -> Callable[P, T]:
    """Decorate a task's body: a `HapairError` is shown with its hint and ends the program with its exit code.

    Ctrl-C ends it with 130, SIGTERM with 143 and SIGHUP with 129, after every `finally` and context manager has run.
    Everything else is a fault of ours and keeps its traceback. Invoke still sees the signature of `body`.

    Raises:
        SystemExit: in each of these cases.
    """

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with _signals_unwind():
                return body(*args, **kwargs)
        except HapairError as error:
            log.fail(str(error))
            raise SystemExit(int(error.exit_code)) from None
        except KeyboardInterrupt:
            log.fail("interrupted")
            raise SystemExit(128 + signal.SIGINT) from None
        except BrokenPipeError:
            # The reader (`| head`) has gone: say nothing, and keep Python's last flush from failing too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE) from None

    return run


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit` while a body runs, so that it leaves nothing behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
