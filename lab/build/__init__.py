"""Artifacts from buildspecs: `kernel` for the lab, `engine.ensure` for any other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from lab.build.engine import cached, ensure
from lab.build.manifest import Artifact
from lab.build.progress import Progress

__all__ = ["KERNEL", "Artifact", "cached", "ensure", "kernel"]

KERNEL = "linux-uml"


def kernel(
    progress: Progress, *, sources: Mapping[str, Path] | None = None, stop: threading.Event | None = None
) -> Artifact:
    """Return the kernel of the lab's nodes, from the cache or built now; see `engine.ensure` for the errors."""
    return ensure(KERNEL, progress, sources=sources, stop=stop)
