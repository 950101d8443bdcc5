"""The root image of the lab's nodes: Debian, built once for each set of inputs and kept by content.

mmdebstrap makes the tree (as root, or in a user namespace) and, from a hook inside its own namespaces, mke2fs writes
it into one ext4 file: no archive in between, no loop device, no mount that outlives the build.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import select
import shutil
import signal
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lab import paths, proc
from lab.deadline import Deadline, wait_until
from lab.errors import HostLacks, TimedOut
from lab.log import Step, Steps
from lab.providers.stored import Made, check, made_once

SUITE = "bookworm"
ARCHITECTURE = "amd64"
IMAGE = "root.ext4"
BUILDER = 1  # raise it when this module builds something else from the same inputs
SOURCE = paths.PROJECT / "hostfiles" / "lab"
THIRD_INIT = "/usr/lib/hapair-lab/third-init"
CONTROL = "usr/lib/hapair-lab/control.py"
EPOCH_S = 1686355200  # the release of Debian 12, 2023-06-10: the time of every file of ours
IMAGE_BYTES = 1 << 30  # the tree takes a quarter of it; holes cost nothing
TEMPORARY_BYTES = 900 << 20  # the tree, package lists and packages while they are being installed
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder with an unpredictable name is made in it
BUILD_LIMIT_S = 900.0
END_LIMIT_S = 20.0  # removing a tree from a busy disk takes its time
KEPT_BYTES = 32 << 10  # of what mmdebstrap says, for the message of a failure
ESTIMATE_S = 30.0
UNITS = PurePosixPath("etc/systemd/system")
GENERATORS = PurePosixPath("etc/systemd/system-generators")
# 16 MiB are plenty for a root that hardly writes; everything is initialised now instead of in each node's overlay.
MKE2FS = "mke2fs -q -F -t ext4 -m 0 -J size=16 -E lazy_itable_init=0,lazy_journal_init=0"
NO_NAMESPACES = ("unable to pick chroot mode", "unshare")  # what mmdebstrap says when it finds no way to be root
UNREACHABLE = ("Failed to fetch", "Could not resolve", "Could not connect", "Some index files failed")


@dataclass(frozen=True)
class Image:
    """A root image that was checked: its file (never written to), its SHA-256, and the init of the third node."""

    path: Path
    digest: str
    third_init: str = THIRD_INIT


@dataclass(frozen=True)
class Entry:
    """A file (`data`) or a symbolic link (`target`) that is put into the image, owned by root."""

    path: PurePosixPath
    data: bytes = b""
    executable: bool = False
    target: str = ""


def ensure(progress: Steps, source: Path = SOURCE) -> Image:
    """Return the root image for the present inputs; build it when the cache lacks it.

    Raises:
        HostLacks: the image in the cache is not what its manifest says.
        HostLacks: mmdebstrap or mke2fs, a user namespace, room, or a mirror that answers is missing.
        HapairError: the build failed; the message has its last lines.
    """
    folder = paths.cache() / "images" / key(source)
    if not folder.exists():
        _check_host()
        with progress.step("root image", estimate_s=ESTIMATE_S) as step:
            made_once(folder, lambda fresh: _build(source, fresh, step))
    return load(folder)


def load(folder: Path, *, full: bool = False) -> Image:
    """Return the image in `folder` after a check against its manifest; `full` reads all of it.

    Raises:
        HostLacks: there is no such image, or it is not what its manifest says.
    """
    digests = check(folder, full=full)
    if IMAGE not in digests:
        raise HostLacks(f"{folder}: holds no {IMAGE}", f"remove {folder} and run the command again")
    return Image(folder / IMAGE, digests[IMAGE])


def cached(source: Path = SOURCE) -> bool:
    """Return whether the cache holds the image for the present inputs."""
    return (paths.cache() / "images" / key(source)).exists()


def key(source: Path = SOURCE) -> str:
    """Return the name of the image that the present inputs make: one hash over all of them."""
    text = json.dumps(inputs(source), sort_keys=True).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def inputs(source: Path = SOURCE) -> dict[str, Any]:
    """Return everything that the image depends on, files as SHA-256.

    Mirrors are left out: the archive's signature vouches for what they deliver.
    """
    overlay = {str(entry.path): [entry.executable, entry.target, _digest(entry.data)] for entry in entries(source)}
    return {
        "builder": BUILDER,
        "suite": SUITE,
        "architecture": ARCHITECTURE,
        "packages": words(source / "packages"),
        "excluded": _digest((source / "excluded").read_bytes()),
        "finish": _digest((source / "finish").read_bytes()),
        "mke2fs": MKE2FS,
        "size_bytes": IMAGE_BYTES,
        "files": overlay,
        "epoch_s": EPOCH_S,
    }


def words(path: Path) -> list[str]:
    """Return the first word of each line that has one before its comment, in order."""
    lines = (line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines())
    return [parts[0] for parts in lines if parts]


def entries(source: Path = SOURCE) -> list[Entry]:
    """Return what is put into the image beside the packages, sorted by path."""
    found = [
        *_tree(source / "root", PurePosixPath()),
        *_tree(source / "writer", PurePosixPath("usr/share/hapair-lab/writer")),
        Entry(PurePosixPath(CONTROL), (source / "control.py").read_bytes(), executable=True),
    ]
    for name in words(source / "masked"):
        found.append(Entry((UNITS if "." in name else GENERATORS) / name, target="/dev/null"))
    return sorted(found, key=lambda entry: entry.path)


def _tree(top: Path, below: PurePosixPath) -> Iterator[Entry]:
    for path in top.rglob("*"):
        place = below / path.relative_to(top).as_posix()
        if path.is_symlink():
            yield Entry(place, target=str(path.readlink()))
        elif path.is_file():
            yield Entry(place, path.read_bytes(), executable=bool(path.stat().st_mode & stat.S_IXUSR))


def overlay(found: list[Entry]) -> bytes:
    """Return the entries as a tar archive that depends on nothing else: no times, users or modes of this machine."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry in found:
            member = tarfile.TarInfo(str(entry.path))
            member.mtime = EPOCH_S
            if entry.target:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.target, 0o777
            else:
                member.size, member.mode = len(entry.data), 0o755 if entry.executable else 0o644
            tar.addfile(member, io.BytesIO(entry.data))
    return sink.getvalue()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_host() -> None:
    if platform.machine() != "x86_64":
        raise HostLacks(f"lab nodes run on x86-64 only, this machine is {platform.machine()}")
    proc.which("mmdebstrap")
    proc.which("mke2fs", "e2fsprogs")


