"""Run one scenario by name, through pytest."""

from __future__ import annotations

import pytest

from lab.paths import PROJECT
from lab.scenario import catalogue


def run(name: str, *, provider: str, seed: int | None, keep: bool, shell_on_failure: bool) -> int:
    """Run a scenario (its name, or its number in the catalogue) and return pytest's exit code.

    Raises:
        BadInput: there is no such scenario.
    """
    return int(pytest.main(arguments(name, provider=provider, seed=seed, keep=keep, shell_on_failure=shell_on_failure)))


def arguments(name: str, *, provider: str, seed: int | None, keep: bool, shell_on_failure: bool) -> list[str]:
    """Return the arguments for pytest.

    Raises:
        BadInput: there is no such scenario.
    """
    entry = catalogue.find(name)
    given = [f"{entry.path}::test_{entry.name}", f"--rootdir={PROJECT}", f"--provider={provider}", "--timeout=0"]
    given += [f"--seed={seed}"] if seed is not None else []
    given += ["--keep"] if keep else []
    given += ["--shell-on-failure"] if shell_on_failure else []
    return given + (["-m", "planted"] if entry.planted else [])
