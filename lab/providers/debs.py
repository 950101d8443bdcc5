"""The packages that a machine without a network lacks: found out and downloaded by the control machine's own apt.

apt works in a folder of its own, with the machine's list of packages in place of this machine's; archives, keys and
proxies are those of this machine's settings.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import proc
from lab.errors import HapairError, HostLacks
from lab.providers import bootstrap, installed

UPDATE_S, DOWNLOAD_S = 180.0, 900.0
TRUSTED = Path("/etc/apt/trusted.gpg.d")
KEYRINGS = Path("/usr/share/keyrings")
ORIGINS = {"debian": ("Debian", ("main",)), "ubuntu": ("Ubuntu", ("main", "universe"))}
"""By the ID of os-release(5): the archive's origin, and the components that the lab's packages are in."""


@dataclass(frozen=True)
class Target:
    """A machine as apt sees it: its release, and dpkg's list of what is installed (/var/lib/dpkg/status)."""

    suite: str
    origin: str
    components: tuple[str, ...]
    status: bytes


def target(os_release: str, architecture: str, status: bytes) -> Target:
    """Return a machine, by the text of its /etc/os-release.

    Raises:
        HostLacks: it is no release of Debian or Ubuntu for this processor.
    """
    values = installed.os_release(os_release)
    name, suite = values.get("ID", ""), values.get("VERSION_CODENAME", "")
    called = values.get("PRETTY_NAME") or name or "of an unknown system"
    if name not in ORIGINS or not suite:
        raise HostLacks(f"it is {called}; nodes are made of Debian or Ubuntu", "take a box of one of them")
    if architecture != bootstrap.ARCHITECTURE:
        raise HostLacks(f"it is {called} for {architecture}; nodes are {bootstrap.ARCHITECTURE}", "take another box")
    origin, components = ORIGINS[name]
    return Target(suite, origin, components, status)


def download(packages: Sequence[str], machine: Target, folder: Path) -> list[Path]:
    """Download what a machine lacks of `packages`, and of what they need, into `folder`; apt checks every signature.

    Raises:
        HostLacks: this machine's apt knows no archive of the release, or none answers.
        HapairError: the machine's packages and the archive's do not go together; the message is apt's.
    """
    sources = bootstrap.mirrors(machine.suite, machine.origin, machine.components)
    what = f"{machine.origin} {machine.suite}"
    if not sources:
        raise HostLacks(
            f"this machine's apt knows no archive of {what}", "add one to its sources, and its keyring to trusted.gpg.d"
        )
    options = _private(folder / "apt", machine, sources)
    env = {name: os.environ[name] for name in bootstrap.PROXIES if name in os.environ}

    def apt(*arguments: str, limit_s: float) -> proc.Completed:
        return proc.run(["apt-get", *options, *arguments], limit_s=limit_s, env=env, check=False)

    done = apt("update", "--error-on=any", limit_s=UPDATE_S)
    if done.code:
        raise HostLacks(f"no archive of {what} answers: {_complaint(done)}", "connect this machine, or name a mirror")
    flags = ("--download-only", "--yes", "--no-install-recommends", "--no-upgrade", "--no-remove")
    done = apt("install", *flags, *packages, limit_s=DOWNLOAD_S)
    if done.code:
        raise HapairError(f"apt cannot add the packages of a node to it: {_complaint(done)}", "take a newer box")
    return sorted((folder / "apt" / "cache" / "archives").glob("*.deb"))


def _private(root: Path, machine: Target, sources: Sequence[str]) -> list[str]:
    """Lay out a root of apt's for a machine, and return the options that make apt use it."""
    for part in ("state/lists/partial", "cache/archives/partial", "trusted"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").write_bytes(machine.status)
    (root / "sources.list").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    named = [KEYRINGS / f"{machine.origin.lower()}-archive-keyring.{suffix}" for suffix in ("gpg", "pgp")]
    for key in [*TRUSTED.glob("*"), *named]:
        if key.is_file():
            (root / "trusted" / key.with_suffix(key.suffix.replace("pgp", "gpg")).name).symlink_to(key)
    settings = {
        "Dir::Etc::sourcelist": str(root / "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::trustedparts": str(root / "trusted"),
        "Dir::State": str(root / "state"),
        "Dir::State::status": str(root / "status"),
        "Dir::Cache": str(root / "cache"),
        "APT::Architecture": bootstrap.ARCHITECTURE,
        "APT::Architectures": bootstrap.ARCHITECTURE,
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
    }
    # Root's apt would switch to a user of its own, who may not enter the folder.
    settings |= {"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}
    return ["-q", *(word for pair in settings.items() for word in ("-o", "=".join(pair)))]


def _complaint(done: proc.Completed) -> str:
    text = (done.stdout + done.stderr).decode(errors="replace")
    told = [line for line in text.splitlines() if line.startswith(("E:", "Err:", " ")) and line.strip()]
    return "; ".join(line.strip() for line in told[-6:]) or f"apt-get ended with {done.code}"