def _build(source: Path, folder: Path, step: Step) -> Made:
    """Put the image into `folder` and list its packages."""
    with _temporary() as temporary:
        _bootstrap(source, folder, temporary, step)
    step.note("checksum")
    listing = folder / "packages"
    packages = dict(line.split("=", 1) for line in listing.read_text(encoding="utf-8").split())
    listing.unlink()
    return Made({"inputs": inputs(source), "packages": packages})


@contextlib.contextmanager
def _temporary() -> Iterator[Path]:
    """Yield a folder for the tree: in memory when there is plenty, as dpkg waits for disks."""
    shared = SHARED_MEMORY
    roomy = (
        os.access(shared, os.W_OK)
        and not os.statvfs(shared).f_flag & os.ST_NOEXEC
        and shutil.disk_usage(shared).free > TEMPORARY_BYTES
        and _available_bytes() > 3 * TEMPORARY_BYTES
    )
    place = shared if roomy else Path(tempfile.gettempdir())
    if shutil.disk_usage(place).free < TEMPORARY_BYTES:
        raise HostLacks(f"{place}: less than {TEMPORARY_BYTES >> 20} MiB free", "make room, or set TMPDIR")
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


def _bootstrap(source: Path, building: Path, temporary: Path, step: Step) -> None:
    """Let mmdebstrap and mke2fs fill BUILDING/IMAGE and BUILDING/packages."""
    (temporary / "overlay.tar").write_bytes(overlay(entries(source)))
    for name in ("finish", "excluded"):
        shutil.copyfile(source / name, temporary / name)
    with (building / IMAGE).open("wb") as image, (building / "packages").open("wb") as packages:
        image.truncate(IMAGE_BYTES)
        for file in (image, packages):
            os.fchmod(file.fileno(), 0o666)  # the builder may be another user, and gets at it only by this descriptor
        argv = _mmdebstrap(source, temporary, image.fileno(), packages.fileno())
        _run(argv, temporary, (image.fileno(), packages.fileno()), step)


