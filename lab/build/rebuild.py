"""One rebuild in a process of its own, so that clock, umask and CPUs of the builder itself can differ too.

Run as `python -m lab.build.rebuild REQUEST`; see `Request`. The steps are told on standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from lab import log
from lab.build import engine
from lab.build.surroundings import Surroundings
from lab.errors import HapairError


@dataclass(frozen=True)
class Request:
    """What to build, in which surroundings, and the file that the path of the result goes to."""

    spec: str
    liblxc: Literal["own", "system"]
    sources: Mapping[str, str]
    """As for `engine.ensure`: name → local file or folder."""
    surroundings: Surroundings
    umask: int
    answer: str

    def text(self) -> str:
        """Return the request as one word of a command."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Request:
        """Read what `text` wrote."""
        data = json.loads(text)
        inside = data.pop("surroundings")
        inside["wrap"] = tuple(inside["wrap"])
        return cls(surroundings=Surroundings(**inside), **data)


def main(text: str) -> int:
    """Build; return the exit code."""
    wanted = Request.read(text)
    os.umask(wanted.umask)
    try:
        with log.steps(f"Rebuilding {wanted.spec}") as progress:
            made = engine.ensure(
                wanted.spec,
                progress,
                sources={name: Path(path) for name, path in wanted.sources.items()},
                liblxc=wanted.liblxc,
                surroundings=wanted.surroundings,
            )
    except HapairError as error:
        log.fail(str(error))
        return error.exit_code
    Path(wanted.answer).write_text(str(made.folder), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
