"""Whether this machine's virtualisation runs the lab's kernel: found out by booting it, not by asking.

A hypervisor below may offer /dev/kvm and a processor with virtualisation, pass libvirt's checks, and still abort or
hang every guest. Only a kernel that gets as far as its first panic shows that it works.
"""

from __future__ import annotations

import contextlib
import getpass
import grp
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lab import paths, proc
from lab.deadline import time_scale
from lab.proc import CommandFailed

DEVICE = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
QEMU = "qemu-system-x86_64"
LIMIT_S = 5.0
"""A kernel boots to its panic in under one second with KVM, and in two under emulation."""
SIGNS = (b"Linux version", b"Kernel panic")
OTHERWISE = "or take nodes that need none: invoke lab.up --provider uml"


class Outcome(Enum):
    """What came of the attempt to use KVM."""

    USABLE = "usable"
    MISSING = "missing"
    """There is no /dev/kvm."""
    FORBIDDEN = "forbidden"
    """This user may not open it."""
    ABORTS = "aborts"
    """A guest ends at once, without its kernel having said a word."""
    HANGS = "hangs"
    """A guest makes no progress."""


@dataclass(frozen=True)
class Verdict:
    """The outcome, a sentence about it, and what a person can do."""

    outcome: Outcome
    text: str
    cure: str = ""

    @property
    def usable(self) -> bool:
        """Whether guests may be run with KVM."""
        return self.outcome is Outcome.USABLE


def probe(kernel: Path, digest: str) -> Verdict:
    """Return whether KVM runs `kernel` (with the SHA-256 `digest`) on this machine, for this user.

    It takes up to `LIMIT_S`, and no time when this machine has answered since its start.

    Raises:
        HostLacks: QEMU is not installed.
    """
    closed = access()
    if closed is not None:
        return closed
    program = proc.which(QEMU, "qemu-system-x86")
    key, memory = _key(digest, Path(program)), paths.cache() / "kvm.json"
    known = _recall(memory, key)
    if known is None:
        known = boot(program, kernel)
        _remember(memory, key, known)
    return known


def access() -> Verdict | None:
    """Return why this user cannot open /dev/kvm; None: it can be opened, which does not say that it works."""
    try:
        found = DEVICE.stat()
    except OSError:
        return missing(CPUINFO.read_text(encoding="utf-8"))
    if not stat.S_ISCHR(found.st_mode):
        return Verdict(Outcome.MISSING, f"{DEVICE} is no device", f"remove it and run: modprobe kvm; {OTHERWISE}")
    if os.access(DEVICE, os.R_OK | os.W_OK):
        return None
    try:
        group = grp.getgrgid(found.st_gid)
    except KeyError:
        return forbidden(getpass.getuser(), "", (), found.st_mode)
    return forbidden(getpass.getuser(), group.gr_name, group.gr_mem, found.st_mode)


def missing(cpuinfo: str) -> Verdict:
    """Return what it means that there is no /dev/kvm, given the text of /proc/cpuinfo."""
    flags = set(re.findall(r"\b(vmx|svm)\b", cpuinfo))
    if not flags:
        return Verdict(
            Outcome.MISSING,
            "the processor offers no virtualisation",
            "switch VT-x or AMD-V on in the firmware; in a virtual machine, nested virtualisation on its host; "
            + OTHERWISE,
        )
    module = "kvm_intel" if "vmx" in flags else "kvm_amd"
    return Verdict(Outcome.MISSING, f"there is no {DEVICE}", f"as root: modprobe {module}; {OTHERWISE}")


def forbidden(user: str, group: str, members: Collection[str], mode: int) -> Verdict:
    """Return what it means that a user may not open /dev/kvm, which belongs to `group` with these members."""
    if not mode & stat.S_IRGRP or not mode & stat.S_IWGRP or group in ("", "root"):
        cure = f"as root: chgrp kvm {DEVICE} && chmod 660 {DEVICE} && usermod -aG kvm {user}; then log in again"
        return Verdict(Outcome.FORBIDDEN, f"{DEVICE} is for root alone", f"{cure}; {OTHERWISE}")
    if user in members:
        return Verdict(
            Outcome.FORBIDDEN, f"{user} is in the group {group}, but was not when this session began", "log in again"
        )
    return Verdict(
        Outcome.FORBIDDEN,
        f"{user} is not in the group {group}",
        f"as root: usermod -aG {group} {user}; then log in again; {OTHERWISE}",
    )


def boot(program: str, kernel: Path) -> Verdict:
    """Let a guest boot the kernel to the panic that a machine without disks ends in."""
    argv = [program, "-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults"]
    argv += ["-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", str(kernel)]
    argv += ["-append", "console=ttyS0 earlyprintk=serial panic=-1 root=/dev/none"]
    limit_s = LIMIT_S * time_scale()
    try:
        done = proc.run(argv, limit_s=limit_s, check=False)
    except CommandFailed:
        return Verdict(Outcome.HANGS, f"a guest makes no progress in {limit_s:g} s", _broken())
    if done.code == 0 and any(sign in done.stdout for sign in SIGNS):
        return Verdict(Outcome.USABLE, "a guest boots the lab's kernel")
    lines = done.stderr.decode(errors="replace").split("\n")
    said = next((line.strip() for line in lines if line.strip()), "without a word")
    return Verdict(Outcome.ABORTS, f"a guest ends at once: {said}", _broken())


def _broken() -> str:
    return f"ask who runs the machine below for nested virtualisation that works; {OTHERWISE}"


def _key(digest: str, program: Path) -> str:
    """Return what a verdict holds for: kernel, QEMU, patience, and the device since this start of the machine."""
    device, boot_id = DEVICE.stat(), BOOT_ID.read_text(encoding="ascii").strip()
    emulator = [str(program), program.stat().st_mtime_ns]
    parts = [digest, LIMIT_S * time_scale(), boot_id, device.st_rdev, device.st_mtime_ns, *emulator]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _recall(memory: Path, key: str) -> Verdict | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(memory.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return Verdict(Outcome(kept["outcome"]), kept["text"], kept["cure"])
    return None


def _remember(memory: Path, key: str, verdict: Verdict) -> None:
    text = {"key": key, "outcome": verdict.outcome.value, "text": verdict.text, "cure": verdict.cure}
    memory.parent.mkdir(parents=True, exist_ok=True)
    fresh = memory.with_name(f".{memory.name}-{os.getpid()}")
    fresh.write_text(json.dumps(text) + "\n", encoding="utf-8")
    fresh.replace(memory)
