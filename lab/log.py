"""What the user sees while something takes time: a live display on a terminal, plain lines anywhere else.

All of it goes to standard error; `out` writes results, and only those, to standard output.

    with log.steps("Bringing up the pair") as progress:
        with progress.step("kernel", estimate_s=290) as step:
            step.note("compiling net/core")
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

HEARTBEAT_S = 10.0  # between two plain lines about a step that goes on
FRAMES_PER_S = 4  # of the live display: enough to look alive, cheap beside a compiler

_console = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Tell the user something."""
    _console.print(Text(text), soft_wrap=True)


def warn(text: str) -> None:
    """Tell the user something that may need attention."""
    _console.print(Text.assemble(("warning: ", "bold yellow"), text), soft_wrap=True)


def fail(text: str) -> None:
    """Tell the user why nothing more is done."""
    _console.print(Text.assemble(("error: ", "bold red"), text), soft_wrap=True)


def out(text: str) -> None:
    """Write a result to standard output, where a pipe or a file may take it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def watch(text: Callable[[], str], *, every_s: float) -> None:
    """Show what `text` returns, again every few seconds, until Ctrl-C: in place on a terminal, as results elsewhere."""
    console = Console(highlight=False)
    pause = threading.Event()
    with Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else nullcontext() as live:
        while True:
            if live:
                live.update(Text(text()), refresh=True)
            else:
                out(text())
            pause.wait(every_s)


class Step:
    """One thing that is being done."""

    def __init__(self, title: str, estimate_s: float | None = None) -> None:
        self.title = title
        self.estimate_s = estimate_s
        self.doing = ""
        self._since_s = time.monotonic()

    @property
    def took_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._since_s

    def note(self, text: str) -> None:
        """Say what it is doing just now; the next note takes its place."""
        self.doing = text

    def state(self) -> str:
        """Return how long it has taken, what remains of its estimate, and its last note."""
        words = f"{self.took_s:.0f} s"
        if self.estimate_s is not None:
            left_s = self.estimate_s - self.took_s
            words += (
                f", about {left_s:.0f} s to go" if left_s >= 1 else f", longer than the usual {self.estimate_s:.0f} s"
            )
        return f"{words}: {self.doing}" if self.doing else words


class _View(Protocol):
    """Where steps are shown."""

    def open(self, whole: Step) -> None: ...
    def begin(self, step: Step) -> None: ...
    def end(self, step: Step, *, good: bool) -> None: ...
    def close(self, *, good: bool) -> None: ...


class Steps:
    """A group of steps under one title, which may run side by side in several threads; a context manager."""

    def __init__(self, title: str, view: _View, estimate_s: float | None = None) -> None:
        self._whole = Step(title, estimate_s)
        self._view = view

    def __enter__(self) -> Self:
        """Begin to show the group."""
        self._whole = Step(self._whole.title, self._whole.estimate_s)
        self._view.open(self._whole)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Show how the group ended."""
        self._view.close(good=kind is None)

    @contextmanager
    def step(self, title: str, *, estimate_s: float | None = None) -> Iterator[Step]:
        """Show one step while the body runs; an exception marks it as failed and goes on its way.

        Args:
            estimate_s: seconds that it usually takes, to tell what remains.
        """
        step = Step(title, estimate_s)
        self._view.begin(step)
        good = False
        try:
            yield step
            good = True
        finally:
            self._view.end(step, good=good)


def steps(title: str, *, estimate_s: float | None = None) -> Steps:
    """Return a group of steps to enter: live on a terminal, plain lines otherwise.

    Args:
        estimate_s: seconds that all of it usually takes.
    """
    return Steps(title, _Live() if _console.is_terminal else _Plain(), estimate_s)


def silent() -> Steps:
    """Return a group of steps that shows nothing, for tests and machine-readable output."""
    return Steps("", _Silent())


class _Silent:
    def open(self, whole: Step) -> None: ...
    def begin(self, step: Step) -> None: ...
    def end(self, step: Step, *, good: bool) -> None: ...
    def close(self, *, good: bool) -> None: ...


class _Plain:
    """A line when a step begins, one about every ten seconds while it goes on, and one when it ends."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: list[Step] = []
        self._ended = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def open(self, whole: Step) -> None:
        self._whole = whole
        usually = f" (about {whole.estimate_s:.0f} s)" if whole.estimate_s else ""
        say(f"{whole.title}{usually}")
        self._pulse.start()

    def begin(self, step: Step) -> None:
        with self._guard:
            self._running.append(step)
            usually = f" (about {step.estimate_s:.0f} s)" if step.estimate_s else ""
            say(f"  {step.title} …{usually}")

    def end(self, step: Step, *, good: bool) -> None:
        with self._guard:
            self._running.remove(step)
            say(f"  {step.title}: {'done' if good else 'FAILED'} after {step.took_s:.1f} s")

    def close(self, *, good: bool) -> None:
        self._ended.set()
        self._pulse.join()
        say(f"{self._whole.title}: {'done' if good else 'FAILED'} after {self._whole.took_s:.1f} s")

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with self._guard:
                for step in self._running:
                    say(f"  {step.title}: {step.state()}")


class _Live:
    """Ended steps as lines, and below them what goes on, drawn anew a few times a second."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: dict[Step, Spinner] = {}

    def open(self, whole: Step) -> None:
        self._whole = whole
        self._live = Live(
            get_renderable=self._draw,
            console=_console,
            refresh_per_second=FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,  # results must not be moved to standard error
        )
        self._live.start()

    def begin(self, step: Step) -> None:
        with self._guard:
            self._running[step] = Spinner("dots")
        self._live.refresh()

    def end(self, step: Step, *, good: bool) -> None:
        with self._guard:
            del self._running[step]
        self._live.refresh()
        self._line("  ", step, good)

    def close(self, *, good: bool) -> None:
        self._live.stop()
        self._line("", self._whole, good)

    def _line(self, indent: str, step: Step, good: bool) -> None:
        mark = ("✓ ", "green") if good else ("✗ ", "bold red")
        _console.print(Text.assemble(indent, mark, step.title, (f"  {step.took_s:.1f} s", "dim")), soft_wrap=True)

    def _draw(self) -> Group:
        with self._guard:
            running = list(self._running.items())
        for step, spinner in running:
            spinner.update(text=_row(step, ""))
        return Group(_row(self._whole, "bold"), *(spinner for _, spinner in running))


def _row(step: Step, style: str) -> Text:
    # Never wrapped: the display counts its lines to draw over them.
    return Text.assemble((step.title, style), "  ", (step.state(), "dim"), no_wrap=True, overflow="ellipsis")
