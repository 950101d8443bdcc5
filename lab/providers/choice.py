"""Which provider a lab takes, and why: what was asked for, else the site file's, else the best that works here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

from lab.errors import BadInput
from lab.hosts.site import Site
from lab.providers import kvm
from lab.providers.base import PROVIDERS, Hypervisor, Provider

PROGRAMS = ("vagrant", "virsh", "libvirtd", "qemu-system-x86_64")
EMULATION_SCALE = "4"
"""What emulated nodes stretch every time limit by, unless HAPAIR_TIME_SCALE says otherwise."""


@dataclass(frozen=True)
class Choice:
    """A provider, why it was taken, and the command that takes the other."""

    provider: Provider
    why: str

    @property
    def other(self) -> str:
        """The command for the other provider."""
        other = next(name for name in PROVIDERS if name != self.provider)
        return f"invoke lab.up --provider {other}"

    def __str__(self) -> str:
        return f"provider {self.provider}: {self.why} (the other: {self.other})"


def choose(asked: str | None, site: Site, probe: Callable[[], kvm.Verdict]) -> Choice:
    """Return the provider for a lab.

    Args:
        asked: what the command line says.
        probe: tells whether virtual machines run at full speed here; only called when it decides.

    Raises:
        BadInput: no provider has that name.
    """
    if asked is not None:
        return Choice(_named(asked), "you asked for it")
    if site.lab.provider != "auto":
        return Choice(site.lab.provider, "the site file says so")
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return Choice("uml", f"Vagrant's machines would need {', '.join(missing)}, not installed here")
    verdict = probe()
    if verdict.usable:
        return Choice("vagrant", "Vagrant is installed, and this machine runs virtual machines at full speed")
    return Choice("uml", f"virtual machines would only be emulated here: {verdict.text}")


def check(asked: str | None) -> None:
    """Refuse a name that no provider has (BadInput)."""
    if asked is not None:
        _named(asked)


def _named(name: str) -> Provider:
    for provider in PROVIDERS:
        if name == provider:
            return provider
    raise BadInput(f"no provider is called {name!r}", f"take one of: {', '.join(PROVIDERS)}")


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def stretch(machines: Hypervisor | None) -> None:
    """Give emulated machines the time that they need, unless the user has said how much."""
    if machines and not machines.kvm:
        os.environ.setdefault("HAPAIR_TIME_SCALE", EMULATION_SCALE)
