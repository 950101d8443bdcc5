"""Holds a store against the one thing that a fence store must do: honour conditions (F11)."""

from __future__ import annotations

import os

from hapair.fence.base import Backend, Found, Written

ATTEMPTS = 5
"""The peer may probe at the same moment: its writes look like conflicts of ours."""


def conditions_hold(backend: Backend, name: str, limit_s: float) -> str:
    """Write an object beside the locks under conditions that hold and that do not; return what is wrong, or "".

    Args:
        name: of the probe's own object; it stays in the store.
        limit_s: for each request.
    """
    first = backend.write(name, _body(), None, limit_s)
    if first.written is Written.UNCLEAR:
        return f"the store cannot be probed: {first.text}"
    if backend.write(name, _body(), None, limit_s).written is Written.YES:
        return "the store ignores conditions: it made an object twice; it cannot keep a lock"
    for _ in range(ATTEMPTS):
        seen = backend.read(name, limit_s)
        if seen.found is not Found.OBJECT:
            return f"the store cannot be probed: {seen.text}"
        wrote = backend.write(name, _body(), seen.tag, limit_s)
        if wrote.written is Written.UNCLEAR:
            return f"the store cannot be probed: {wrote.text}"
        if wrote.written is Written.YES:
            return _stale(backend, name, seen.tag, limit_s)
    return "the store cannot be probed: its condition for the version just read never holds"


def _stale(backend: Backend, name: str, tag: str, limit_s: float) -> str:
    """Write on the version `tag`, which is no more."""
    if backend.write(name, _body(), tag, limit_s).written is Written.YES:
        return "the store ignores conditions: it wrote on a version that is no more; it cannot keep a lock"
    seen = backend.read(name, limit_s)
    if seen.found is not Found.OBJECT:
        return f"the store cannot be probed: {seen.text}"
    if seen.tag == tag:
        return "the store gives two versions the same tag: it cannot keep a lock"
    return ""


def _body() -> bytes:
    return b'{"probe": "%s"}' % os.urandom(16).hex().encode()
