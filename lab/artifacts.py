"""Everything that nodes are made of, from the cache, from source, or from a bundle."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lab import build
from lab.log import Steps
from lab.providers import bundle, image
from lab.providers.plan import Artifacts


@dataclass(frozen=True)
class Cached:
    """What need not be built any more."""

    kernel: bool
    image: bool


def cached() -> Cached:
    """Return what the cache holds for the present buildspec and image inputs."""
    return Cached(kernel=build.cached(build.KERNEL) is not None, image=image.cached())


def ensure(progress: Steps, packed: str | None = None) -> Artifacts:
    """Return kernel and image; what the cache lacks is built, the two side by side.

    Args:
        packed: a bundle's file or URL: then nothing is built.

    Raises:
        HapairError: a build failed, or the bundle is damaged.
    """
    if packed is not None:
        return bundle.open_bundle(packed, progress)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(build.kernel, progress, stop=stop)
        try:
            # In this thread, where Ctrl-C arrives.
            root = image.ensure(progress)
            kernel = building.result()
        except BaseException:
            stop.set()
            raise
    return Artifacts(kernel.path, kernel.sha256, root.path, root.digest)
