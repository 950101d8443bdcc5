"""Everything that nodes are made of, from the cache, from source, or from a bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lab import build
from lab.errors import BadInput
from lab.hosts.site import Site
from lab.log import Steps
from lab.providers import box, bundle, foreign, hostlibvirt, image, installed, kvm
from lab.providers.base import Hypervisor
from lab.providers.box import Box
from lab.providers.choice import Choice, choose
from lab.providers.plan import Artifacts


@dataclass(frozen=True)
class Ready:
    """What a lab is brought up from, and what its nodes will be."""

    artifacts: Artifacts
    hypervisor: Hypervisor | None
    choice: Choice


def for_lab(
    asked: str | None,
    site: Site,
    progress: Steps,
    packed: str | None = None,
    *,
    libvirt: str | None = None,
    tell: Callable[[str], None],
) -> Ready:
    """Choose a provider, say so, and make what it needs.

    Args:
        asked: the provider's name, if one was asked for.
        packed: a bundle's file or URL: it holds what User-Mode Linux needs.
        libvirt: the kind of libvirt daemon, if one was asked for; it says nothing to User-Mode Linux.
        tell: told which provider and which daemon was taken, and why.

    Raises:
        BadInput: no provider or daemon has that name, or a bundle was given for virtual machines.
        HostLacks: Vagrant or its plugin is missing or too old; the host's daemon, asked for, cannot be used.
        HapairError: as `ensure`.
    """
    bundled = Choice("uml", "that is what a bundle holds") if packed and asked is None else None
    choice = bundled or choose(asked, site, lambda: _probe(site, progress))
    if choice.provider == "uml":
        tell(str(choice))
        return Ready(_with_programs(ensure(progress, packed), site, progress), None, choice)
    daemon = hostlibvirt.choose(libvirt, site.lab.libvirt, hostlibvirt.probe)
    tell(f"{choice}; {daemon}")
    if packed:
        raise BadInput("a bundle holds no box for virtual machines", "leave --bundle out, or take --provider uml")
    installed.check()
    if foreign.is_foreign(site.lab.box):  # refused before anything is built
        foreign.find(site.lab.box, site.lab.box_version)
    made = ensure(progress, box_of=site)
    if made.box is None:
        raise AssertionError("a box was asked for")
    verdict = _probe(site, progress)
    if not verdict.usable:
        tell(f"virtual machines are emulated here, which takes several times as long: {verdict.text}")
    name, version, direct = made.box.name, made.box.version, made.box.direct
    hypervisor = Hypervisor(name, version, kvm=verdict.usable, host=daemon.host, direct=direct)
    return Ready(_with_programs(made, site, progress), hypervisor, choice)


def _with_programs(made: Artifacts, site: Site, progress: Steps) -> Artifacts:
    wanted = site.programs.artifact
    if wanted is None:
        return made
    return replace(made, programs=build.ensure(wanted.spec, progress, liblxc=wanted.liblxc).path)


def _probe(site: Site, progress: Steps) -> kvm.Verdict:
    """Return whether KVM works: tried with the kernel of the lab's own box, for others have theirs in the disk."""
    closed = kvm.access()
    if closed is not None:
        return closed
    named = site.lab.box
    made = box.ensure(progress, box.DEFAULT if foreign.is_foreign(named) else named)
    return kvm.probe(made.kernel, made.kernel_digest)


def _box(site: Site, progress: Steps) -> Box:
    """Return the box that the site names."""
    if not foreign.is_foreign(site.lab.box):
        return box.ensure(progress, site.lab.box)
    added = foreign.find(site.lab.box, site.lab.box_version)
    return foreign.ensure(added, progress, lambda: _probe(site, progress).usable)


@dataclass(frozen=True)
class Cached:
    """What need not be built any more."""

    kernel: bool
    image: bool


def cached() -> Cached:
    """Return what the cache holds for the present buildspec and image inputs."""
    return Cached(kernel=build.cached(build.KERNEL) is not None, image=image.cached())


def ensure(progress: Steps, packed: str | None = None, *, box_of: Site | None = None) -> Artifacts:
    """Return kernel and image; what the cache lacks is built, the two side by side.

    Args:
        packed: a bundle's file or URL: then nothing is built.
        box_of: a site: with the box of its virtual machines, too.

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
            made_box = _box(box_of, progress) if box_of else None
            kernel = building.result()
        except BaseException:
            stop.set()
            raise
    return Artifacts(kernel.path, kernel.sha256, root.path, root.digest, made_box)
