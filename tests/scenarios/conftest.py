"""Scenarios run on a real pair: `./dev nox -s failover`, or pytest on this folder."""

from __future__ import annotations

import pytest

from lab import artifacts as made
from lab import log
from lab.providers.plan import Artifacts
from lab.scenario.capture import uncaptured

pytest_plugins = ["lab.scenario.plugin"]


@pytest.fixture(scope="session")
def artifacts(request: pytest.FixtureRequest) -> Artifacts:
    """Kernel and image, from the cache or made now."""
    with uncaptured(request.config), log.steps("Kernel and image") as progress:
        return made.ensure(progress)
