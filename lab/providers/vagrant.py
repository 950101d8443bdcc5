"""The only place that talks to Vagrant: makes the virtual machines of a lab from their box, with python-vagrant.

Each lab has a Vagrant home of its own below its folder, which borrows the user's plugins and the box. So Vagrant's own
books (its index of machines, its locks) begin and end with the lab.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths, proc
from lab.errors import HapairError
from lab.providers import installed, libvirt
from lab.providers.base import Hypervisor
from lab.providers.box import DISK, Box
from lab.providers.supervisor import PLAN

if TYPE_CHECKING:
    import vagrant

HOME, DOTFILES, LOG, COMPLAINTS = "vagrant-home", "vagrant", "vagrant.log", "vagrant.err"
ANSWER_S = 5.0
BORROWED = ("gems", "plugins.json", "rgloader", "setup_version", "insecure_private_key")
"""What a Vagrant home takes from the user's: the installed plugins and what belongs to them."""
DIED = "libvirtd died meanwhile: run the command again; libvirtd.log in the lab's folder may say why"
EXPLAINED = (
    (re.compile(r"machine .* is locked|another process is already executing", re.IGNORECASE),
     "another vagrant command works on this lab: wait for its end"),
    (re.compile(r"Address already in use|Could not set up host forwarding rule"),
     "another program has taken a port of this lab: run the command again, it takes others"),
    (re.compile(r"Failed to connect socket|End of file while reading|libvirt.*(closed|broken|reset)", re.IGNORECASE),
     DIED),
    (re.compile(r"(Could not access KVM kernel module|failed to initialize kvm)", re.IGNORECASE),
     "this machine's /dev/kvm does not work: invoke lab.doctor says more; without it: --provider uml"),
    (re.compile(r"provider .* could not be found|plugin.*not installed", re.IGNORECASE),
     "install the plugin: apt-get install vagrant-libvirt, or vagrant plugin install vagrant-libvirt"),
    (re.compile(r"No space left on device"), "make room on the disk that the message names"),
)  # fmt: skip


def prepare(folder: Path, box: Box, hypervisor: Hypervisor) -> None:
    """Lay out what Vagrant will look for in a lab's folder: its home, with the box in it under the plan's name."""
    home = folder / HOME
    place = home / "boxes" / installed.flat(hypervisor.box) / hypervisor.version
    place.mkdir(parents=True, exist_ok=True)
    (place / "libvirt").symlink_to(box.folder)
    theirs = installed.home()
    for name in BORROWED:
        if (theirs / name).exists():
            (home / name).symlink_to(theirs / name)


def volume(hypervisor: Hypervisor) -> str:
    """Return the name of the box's disk in the pool: one that is there, Vagrant's plugin does not upload."""
    # As vagrant-libvirt makes it (action/handle_box_image.rb).
    return f"{installed.flat(hypervisor.box)}_vagrant_box_image_{hypervisor.version}_{DISK}"


def up(folder: Path, note: Callable[[str], None]) -> None:
    """Let Vagrant make and start the machines of a lab's plan, and wait until it has reached each of them by ssh.

    Raises:
        HapairError: Vagrant failed; the text has its last lines, the hint the cure where it is known.
    """
    try:
        with (folder / LOG).open("a") as log:
            for line in _vagrant(folder).up(provider="libvirt", stream_output=True):
                log.write(line)
                if text := line.strip().removeprefix("==> "):
                    note(text)
    except Exception as error:  # python-vagrant raises what subprocess raises
        raise _failed(folder, "vagrant up") from error


def environment(folder: Path) -> Mapping[str, str]:
    """Return the variables with which `vagrant` finds a lab, in the project's folder."""
    return {
        "HAPAIR_PLAN": str(folder / PLAN),
        "HAPAIR_LIBVIRT_URI": (folder / libvirt.URI_FILE).read_text(),
        "VAGRANT_HOME": str(folder / HOME),
        "VAGRANT_DOTFILE_PATH": str(folder / DOTFILES),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    }


def _vagrant(folder: Path) -> vagrant.Vagrant:
    # Not before it is needed: where Vagrant is not installed, importing it prints a complaint, whatever the command.
    import vagrant  # noqa: PLC0415 - see above

    # Apart from the rest, which is read while more of it comes: why Vagrant ended would stand anywhere in between.
    complaints = vagrant.make_file_cm(str(folder / COMPLAINTS), mode="w")
    return vagrant.Vagrant(
        root=str(paths.PROJECT), env=proc.environment(environment(folder)), err_cm=complaints, quiet_stderr=False
    )


def _failed(folder: Path, what: str) -> HapairError:
    told = [file.read_text(errors="replace") for name in (LOG, COMPLAINTS) if (file := folder / name).exists()]
    kept = ([line for line in text.splitlines() if line.strip()][-30:] for text in told)
    said = "\n  ".join(line for lines in kept for line in lines if "rubygems" not in line and "vendor_ruby" not in line)
    hint = next((cure for pattern, cure in EXPLAINED if pattern.search(said)), "")
    if not hint:  # Vagrant may end without a word of it when its daemon does
        hint = "see what it says above" if _answers(folder) else DIED
    return HapairError(f"{what} failed:\n  {said}", hint)


def _answers(folder: Path) -> bool:
    try:
        return bool(libvirt.virsh((folder / libvirt.URI_FILE).read_text(), "uri", limit_s=ANSWER_S))
    except (HapairError, OSError):
        return False
