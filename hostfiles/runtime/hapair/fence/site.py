"""Builds the lock of a resource from the site's configuration."""

from __future__ import annotations

from hapair.config import Config
from hapair.fence.http import HttpStore
from hapair.fencing import Fence
from hapair.paths import Paths


def fence_of(config: Config, resource: str, paths: Paths) -> Fence:
    """Return the lock of a resource, as this node reaches it."""
    return Fence(
        resource=resource,
        name=config.lock_name(resource),
        me=config.me.uuid,
        peer=config.other.uuid,
        backend=HttpStore(config.store.url),
        paths=paths,
        timeout_s=config.store.timeout_s,
    )
