"""A machine of somebody else's box, made into a node: booted once by plain QEMU, filled by ssh, and switched off.

It has QEMU's user network, which reaches nothing, and the control machine reaches its sshd through it on loopback. What
it lacks is brought along, so it needs no archive.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shlex
import socket
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import proc
from lab.deadline import Deadline, wait_until
from lab.errors import HapairError, HostLacks, TimedOut
from lab.log import Step
from lab.providers import console, debs
from lab.providers.kvm import QEMU

MEMORY_MB = 1024
BOOT_S, INSTALL_S, OFF_S, COPY_S, COMMAND_S = 300.0, 1200.0, 120.0, 300.0, 60.0
ANSWER_S = 20.0
LOOPBACK = "127.0.0.1"
PLACE = "/var/tmp/hapair-load"  # noqa: S108 - in a machine that nobody else uses
LACKS = frozenset({"lxd"})
"""Packages that Ubuntu does not have: LXD is a snap there, and comes with what is built from source."""
EMULATED = "Nehalem,model=54,-cx16"
"""As in the Vagrantfile: the processor that is quickest to emulate, without what QEMU 7.2 gets wrong.

By its model (INTEL_ATOM_SALTWELL in the kernel's cpu_vuln_whitelist) the kernel takes it for one that does not
speculate, and leaves out what guards against that, which an emulated one pays for; no command line does it here.
"""
DRBD = "8.4."
"""The programs speak to this version of the kernel's module."""
LOOK = "uname -r; dpkg --print-architecture; cat /etc/os-release"
MODULES = "modprobe drbd && modprobe btrfs && cat /sys/module/drbd/version"


@dataclass(frozen=True)
class Login:
    """How to get into a machine by ssh."""

    user: str
    keys: tuple[Path, ...]


@dataclass(frozen=True)
class Load:
    """What is put into a machine: the packages that it shall have, and files for the script `install` among them."""

    packages: tuple[str, ...]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Converted:
    """What is known of a machine that was made a node; `installed` names the packages that it lacked."""

    suite: str
    kernel: str
    installed: tuple[str, ...]
    size_gb: int


def convert(original: Path, login: Login, load: Load, disk: Path, *, kvm: bool, step: Step) -> Converted:
    """Make a disk for nodes of a box's disk, which stays as it is.

    Args:
        disk: the file to make (qcow2); its folder has room for what happens meanwhile.
        kvm: the processor runs the machine; otherwise QEMU emulates one.

    Raises:
        HostLacks: a program or an archive is missing; or the box is no Debian or Ubuntu, or has a kernel without DRBD.
        HapairError: the machine does not answer, or a step in it failed.
    """
    image = proc.which("qemu-img", "qemu-utils")
    with tempfile.TemporaryDirectory(prefix="converting-", dir=disk.parent) as made:
        folder = Path(made)
        overlay = folder / "overlay.qcow2"
        proc.run([image, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", original, overlay], limit_s=COMMAND_S)
        told = json.loads(proc.run([image, "info", "--output=json", overlay], limit_s=COMMAND_S).stdout)
        step.note("booting it")
        with _booted(overlay, folder, login, kvm=kvm) as guest:
            guest.wait_up()
            kernel, machine = _look(guest)
            step.note("downloading what it lacks")
            wanted = [name for name in load.packages if machine.origin == "Debian" or name not in LACKS]
            packages = debs.download(wanted, machine, folder)
            step.note(f"installing {len(packages)} packages")
            _install(guest, load, packages, folder)
            step.note("switching it off")
            guest.switch_off()
        step.note("converting the disk")
        # Not compressed: every boot would pay for it.
        proc.run([image, "convert", "-O", "qcow2", overlay, disk], limit_s=COPY_S)
    names = tuple(path.name.split("_")[0] for path in packages)
    return Converted(machine.suite, kernel, names, math.ceil(int(told["virtual-size"]) / (1 << 30)))


def _look(guest: Guest) -> tuple[str, debs.Target]:
    """Return a machine's kernel, and what apt must know of it.

    Raises:
        HostLacks: it cannot be a node.
    """
    kernel, architecture, os_release = guest.run(LOOK).text.split("\n", 2)
    if guest.run("true", root=True, check=False).code:
        raise HostLacks(f"{guest.login.user} may not become root in it with sudo", "take another box")
    machine = debs.target(os_release, architecture, guest.run("cat /var/lib/dpkg/status").stdout)
    modules = guest.run(MODULES, root=True, check=False)
    if modules.code:
        said = modules.stderr.decode(errors="replace").strip()
        raise HostLacks(f"its kernel {kernel} lacks a module that nodes need: {said}", "take a box with another kernel")
    if not modules.text.startswith(DRBD):
        raise HostLacks(f"its kernel {kernel} has DRBD {modules.text}, nodes need {DRBD}x", "take another box")
    return kernel, machine


def _install(guest: Guest, load: Load, packages: list[Path], folder: Path) -> None:
    archive = folder / "load.tar"
    with tarfile.open(archive, "w") as tar:
        for path in packages:
            tar.add(path, f"packages/{path.name}")
        for name, data in load.files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    guest.put(archive, f"{PLACE}.tar")
    unpack = f"mkdir {PLACE} && tar -x -C {PLACE} --no-same-owner -f {PLACE}.tar && rm {PLACE}.tar"
    guest.run(f"{unpack} && cd {PLACE} && sh ./install", root=True, limit_s=INSTALL_S)


class Guest:
    """A running machine that is reached by ssh at a port of the loopback address."""

    def __init__(self, child: proc.Child, port: int, login: Login, folder: Path) -> None:
        self._child, self._port, self.login, self._folder = child, port, login, folder
        self._keys = [self._private(number, key) for number, key in enumerate(login.keys)]

    def _private(self, number: int, key: Path) -> Path:
        """Copy a key to where only this user can read it: ssh takes no other."""
        copy = self._folder / f"key{number}"
        copy.touch(mode=0o600)
        copy.write_bytes(key.read_bytes())
        return copy

    def _options(self) -> list[str]:
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": f"{ANSWER_S:g}",
            "IdentitiesOnly": "yes",
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
        }
        keys = [word for key in self._keys for word in ("-i", str(key))]
        return ["-F", "none", *keys, *(word for pair in settings.items() for word in ("-o", "=".join(pair)))]

    def run(
        self, command: str, *, root: bool = False, limit_s: float = COMMAND_S, check: bool = True
    ) -> proc.Completed:
        """Run a shell command in the machine."""
        words = f"sudo -n sh -c {shlex.quote(command)}" if root else command
        argv = ["ssh", *self._options(), "-p", str(self._port), f"{self.login.user}@{LOOPBACK}", words]
        done = proc.run(argv, limit_s=limit_s, check=False)
        if check and done.code:
            told = (done.stdout + done.stderr).decode(errors="replace").splitlines()[-proc.LAST_LINES :]
            raise HapairError("\n    ".join([f"in its machine failed: {command}", *told]))
        return done

    def put(self, source: Path, target: str) -> None:
        """Copy a file into the machine."""
        program = proc.which("scp", "openssh-client")
        argv = [program, "-q", *self._options(), "-P", str(self._port), str(source)]
        proc.run([*argv, f"{self.login.user}@{LOOPBACK}:{target}"], limit_s=COPY_S)

    def wait_up(self) -> None:
        """Wait until the machine lets us in.

        Raises:
            HapairError: it ended, or refuses the key.
            TimedOut: it does not answer.
        """
        said = "nothing answered"

        def answers() -> bool:
            nonlocal said
            if self._child.poll() is not None:
                lines = (self._folder / "qemu.log").read_text(errors="replace").strip()
                raise HapairError(f"QEMU ended before its machine was up: {lines or self._child.returncode}")
            with contextlib.suppress(proc.CommandFailed):  # a machine that boots may take a connection and be silent
                done = self.run("true", limit_s=ANSWER_S, check=False)
                said = done.stderr.decode(errors="replace").strip() or said
                if "Permission denied (" in said:
                    raise HapairError(
                        f"its sshd refuses {self.login.user} with the key that such boxes take: {said}",
                        "take a box that Vagrant gets into with its well-known key, or that holds its key",
                    )
                return done.code == 0
            return False

        try:
            wait_until("it answers", answers, Deadline.after(BOOT_S), pause_s=0.5)
        except TimedOut:
            lines = console.tail(self._folder / "console")
            raise TimedOut(
                f"its machine was not reached by ssh in {BOOT_S:g} s ({said})" + (f":\n{lines}" if lines else ""),
                "it must boot by BIOS from one virtio disk, ask for an address by DHCP, and run sshd",
            ) from None

    def switch_off(self) -> None:
        """Switch the machine off in good order.

        Raises:
            TimedOut: it goes on.
        """
        self.run("systemctl poweroff", root=True, check=False)  # the line may be gone before it answers
        wait_until("it is off", lambda: self._child.poll() is not None, Deadline.after(OFF_S), pause_s=0.2)


@contextlib.contextmanager
def _booted(disk: Path, folder: Path, login: Login, *, kvm: bool) -> Iterator[Guest]:
    """Let QEMU run a machine from a disk until the context ends."""
    proc.which("ssh", "openssh-client")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as free:
        free.bind((LOOPBACK, 0))
        port = int(free.getsockname()[1])
    log = folder / "qemu.log"
    with log.open("wb") as sink:
        child = proc.spawn(qemu(disk, folder / "console", port, kvm=kvm), stdout=sink, stderr=sink)
    try:
        yield Guest(child, port, login, folder)
    finally:
        proc.kill_group(child)
        child.wait()


def qemu(disk: Path, serial: Path, port: int, *, kvm: bool) -> list[str]:
    """Return the command that runs a machine as Vagrant would, with its sshd at a port of the loopback address."""
    processor = ("-accel", "kvm", "-cpu", "host") if kvm else ("-accel", "tcg", "-cpu", EMULATED)
    return [
        *(proc.which("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", proc.which(QEMU, "qemu-system-x86")),
        # GRUB hangs in SeaBIOS's system management mode when QEMU 7.2 emulates this machine.
        *("-machine", "pc,smm=off", *processor, "-m", str(MEMORY_MB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"),
        *("-serial", f"file:{_plain(serial)}"),
        # What is lost when QEMU is killed does not matter: then all of it is thrown away.
        *("-drive", f"file={_plain(disk)},format=qcow2,if=virtio,cache=unsafe,discard=unmap"),
        *("-netdev", f"user,id=mgmt,restrict=on,hostfwd=tcp:{LOOPBACK}:{port}-:22"),
        # Where vagrant-libvirt has it: boxes that name cards by their slot expect it there.
        *("-device", "virtio-net-pci,netdev=mgmt,bus=pci.0,addr=0x5,romfile="),
        *("-device", "virtio-rng-pci"),
    ]


def _plain(path: Path) -> str:
    """Return a path as it stands in an option of QEMU's, where a comma ends a value."""
    return re.sub(",", ",,", str(path))
