"""The handlers' work when no agent does it: the fence decision, and what needs no decision."""

from __future__ import annotations

import contextlib
import os
import time

from hapair import disk_error, fence_peer
from hapair.config import BadConfig, load
from hapair.decisions import DecisionLog
from hapair.fence.site import fence_of
from hapair.fencing import Fence, replace_file
from hapair.guards import Guards
from hapair.paths import Paths
from hapair.removal import Remover

LOG_LIMIT_S = 0.1
DONE, FAILED = 0, 1


def run(name: str, resource: str, began: float, paths: Paths | None = None) -> int:
    """Run a handler here; `began` is when the kernel's call arrived (monotonic seconds)."""
    paths = paths or Paths()
    log = DecisionLog(paths.decisions, journal=False)
    remover = Remover(paths, log)
    if name == "fence-peer":
        return _fence(resource, began, paths, log, remover)
    if name == "local-io-error":
        _disk_failed(resource, paths, log, remover)
    elif name == "pri-on-incon-degr":
        remover.remove(resource, "F5", "Primary without any current data")
    elif name == "split-brain":
        with contextlib.suppress(OSError):
            replace_file(paths.split_brain(resource), b"", durable=False)
        _alert(f"hapair: split brain of {resource}: nothing is discarded, a person must choose")
        log.add(resource, rule="F12", action="alert", outcome="split brain", why="DRBD found diverged replicas")
    log.drain(LOG_LIMIT_S)
    return DONE


def _disk_failed(resource: str, paths: Paths, log: DecisionLog, remover: Remover) -> None:
    """F4: the mark first, and on the disk, so that this replica never claims after a restart."""
    try:
        replace_file(paths.tombstone(resource), b"local-io-error", durable=True)
    except OSError as bad:
        remover.remove(resource, "F4", f"the local disk failed, and no tombstone can be written: {bad}")
        return
    _alert(f"hapair: a disk of {resource} failed: replace it; it claims nothing until `hapair clear-tombstone`")
    try:
        fence, guards = _parts(resource, paths)
    except (BadConfig, KeyError, ValueError) as bad:
        remover.remove(resource, "F4", f"the local disk failed; configuration: {bad}")
        return
    done = disk_error.decide(fence, guards, lambda rule, why: remover.remove(resource, rule, why))
    log.add(resource, rule="F4", action="local-io-error", outcome="tombstone written", why=done)


def _parts(resource: str, paths: Paths) -> tuple[Fence, Guards]:
    """Return the resource's lock and what objects to a change of it.

    Raises:
        BadConfig, KeyError, ValueError: the configuration does not know it.
    """
    config = load(paths.config)
    return fence_of(config, resource, paths), Guards(paths, resource, config.resources[resource].minor)


def _fence(resource: str, began: float, paths: Paths, log: DecisionLog, remover: Remover) -> int:
    try:
        config = load(paths.config)
        guards = Guards(paths, resource, config.resources[resource].minor)
        fence = fence_of(config, resource, paths)
    except (BadConfig, KeyError, ValueError) as bad:
        log.add(resource, rule="F1", action="fence-peer", outcome="exit 1", why=f"configuration: {bad}")
        log.drain(LOG_LIMIT_S)
        return FAILED
    until = began + config.times.selffence_s
    code, text = fence_peer.decide(fence, guards, until, lambda rule, why: remover.remove(resource, rule, why))
    took_s = time.monotonic() - began
    log.add(resource, rule="F1", action="fence-peer without agent", outcome=f"exit {code}", why=text, took_s=took_s)
    log.drain(LOG_LIMIT_S)
    return code


def _alert(text: str) -> None:
    """Say it in the kernel log, and so in the journal; a handler's own output goes nowhere."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, f"<2>{text}\n".encode())
        finally:
            os.close(fd)
