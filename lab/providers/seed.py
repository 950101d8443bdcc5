"""The pair's seed: the disks of a pair that was provisioned once, for real, and shut down cleanly.

What provisioning leaves on the disks depends on kernel, image, rendered files and disk sizes only, so it is kept in
the cache under a digest of those; bringing up or resetting a lab then copies a few sparse files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from lab import paths
from lab.errors import HapairError, HostLacks
from lab.hosts.site import Site
from lab.log import Steps
from lab.providers import client
from lab.providers.base import LabPlan
from lab.providers.copying import copy_sparse
from lab.providers.provision import provision

VERSION = 2
"""Raised whenever what `provision` leaves on the disks changes, so that old seeds are not used."""

COMPLETE = "complete"


@dataclass(frozen=True)
class Inputs:
    """All that a seed depends on."""

    site: Site
    trees: Mapping[str, bytes]
    """The tar archive of the rendered files of each of the pair's nodes."""
    plan: LabPlan
    digests: Mapping[str, str]
    """SHA-256 of kernel and image."""

    @property
    def key(self) -> str:
        """Return the cache key: the same inputs give the same key, on any machine."""
        sizes = {node.name: [disk.size_bytes for disk in node.disks] for node in self.plan.nodes}
        trees = {name: hashlib.sha256(tree).hexdigest() for name, tree in self.trees.items()}
        text = json.dumps([VERSION, self.site.digest, trees, sizes, dict(self.digests)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def ensure(inputs: Inputs, progress: Steps) -> Path:
    """Return the folder of the seed, provisioning a pair first when the cache has none.

    Raises:
        HapairError: a node did not come up, or a step of the provisioning failed on it; the seed's consoles are kept
            and named.
    """
    final = paths.cache() / "seeds" / inputs.key
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.parent / f"{inputs.key}.lock", is_singleton=True):
        if not (final / COMPLETE).exists():
            with progress.step("provisioning the pair once", estimate_s=60) as step, _scratch(final) as scratch:
                lab = client.start(inputs.plan, scratch)
                provision(lab, inputs.site, inputs.trees, step.note)
                lab.stop()
                keep(inputs, lambda final: copy(_disks(inputs.plan), scratch, final))
    return final


def find(key: str) -> Path:
    """Return the folder of a seed by its key.

    Raises:
        HostLacks: it is in the cache no more.
    """
    found = paths.cache() / "seeds" / key
    if not (found / COMPLETE).exists():
        raise HostLacks(f"the seed {key} of this lab is in the cache no more", "invoke lab.destroy, then invoke lab.up")
    return found


def kept(inputs: Inputs) -> Path | None:
    """Return the folder of the seed, if the cache has it."""
    folder = paths.cache() / "seeds" / inputs.key
    return folder if (folder / COMPLETE).exists() else None


def keep(inputs: Inputs, fill: Callable[[Path], None]) -> None:
    """Let `fill` put the seed's disks into the cache; nothing may write to them meanwhile."""
    final = paths.cache() / "seeds" / inputs.key
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.parent / f"{inputs.key}.lock", is_singleton=True):
        shutil.rmtree(final, ignore_errors=True)
        final.mkdir(mode=0o700)  # the nodes' configuration on the disks has a secret
        fill(final)
        # Written last: a seed without it was interrupted.
        (final / COMPLETE).touch()


def copy(names: Sequence[str], source: Path, target: Path) -> None:
    """Copy files from one folder to another; what is there is replaced."""
    for name in names:
        (target / name).parent.mkdir(exist_ok=True)
        copy_sparse(source / name, target / name)


def plant(plan: LabPlan, seed: Path, folder: Path) -> None:
    """Copy a seed's disks to where the nodes of `plan` expect them in a lab's folder; what is there is replaced."""
    copy(_disks(plan), seed, folder)


@contextlib.contextmanager
def _scratch(final: Path) -> Iterator[Path]:
    """A folder for one provisioning, removed again; its consoles stay in `failed` unless all went well."""
    scratch = final.with_name(f"{final.name}-part")
    client.destroy(scratch)
    try:
        yield scratch
    except BaseException as error:
        failed = final.parent / "failed" / final.name
        shutil.rmtree(failed, ignore_errors=True)
        failed.mkdir(mode=0o700, parents=True)
        for console in scratch.glob("*.console"):
            shutil.copy(console, failed)
        if isinstance(error, HapairError):
            error.hint = f"{error.hint}\n  the consoles are in {failed}".strip()
        raise
    finally:
        client.destroy(scratch)


def _disks(plan: LabPlan) -> list[str]:
    names = [f"{node.name}.cow" for node in plan.nodes]
    return names + [disk.file for node in plan.nodes for disk in node.disks]
