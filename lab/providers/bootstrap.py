"""A Debian tree, and one ext4 file made of it.

mmdebstrap makes the tree (as root, or in a user namespace) and, from a hook inside its own namespaces, mke2fs writes
it into one ext4 file: no archive in between, no loop device, no mount that outlives the build.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import select
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from lab import proc
from lab.deadline import Deadline, wait_until
from lab.errors import HostLacks, TimedOut
from lab.log import Step

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder with an unpredictable name is made in it
ARCHITECTURE = "amd64"
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
"""Variables that name this machine's proxies."""
BUILD_LIMIT_S = 900.0
END_LIMIT_S = 20.0  # removing a tree from a busy disk takes its time
HIGH_FD = 64  # mmdebstrap hands its own descriptors to a shell that knows those below 10 only
KEPT_BYTES = 32 << 10  # of what mmdebstrap says, for the message of a failure
NO_NAMESPACES = ("unable to pick chroot mode", "unshare")  # what mmdebstrap says when it finds no way to be root
UNREACHABLE = ("Failed to fetch", "Could not resolve", "Could not connect", "Some index files failed")


@dataclass(frozen=True)
class Recipe:
    """What goes into a tree, in this order, and what is taken out of it."""

    suite: str
    packages: tuple[str, ...]
    excluded: bytes
    """A configuration of dpkg that says which files of the packages are left out."""
    overlay: bytes
    """A tar archive that is unpacked over the packages."""
    scripts: tuple[bytes, ...]
    """Shell scripts that run in the tree once all files are there."""
    mke2fs: str
    """The command that makes the file system, but for tree and file."""
    size_bytes: int
    temporary_bytes: int
    """The tree, package lists and packages while they are being installed."""
    carried: Mapping[str, str] = field(default_factory=dict)
    """Files that are moved out of the tree into the folder beside the file system: place in the tree, name there."""
    architecture: str = ARCHITECTURE
    origin: str = "Debian"
    components: tuple[str, ...] = ("main",)


def check_platform() -> None:
    """Refuse a machine that no lab runs on (HostLacks)."""
    if platform.machine() != "x86_64":
        raise HostLacks(f"lab nodes run on x86-64 only, this machine is {platform.machine()}")


def check_host() -> None:
    """Look for what no build can do without.

    Raises:
        HostLacks: this is another kind of machine, or a program is not installed.
    """
    check_platform()
    proc.which("mmdebstrap")
    proc.which("mke2fs", "e2fsprogs")


def build(recipe: Recipe, folder: Path, image: str, step: Step) -> dict[str, str]:
    """Make the file system FOLDER/IMAGE, and return the version of each package in it.

    Raises:
        HostLacks: a user namespace, room, or a mirror that answers is missing.
        CommandFailed: mmdebstrap failed; the message has its last lines.
    """
    listing = folder / "packages"
    with _temporary(recipe.temporary_bytes) as temporary, contextlib.ExitStack() as stack:
        (temporary / "overlay.tar").write_bytes(recipe.overlay)
        (temporary / "excluded").write_bytes(recipe.excluded)
        for number, script in enumerate(recipe.scripts):
            (temporary / f"script{number}").write_bytes(script)
        fds = {}
        for name in (image, listing.name, *recipe.carried.values()):
            with (folder / name).open("wb") as file:
                os.fchmod(file.fileno(), 0o666)  # the builder may be another user, who gets at it by a descriptor only
                fds[name] = fcntl.fcntl(file.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_FD)
            stack.callback(os.close, fds[name])
        os.truncate(folder / image, recipe.size_bytes)
        _run(_mmdebstrap(recipe, temporary, fds, image, listing.name), recipe.suite, temporary, fds.values(), step)
    packages = dict(line.split("=", 1) for line in listing.read_text(encoding="utf-8").split())
    listing.unlink()
    return packages


