"""Everything that nodes are made of, from the cache, from source, or from a bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lab import build
from lab.log import Steps
from lab.providers import bundle, image
from lab.providers.plan import Artifacts


def ensure(progress: Steps, packed: str | None = None) -> Artifacts:
    """Return kernel and image; what the cache lacks is built, the two side by side.

    Args:
        packed: a bundle's file or URL: then nothing is built.

    Raises:
        HapairError: a build failed, or the bundle is damaged.
    """
    if packed is not None:
        opened = bundle.open_bundle(packed, progress)
        return opened
    with ThreadPoolExecutor(2) as pool:
        kernel = pool.submit(build.kernel, progress)
        root = pool.submit(image.ensure, progress)
        return Artifacts(
            kernel=kernel.result().path,
            kernel_sha256=kernel.result().sha256,
            image=root.result().path,
            image_sha256=root.result().digest,
        )
