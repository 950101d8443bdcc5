"""Artifacts from buildspecs: `kernel` for the lab, `released` for a program of some release, `ensure` for any."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from lab.build import spec
from lab.build.engine import KERNEL, cached, ensure
from lab.build.fetch import NoPlace
from lab.build.manifest import Artifact
from lab.build.plan import Liblxc, closure
from lab.build.progress import Progress
from lab.errors import BadInput

__all__ = [
    "KERNEL",
    "Artifact",
    "Liblxc",
    "NoPlace",
    "cached",
    "ensure",
    "kernel",
    "recipe",
    "released",
    "source_names",
]


def kernel(
    progress: Progress, *, sources: Mapping[str, Path] | None = None, stop: threading.Event | None = None
) -> Artifact:
    """Return the kernel of the lab's nodes, from the cache or built now; see `engine.ensure` for the errors."""
    return ensure(KERNEL, progress, sources=sources, stop=stop)


def released(name: str, release: str | None = None) -> str:
    """Return the spec of a program's release: the one asked for, or that of buildspecs/defaults.yaml.

    Raises:
        BadInput: there is no such spec; the hint lists the releases that there are.
    """
    wanted = release or spec.defaults().releases.get(name)
    if wanted is None:
        raise BadInput(f"buildspecs/defaults.yaml names no release of {name}", "name one: --release RELEASE")
    found = f"{name}-{wanted}"
    if found not in spec.names():
        there = [one.removeprefix(f"{name}-") for one in spec.names() if one.startswith(f"{name}-")]
        raise BadInput(
            f"there is no buildspec of {name} {wanted}",
            f"there are: {', '.join(there)}; another one is a new file in buildspecs/",
        )
    return found


def source_names(name: str) -> set[str]:
    """Return the names of all sources of a buildspec and of what it needs; raises as `ensure` does for bad specs."""
    return {source for plan in closure(name).values() for source in plan.spec.sources}


def recipe() -> list[str]:
    """Return the specs of the recipe's own pair, LXC before LXD; raises as `released` does."""
    return [released(name, release) for name, release in sorted(spec.defaults().recipe.items())]