@contextlib.contextmanager
def _temporary(needed_bytes: int) -> Iterator[Path]:
    """Yield a folder for the tree: in memory when there is plenty, as dpkg waits for disks."""
    shared = SHARED_MEMORY
    roomy = (
        os.access(shared, os.W_OK)
        and not os.statvfs(shared).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(shared).free > needed_bytes
        and _available_bytes() > 3 * needed_bytes
    )
    place = shared if roomy else Path(tempfile.gettempdir())
    if shutil.disk_usage(place).free < needed_bytes:
        raise HostLacks(f"{place}: less than {needed_bytes >> 20} MiB free", "make room, or set TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix="hapair-image-", dir=place))
    try:
        folder.chmod(0o711)  # in a user namespace mmdebstrap works as another user
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():  # mmdebstrap was killed, and left files of its subordinate users
            proc.run(["mmdebstrap", "--unshare-helper", "rm", "-rf", folder], limit_s=60, check=False)
            shutil.rmtree(folder, ignore_errors=True)


def _available_bytes() -> int:
    """Return the memory that the kernel deems available (proc(5), MemAvailable)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    return int(fields.get("MemAvailable", "0 kB").split()[0]) << 10


def _mmdebstrap(recipe: Recipe, temporary: Path, fds: Mapping[str, int], image: str, packages: str) -> list[str]:
    # A hook gets the tree as $1, with /proc, /sys and parts of /dev mounted in it; a bind mount shows it without them,
    # and a mount namespace of its own takes the bind mount away however the hook ends.
    place = {name: f"/proc/self/fd/{fd}" for name, fd in fds.items()}
    listing = f"""dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${{Package}}=${{Version}}\\n' > {place[packages]}"""
    make = f"""mount --bind "$1" "$1/mnt" && {recipe.mke2fs} -d "$1/mnt" {place[image]}"""
    # Root without the right to mount (in a container) gets a tree that has nothing mounted in it.
    plain = f"""{recipe.mke2fs} -d "$1" {place[image]}"""
    return [
        *_own_mounts(),
        "mmdebstrap",
        "--format=null",
        "--variant=essential",
        f"--architectures={recipe.architecture}",
        f"--components={','.join(recipe.components)}",
        "--include=" + ",".join(recipe.packages),
        # A merged /usr from the start: package usrmerge would do it later and needs all of Perl.
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=Acquire::http::Timeout "20"',
        '--aptopt=Acquire::Retries "2"',
        *_proxies(),
        "--dpkgopt=force-unsafe-io",
        # After the essential packages: mmdebstrap itself filters slowly, what they brought is removed at the end.
        f'--extract-hook=cat {temporary}/excluded > "$1/etc/dpkg/dpkg.cfg.d/hapair-lab"',
        f"--customize-hook=tar-in {temporary}/overlay.tar /",
        *(f'--customize-hook=chroot "$1" sh -s < {temporary}/script{number}' for number in range(len(recipe.scripts))),
        f"--customize-hook={listing}",
        *(
            f'--customize-hook=cat "$1/{path}" > {place[name]} && rm "$1/{path}"'
            for path, name in recipe.carried.items()
        ),
        f"--customize-hook=unshare --mount sh -c '{make}' sh \"$1\" || {plain}",
        recipe.suite,
        "-",
        *mirrors(recipe.suite, recipe.origin, recipe.components),
    ]


def _own_mounts() -> list[str]:
    """Return the prefix of a command whose mounts go with it: a killed mmdebstrap would leave them."""
    prefix = ["unshare", "--mount"]
    return prefix if os.geteuid() == 0 and proc.run([*prefix, "true"], limit_s=20, check=False).code == 0 else []


def _proxies() -> list[str]:
    """Return the proxies that the machine's apt uses, as options."""
    done = proc.run(
        ["apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy", '--format=%f "%v"%n'], limit_s=20
    )
    return [f"--aptopt={line}" for line in done.text.splitlines()]


def mirrors(suite: str, origin: str = "Debian", components: Iterable[str] = ("main",)) -> list[str]:
    """Return the sources of a suite that the machine's own apt knows.

    None: it knows no archive of that origin at all, and mmdebstrap knows a mirror of Debian by itself.
    """
    form = "--format=$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    done = proc.run(["apt-get", "indextargets", form, "Created-By: Packages"], limit_s=20, check=False)
    rows = [row for row in (line.split("|") for line in done.text.splitlines()) if len(row) == 5]
    known = [row for row in rows if row[0] == origin and row[3] == "main"]
    parts = " ".join(components)
    exact = {f"deb {uri} {name} {parts}": None for _, _, name, _, uri in known if name.startswith(suite)}
    if suite in {row[2] for row in known}:
        return list(exact)
    other = next((row[4] for row in known if row[1] == origin), "")
    return [f"deb {other} {suite} {parts}"] if other else []


def _run(argv: list[str], suite: str, temporary: Path, fds: Iterable[int], step: Step) -> None:
    """Run mmdebstrap, showing what it does.

    Raises:
        HostLacks: it may not make user namespaces, or no mirror answered.
        CommandFailed: it failed otherwise.
    """
    env = {name: os.environ[name] for name in PROXIES if name in os.environ} | {"TMPDIR": str(temporary)}
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as lines, os.fdopen(writer, "wb") as sink:
        child = proc.spawn(argv, env=env, stdout=sink, stderr=sink, pass_fds=tuple(fds))
        sink.close()

        def ended() -> bool:
            return child.poll() is not None

        try:
            said = _follow(lines, step, Deadline.after(BUILD_LIMIT_S))
            with contextlib.suppress(TimedOut):
                wait_until("mmdebstrap ends", ended, Deadline.after(1))
            in_time = ended()
        finally:
            for sig in (signal.SIGTERM, signal.SIGKILL):  # asked to end, it removes its tree first
                if not ended():
                    proc.kill_group(child, sig)
                    with contextlib.suppress(TimedOut):
                        wait_until("mmdebstrap ends", ended, Deadline.after(END_LIMIT_S))
    if child.returncode == 0:
        return
    text = said.decode(errors="replace")
    if any(sign in text for sign in UNREACHABLE):
        failed = [line for line in text.splitlines() if any(sign in line for sign in UNREACHABLE)]
        raise HostLacks(
            "no Debian mirror answers:\n    " + "\n    ".join(failed[:3]),
            f"connect this machine, or name a mirror of Debian {suite} in its apt sources",
        )
    if os.geteuid() and any(sign in text for sign in NO_NAMESPACES):
        raise HostLacks(
            "this user may not make user namespaces, which building the root image needs",
            "build it as root, or allow them (package uidmap, lines in /etc/subuid and /etc/subgid), "
            "or take a bundle that was made elsewhere: lab.up --bundle FILE",
        )
    done = proc.Completed(("mmdebstrap", suite), child.returncode, b"", said)
    raise proc.CommandFailed(done, "" if in_time else f"no end after {BUILD_LIMIT_S:g} s")


def _follow(lines: IO[bytes], step: Step, deadline: Deadline) -> bytes:
    """Show what is said until the pipe closes or the time is up; return the last of it."""
    said = b""
    while select.select([lines], [], [], deadline.left_s)[0]:
        piece = os.read(lines.fileno(), 65536)
        if not piece:
            break
        said = (said + piece)[-KEPT_BYTES:]
        # mmdebstrap begins what it says about itself with "I: "; the rest comes from apt and dpkg.
        stages = [line[3:] for line in piece.decode(errors="replace").splitlines() if line.startswith("I: ")]
        if stages:
            step.note(stages[-1].removesuffix("..."))
    return said
