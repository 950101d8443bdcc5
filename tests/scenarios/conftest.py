"""Scenarios run on a real pair: `./dev nox -s failover`, or pytest on this folder."""

from __future__ import annotations

import pytest

from lab import artifacts as made
from lab import log
from lab.artifacts import Ready
from lab.hosts.site import Site
from lab.scenario.capture import uncaptured

pytest_plugins = ["lab.scenario.plugin"]


@pytest.fixture(scope="session")
def ready(request: pytest.FixtureRequest, site: Site) -> Ready:
    """All that nodes are made of, from the cache or made now."""
    with uncaptured(request.config), log.steps("What nodes are made of") as progress:
        provider, libvirt = (request.config.getoption(name) for name in ("--provider", "--libvirt"))
        return made.for_lab(provider, site, progress, libvirt=libvirt, tell=log.say)
