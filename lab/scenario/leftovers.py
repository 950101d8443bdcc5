"""What a lab may leave on a machine: looked at before it comes and after it has gone, and compared.

Processes and their listening sockets count when they descend from this program, whose orphans come to it while
`adopting` lasts; so other people's work does not disturb. Everything else is the machine's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from lab import paths, proc
from lab.providers import installed

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
COMMAND_S = 20.0
LIBVIRT_SOCKETS = {
    "qemu:///system": Path("/run/libvirt/libvirt-sock"),
    "qemu:///session": Path(os.environ.get("XDG_RUNTIME_DIR", "/run/user/0")) / "libvirt" / "libvirt-sock",
}
"""Of the host's daemons: one that does not listen is not asked, for asking starts it."""
NAMESPACES = ("/run/netns", "/var/run/netns")
OURS = re.compile(r"hapair|vagrant|libvirt|qemu", re.IGNORECASE)
LISTENING = "0A"  # state of a TCP socket in /proc/net/tcp (include/net/tcp_states.h)


@dataclass(frozen=True)
class Surroundings:
    """What there is on the machine, each thing by a text that names it."""

    processes: frozenset[str]
    sockets: frozenset[str]
    namespaces: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    libvirt: frozenset[str]
    entries: frozenset[str]
    """In the folders that labs use beside their own: memory, temporary files, sockets, Vagrant's home."""


def look() -> Surroundings:
    """Return what there is just now."""
    family = _descendants(os.getpid())
    return Surroundings(
        processes=frozenset(f"{pid} {_command(pid)}" for pid in family),
        sockets=frozenset(_sockets([os.getpid(), *family])),
        namespaces=frozenset(_namespaces(family)),
        mounts=frozenset(_mounts()),
        interfaces=frozenset(_interfaces()),
        libvirt=frozenset(_libvirt()),
        entries=frozenset(_entries()),
    )


def left(before: Surroundings, after: Surroundings) -> Mapping[str, list[str]]:
    """Return what is there after and was not before, by kind; a folder's entry that other people use is not counted."""
    found = {}
    for field in fields(Surroundings):
        new = getattr(after, field.name) - getattr(before, field.name)
        if field.name == "entries":
            new = {entry for entry in new if not _in_use(entry)}
        if new:
            found[field.name] = sorted(new)
    return found


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Become the parent of every orphan among this program's descendants (prctl(2)), for as long as this lasts."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _descendants(top: int) -> list[int]:
    """Return the processes that descend from `top` and are not merely waiting to be reaped."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                parents[int(entry.name)] = (int(parent), state)
    family = [top]
    for pid in family:  # grows on the way
        family += [child for child, (parent, _) in parents.items() if parent == pid]
    return [pid for pid in family[1:] if parents[pid][1] not in "ZX"]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _links(pid: int, folder: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/{folder}").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(entry)  # noqa: PTH115 - "socket:[1]" is no path, and must not become one


def _sockets(pids: Iterable[int]) -> Iterator[str]:
    own = {link for pid in pids for link in _links(pid, "fd") if link.startswith("socket:")}
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in _rows(Path("/proc/net") / protocol):
            if f"socket:[{line[9]}]" in own and (protocol.startswith("udp") or line[3] == LISTENING):
                yield f"{protocol} {line[1]}"
    for line in _rows(Path("/proc/net/unix")):
        if len(line) > 7 and f"socket:[{line[6]}]" in own:
            yield f"unix {line[7]}"


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()[1:]] if path.exists() else []


def _namespaces(pids: Iterable[int]) -> Iterator[str]:
    for pid in pids:
        for kind in ("net", "mnt", "pid", "user"):
            with contextlib.suppress(OSError):
                yield f"{os.readlink(f'/proc/{pid}/ns/{kind}')} of {_command(pid)}"  # noqa: PTH115 - no path either
    for folder in NAMESPACES:
        with contextlib.suppress(OSError):
            yield from (str(entry) for entry in Path(folder).iterdir())


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields_ = line.split()
        yield f"{fields_[4]} ({fields_[fields_.index('-') + 1]})"


def _interfaces() -> Iterator[str]:
    for command in ("link", "address"):
        for line in proc.run([proc.which("ip", "iproute2"), "-o", command], limit_s=COMMAND_S).text.splitlines():
            words = line.split()
            yield f"{command} {words[1]} {words[3] if command == 'address' else ''}".strip()


def _libvirt() -> Iterator[str]:
    virsh = shutil.which("virsh")
    for uri, socket in LIBVIRT_SOCKETS.items():
        if virsh is None or not socket.exists():
            continue

        def ask(*words: str, uri: str = uri) -> list[str]:
            done = proc.run(["virsh", "-q", "-c", uri, *words], limit_s=COMMAND_S, check=False)
            return [line for line in done.text.splitlines() if line.strip()]

        for kind in (("list", "--all", "--name"), ("net-list", "--all", "--name"), ("pool-list", "--all", "--name")):
            yield from (f"{uri} {kind[0]}: {name}" for name in ask(*kind))
        for pool in ask("pool-list", "--name"):
            yield from (f"{uri} volume in {pool.strip()}: {line.split()[0]}" for line in ask("vol-list", pool.strip()))


def _entries() -> Iterator[str]:
    home = installed.home()
    folders = [
        *(Path("/dev/shm"), Path("/run"), Path("/run/libvirt")),  # noqa: S108 - only looked at
        *(Path("/var/lib/libvirt"), Path("/var/lib/libvirt/images"), Path("/etc/libvirt"), Path("/etc/libvirt/qemu")),
        *(paths.labs(), paths.PROJECT, paths.PROJECT / ".vagrant"),
        *(home, home / "boxes", home / "data" / "machine-index", home / "tmp"),
    ]
    with contextlib.suppress(OSError):  # where everybody writes, only what bears a lab's name
        yield from (str(entry) for entry in Path("/tmp").iterdir() if OURS.search(entry.name))  # noqa: S108 - likewise
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.append(Path(runtime))
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from (str(entry) for entry in folder.iterdir())


def _in_use(entry: str) -> bool:
    """Return whether a process that does not descend from this one has a file there open, or works in it."""
    own = {os.getpid(), *_descendants(os.getpid())}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) in own:
            continue
        links = [*_links(int(process.name), "fd")]
        with contextlib.suppress(OSError):
            links.append(os.readlink(process / "cwd"))  # noqa: PTH115 - may be a folder that was removed
        if any(f"{link}/".startswith(f"{entry}/") for link in links):
            return True
    return False
