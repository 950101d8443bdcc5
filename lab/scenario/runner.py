"""Run one scenario by name, through pytest."""

from __future__ import annotations

import pytest

from lab.errors import BadInput, ExitCode
from lab.paths import PROJECT
from lab.providers.base import PROVIDERS
from lab.scenario import catalogue


def run(name: str, *, provider: str, seed: int | None, keep: bool, shell_on_failure: bool) -> ExitCode:
    """Run a scenario (its name, or its number in the catalogue) and return the exit code for the caller.

    Raises:
        BadInput: there is no such scenario or provider.
        KeyboardInterrupt: the user ended it; everything is cleaned up.
    """
    if provider not in PROVIDERS:
        raise BadInput(f"no provider is called {provider!r}", f"take one of: {', '.join(PROVIDERS)}")
    given = arguments(name, provider=provider, seed=seed, keep=keep, shell_on_failure=shell_on_failure)
    code = pytest.main(given)
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return ExitCode.DONE if code == pytest.ExitCode.OK else ExitCode.FAILED


def arguments(name: str, *, provider: str, seed: int | None, keep: bool, shell_on_failure: bool) -> list[str]:
    """Return the arguments for pytest.

    Raises:
        BadInput: there is no such scenario.
    """
    entry = catalogue.find(name)
    given = [f"{entry.path}::test_{entry.name}", f"--rootdir={PROJECT}", f"--provider={provider}", "--timeout=0"]
    given += ["--long"]  # it was asked for by name
    given += [f"--seed={seed}"] if seed is not None else []
    given += ["--keep"] if keep else []
    given += ["--shell-on-failure"] if shell_on_failure else []
    return given + (["-m", "planted"] if entry.planted else [])
