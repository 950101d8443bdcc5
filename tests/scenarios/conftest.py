"""Scenarios run on a real pair: `./dev nox -s failover`, or pytest on this folder."""

from __future__ import annotations

import pytest

from lab import artifacts as made
from lab import log
from lab.artifacts import Ready
from lab.hosts.site import Site, load_site
from lab.scenario import pairs
from lab.scenario.capture import uncaptured

pytest_plugins = ["lab.scenario.plugin"]


@pytest.fixture(scope="session")
def ready(request: pytest.FixtureRequest, site: Site) -> Ready:
    """All that nodes are made of, from the cache or made now."""
    return _make(request.config, site)


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's, before it starts its workers
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Make it once, and where a person sees it, when several pairs will need it."""
    _make(config, load_site(config.getoption("--site")))


def _make(config: pytest.Config, site: Site) -> Ready:
    alone = not pairs.is_worker(config)
    with uncaptured(config), log.steps("What nodes are made of") if alone else log.silent() as progress:
        provider, libvirt = (config.getoption(name) for name in ("--provider", "--libvirt"))
        tell = log.say if alone else _nothing
        return made.for_lab(provider, site, progress, libvirt=libvirt, tell=tell)


def _nothing(_: str) -> None:
    """A worker says nothing: the run has said it."""
