"""Executables that stand in for real ones on PATH: they log their calls, and print, wait or fail as told."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

# A call is written at once: programs that run side by side share the log, and one may be killed meanwhile.
BODY = """#!/bin/sh
call=$(printf '%s\\037' "$(basename "$0")" "$@")
printf '%s\\n' "$call" >>{calls}
sleep {delay_s}
printf '%s' {prints}
{script}
exit {code}
"""


@dataclass(frozen=True)
class Fakes:
    """A folder of fake programs, to be put first on PATH."""

    folder: Path

    @property
    def _calls(self) -> Path:
        return self.folder / ".calls"

    def add(self, name: str, *, prints: str = "", code: int = 0, delay_s: float = 0, script: str = "") -> Path:
        """Make the program `name`; `script` is shell that it runs last, with its own arguments at hand."""
        path = self.folder / name
        path.write_text(
            BODY.format(
                calls=shlex.quote(str(self._calls)),
                delay_s=delay_s,
                prints=shlex.quote(prints),
                script=script,
                code=code,
            )
        )
        path.chmod(0o755)
        return path

    def calls(self, name: str = "") -> list[list[str]]:
        """Return the calls so far, each as its program's name and arguments; of one program, or of all."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        calls = [line.split("\037")[:-1] for line in lines]
        return [call for call in calls if name in {"", call[0]}]