def _mmdebstrap(source: Path, temporary: Path, image: int, packages: int) -> list[str]:
    # A hook gets the tree as $1, with /proc, /sys and parts of /dev mounted in it; a bind mount shows it without them,
    # and a mount namespace of its own takes the bind mount away however the hook ends.
    listing = (
        f"""dpkg-query --admindir="$1/var/lib/dpkg" -W -f '${{Package}}=${{Version}}\\n' > /proc/self/fd/{packages}"""
    )
    make = f"""mount --bind "$1" "$1/mnt" && {MKE2FS} -d "$1/mnt" /proc/self/fd/{image}"""
    # Root without the right to mount (in a container) gets a tree that has nothing mounted in it.
    plain = f"""{MKE2FS} -d "$1" /proc/self/fd/{image}"""
    return [
        *_own_mounts(),
        "mmdebstrap",
        "--format=null",
        "--variant=essential",
        f"--architectures={ARCHITECTURE}",
        "--include=" + ",".join(words(source / "packages")),
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
        f'--customize-hook=chroot "$1" sh -s < {temporary}/finish',
        f"--customize-hook={listing}",
        f"--customize-hook=unshare --mount sh -c '{make}' sh \"$1\" || {plain}",
        SUITE,
        "-",
        *_mirrors(),
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


def _mirrors() -> list[str]:
    """Return the sources of SUITE that the machine's own apt knows; none: mmdebstrap knows a mirror."""
    form = "--format=$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"
    done = proc.run(["apt-get", "indextargets", form, "Created-By: Packages"], limit_s=20, check=False)
    rows = [row for row in (line.split("|") for line in done.text.splitlines()) if len(row) == 5]
    debian = [row for row in rows if row[0] == "Debian" and row[3] == "main"]
    exact = {f"deb {uri} {suite} main": None for _, _, suite, _, uri in debian if suite.startswith(SUITE)}
    if f"{SUITE}" in {row[2] for row in debian}:
        return list(exact)
    other = next((row[4] for row in debian if row[1] == "Debian"), "")
    return [f"deb {other} {SUITE} main"] if other else []


def _run(argv: list[str], temporary: Path, fds: tuple[int, ...], step: Step) -> None:
    """Run mmdebstrap, showing what it does.

    Raises:
        HostLacks: it may not make user namespaces, or no mirror answered.
        CommandFailed: it failed otherwise.
    """
    inherited = ("http_proxy", "https_proxy", "no_proxy")
    env = {name: os.environ[name] for name in inherited if name in os.environ} | {"TMPDIR": str(temporary)}
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as lines, os.fdopen(writer, "wb") as sink:
        child = proc.spawn(argv, env=env, stdout=sink, stderr=sink, pass_fds=fds)
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
            f"connect this machine, or name a mirror of Debian {SUITE} in its apt sources",
        )
    if os.geteuid() and any(sign in text for sign in NO_NAMESPACES):
        raise HostLacks(
            "this user may not make user namespaces, which building the root image needs",
            "build it as root, or allow them (package uidmap, lines in /etc/subuid and /etc/subgid), "
            "or take a bundle that was made elsewhere: lab.up --bundle FILE",
        )
    done = proc.Completed(("mmdebstrap", SUITE), child.returncode, b"", said)
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
