"""Which Vagrant and which plugin are installed, and how to get them; told without Vagrant, which takes its time."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lab import proc
from lab.errors import HostLacks

NEEDED = {"vagrant": (2, 3), "vagrant-libvirt": (0, 11)}
"""The oldest versions that labs were brought up with."""
OS_RELEASE = Path("/etc/os-release")
OWN_RUBY = Path("/opt/vagrant")
"""Where HashiCorp's package puts Vagrant and a Ruby of its own, which does not see plugins that Debian packages."""
QUERY_S = 20.0


@dataclass(frozen=True)
class Distribution:
    """A distribution's release, as os-release(5) tells it."""

    id: str
    like: tuple[str, ...]
    version: str

    @property
    def ubuntu(self) -> bool:
        """Whether it is Ubuntu or made from it: the archive has no Vagrant (24.04), or one that is too old (22.04)."""
        return "ubuntu" in (self.id, *self.like)


def os_release(text: str) -> dict[str, str]:
    """Read os-release(5): what each name in it stands for."""
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def distribution(text: str) -> Distribution:
    """Read os-release(5); what is missing in it is empty."""
    values = os_release(text)
    return Distribution(values.get("ID", ""), tuple(values.get("ID_LIKE", "").split()), values.get("VERSION_ID", ""))


def this() -> Distribution:
    """Return the distribution of this machine."""
    return distribution(OS_RELEASE.read_text(encoding="utf-8") if OS_RELEASE.exists() else "")


def cure(what: str, at: Distribution) -> str:
    """Return how to install `vagrant` or `vagrant-libvirt` there."""
    if not at.ubuntu:
        return f"apt-get install {what}"
    if what == "vagrant":
        return "Ubuntu has none: add HashiCorp's archive (docs/vagrant.md), then apt-get install vagrant"
    return "apt-get install gcc libvirt-dev make ruby-dev, then: vagrant plugin install vagrant-libvirt"


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: (2, 3, 4) of "1:2.3.4+dfsg-1"."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


@dataclass(frozen=True)
class Found:
    """Versions as their packagers write them; empty: not installed."""

    vagrant: str
    plugin: str


def find() -> Found:
    """Look for Vagrant and its plugin vagrant-libvirt."""
    program = shutil.which("vagrant")
    if program is None:
        return Found("", "")
    packaged = _packaged(("vagrant", "vagrant-libvirt"))
    gem = _gem(home())
    if Path(program).resolve().is_relative_to(OWN_RUBY):
        packaged.pop("vagrant-libvirt", None)
    version = packaged.get("vagrant") or _asked(program)
    return Found(version, gem or packaged.get("vagrant-libvirt", ""))


def check() -> Found:
    """Return what is installed.

    Raises:
        HostLacks: Vagrant or its plugin is missing or too old; the hint says what to install.
    """
    found = find()
    for what, version in (("vagrant", found.vagrant), ("vagrant-libvirt", found.plugin)):
        lack = lacking(what, version)
        if lack:
            raise HostLacks(lack, cure(what, this()))
    return found


def lacking(what: str, version: str) -> str:
    """Return what is wrong with a version of `vagrant` or `vagrant-libvirt`; empty: nothing."""
    if not version:
        return f"{what} is not installed"
    if numbers(version) < NEEDED[what]:
        return f"{what} {version} is too old, {'.'.join(map(str, NEEDED[what]))} is needed"
    return ""


def home() -> Path:
    """Return the folder where Vagrant keeps this user's plugins and boxes."""
    return Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d")


def flat(box: str) -> str:
    """Return what Vagrant makes of a box's name where it must be one part of a path."""
    return box.replace("/", "-VAGRANTSLASH-")


def box_folder(name: str) -> Path:
    """Return the folder where this user's Vagrant keeps the box `name`, if it has it."""
    return home() / "boxes" / flat(name)


def boxes(name: str) -> list[str]:
    """Return the versions of the box `name` that were added to this user's Vagrant, the newest last."""
    return sorted((path.name for path in box_folder(name).glob("*/") if path.is_dir()), key=numbers)


def _packaged(packages: Collection[str]) -> dict[str, str]:
    """Return the versions of those packages that dpkg has installed; none where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return {}
    form = "${db:Status-Status} ${Package} ${Version}\\n"
    done = proc.run(["dpkg-query", "-W", "-f", form, *packages], limit_s=QUERY_S, check=False)
    rows = [line.split() for line in done.text.splitlines()]
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def _gem(folder: Path) -> str:
    """Return the version of the plugin that `vagrant plugin install` has put into Vagrant's home."""
    try:
        plugin = json.loads((folder / "plugins.json").read_text(encoding="utf-8"))["installed"]["vagrant-libvirt"]
        return str(plugin.get("installed_gem_version") or plugin.get("gem_version") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""


def _asked(program: str) -> str:
    return proc.run([program, "--version"], limit_s=QUERY_S, check=False).text.removeprefix("Vagrant ").strip()
