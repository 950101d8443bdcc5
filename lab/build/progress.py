"""What the build engine asks of whoever shows its progress (lab.log.Steps fits)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Step(Protocol):
    """One running step."""

    def note(self, text: str) -> None:
        """Say what it is doing just now, and what remains."""


class Progress(Protocol):
    """A list of steps that grows while the work goes on."""

    def step(self, title: str, *, estimate_s: float | None = None) -> AbstractContextManager[Step]:
        """Open a step; `estimate_s` is what it is likely to take, in seconds."""
