"""Builds the lock of a resource from the site's configuration."""

from __future__ import annotations

import functools

from hapair.config import Config, Store
from hapair.fence.base import Backend, BadStore, Found, Reading, Writing, Written
from hapair.fencing import Fence
from hapair.paths import Paths


@functools.lru_cache(maxsize=8)
def open_store(store: Store, paths: Paths) -> Backend:
    """Return the site's store, the same one each time: its connections stay warm. An SDK is imported only here.

    Raises:
        BadStore: credentials, certificates or the SDK are missing or cannot be used.
    """
    if store.kind == "http":
        from hapair.fence.http import HttpStore  # noqa: PLC0415 - only what this site needs

        return HttpStore(store.url, credentials=store.credentials, ca=store.ca)
    from hapair.fence import sdk  # noqa: PLC0415 - as above

    sdk.add(store.kind, paths.sdk)
    try:
        if store.kind == "gcs":
            from hapair.fence.gcs import GcsStore  # noqa: PLC0415 - as above

            return GcsStore(
                store.bucket, prefix=store.prefix, endpoint=store.endpoint, credentials=store.credentials, ca=store.ca
            )
        from hapair.fence.s3 import S3Store  # noqa: PLC0415 - as above
    except ImportError as bad:
        raise BadStore(f"the SDK for the store kind {store.kind} is incomplete: {bad}") from None
    return S3Store(
        store.bucket,
        credentials=store.credentials,
        timeout_s=store.timeout_s,
        prefix=store.prefix,
        endpoint=store.endpoint,
        region=store.region,
        ca=store.ca,
    )


class SiteStore:
    """A `Backend`: the site's store, opened when it is first needed.

    One that cannot be opened counts as unavailable and is tried again at the next call: an agent that is started
    beside a running resource must care for it, whatever has become of a file meanwhile.
    """

    def __init__(self, store: Store, paths: Paths) -> None:
        self._store, self._paths = store, paths

    def read(self, name: str, limit_s: float) -> Reading:
        """Read, or tell why the store cannot be used."""
        try:
            return open_store(self._store, self._paths).read(name, limit_s)
        except BadStore as bad:
            return Reading(Found.UNAVAILABLE, text=str(bad))

    def write(self, name: str, body: bytes, tag: str | None, limit_s: float) -> Writing:
        """Write, or tell why the store cannot be used."""
        try:
            return open_store(self._store, self._paths).write(name, body, tag, limit_s)
        except BadStore as bad:
            return Writing(Written.UNCLEAR, str(bad))


def fence_of(config: Config, resource: str, paths: Paths) -> Fence:
    """Return the lock of a resource, as this node reaches it."""
    return Fence(
        resource=resource,
        name=config.lock_name(resource),
        me=config.me.uuid,
        peer=config.other.uuid,
        backend=SiteStore(config.store, paths),
        paths=paths,
        timeout_s=config.store.timeout_s,
    )
