"""A lab's own libvirt daemon, and the little that the lab asks of it by virsh.

The host's daemon is left alone then, whether or not there is one. A private one needs no root, no service and no
network: it makes neither bridges nor addresses. An ordinary user runs libvirt's session daemon with the lab's folders.
Root's daemon is always the system's, so it is started in bubblewrap, where the system's folders are the lab's, without
the right to touch the network; when it goes, its machines go with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import proc
from lab.deadline import Deadline, wait_until
from lab.errors import HapairError, HostLacks

POOL = "default"
"""The storage pool that Vagrant's plugin takes unless told."""
URI_FILE = "libvirt-uri"
HOST_URI = "qemu:///system"
"""The host's own daemon (lab.providers.hostlibvirt)."""
SOCKET_BYTES = 107
"""Room for a socket's path, the end mark left out (unix(7): sun_path)."""
LONGEST_SOCKET = f"libvirt/qemu/channel/target/domain-99999-{20 * 'x'}/org.qemu.guest_agent.0"
"""Of a virtual machine, below a session daemon's configuration; libvirt cuts its name there after 20 characters."""
COMMAND_S = 20.0
START_S = 15.0
SYSTEM_FOLDERS = {
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}
# qemu.conf of libvirt 9: the machines run as the user who started the lab, unconfined, and log without virtlogd.
QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
dynamic_ownership = 0
"""
AS_ROOT = 'user = "root"\ngroup = "root"\n'
ACCOUNTS = {
    "/etc/passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin",
    "/etc/group": "libvirt-qemu:x:64055:",
}
"""The numbers are Debian's (base-passwd, Uid 64055); no process runs as this user."""
LIBVIRTD_CONF = 'auth_unix_rw = "none"\n'


@dataclass(frozen=True)
class Command:
    """How a private daemon is started, and where it listens."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    socket: Path
    uri: str


def private(folder: Path, runtime: Path, *, root: bool | None = None) -> Command:
    """Make the folders of a private daemon and return how to start it.

    Args:
        folder: what stays of it from one start of the lab to the next.
        runtime: a folder with a short path (a socket's has room for 107 bytes), for as long as it runs.
        root: whether it will run as root; default: as this process does.

    Raises:
        HostLacks: libvirtd, or (for root) bubblewrap, is not installed; or `runtime` has too long a path.
    """
    libvirtd = proc.which("libvirtd", "libvirt-daemon")
    as_root = os.geteuid() == 0 if root is None else root
    run = runtime / "libvirt"
    run.mkdir(mode=0o700, exist_ok=True)
    if not as_root:
        return _session(libvirtd, folder, run)
    bwrap = proc.which("bwrap", "bubblewrap")
    binds = ["--bind", str(run), "/run/libvirt"]
    for name, place in SYSTEM_FOLDERS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        _place(Path(place))
        binds += ["--bind", str(folder / name), place]
    binds += _accounts(folder)
    _place(Path("/run/libvirt"))
    (folder / "etc" / "qemu.conf").write_text(QEMU_CONF + AS_ROOT)
    (folder / "etc" / "libvirtd.conf").write_text(LIBVIRTD_CONF)
    argv = (
        *(bwrap, "--die-with-parent", "--unshare-pid", "--cap-drop", "CAP_NET_ADMIN"),
        *("--dev-bind", "/", "/", "--proc", "/proc", *binds, "--", libvirtd),
        # Its place is /run unless told, which all of root's daemons share.
        *("--pid-file", "/run/libvirt/libvirtd.pid"),
    )
    socket = run / "libvirt-sock"
    return Command(argv, {}, socket, f"qemu:///system?socket={socket}")


def _place(path: Path) -> None:
    """Make a folder of the system's to bind over, as libvirt's packages would: others may pass, whatever our umask."""
    if not path.exists():
        path.mkdir(parents=True)
        path.chmod(0o755)


def _accounts(folder: Path) -> list[str]:
    """Return what shows root's daemon the user and the group libvirt-qemu where there are none.

    Debian's libvirtd ends at once without them, whatever qemu.conf says; only libvirt-daemon-system makes them, which a
    lab does not need.
    """
    binds = []
    for file, line in ACCOUNTS.items():
        text = Path(file).read_text(encoding="utf-8")
        if not any(known.startswith(line.partition(":")[0] + ":") for known in text.splitlines()):
            own = folder / Path(file).name
            own.write_text(f"{text.rstrip()}\n{line}\n", encoding="utf-8")
            own.chmod(0o644)
            binds += ["--ro-bind", str(own), file]
    return binds


def _session(libvirtd: str, folder: Path, run: Path) -> Command:
    env = {}
    # By short names: the sockets of the machines' guest agents are below the first of them.
    links = {"conf": run.parent / "c", "data": run / "data", "cache": run / "cache"}
    longest = f"{links['conf']}/{LONGEST_SOCKET}"
    if len(os.fsencode(longest)) > SOCKET_BYTES:
        raise HostLacks(
            f"{run.parent} is too long a name: sockets of virtual machines below it would need {len(longest)} bytes, "
            f"and have room for {SOCKET_BYTES}",
            "set HAPAIR_MEMORY_DIR to a folder with a shorter path",
        )
    for name, variable in (("conf", "XDG_CONFIG_HOME"), ("data", "XDG_DATA_HOME"), ("cache", "XDG_CACHE_HOME")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        link = links[name]
        link.unlink(missing_ok=True)
        link.symlink_to(folder / name)
        env[variable] = str(link)
    (folder / "conf" / "libvirt").mkdir(exist_ok=True)
    (folder / "conf" / "libvirt" / "qemu.conf").write_text(QEMU_CONF)
    socket = run / "libvirt" / "libvirt-sock"
    argv = (proc.which("setpriv", "util-linux"), "--pdeathsig", "KILL", "--", libvirtd)
    return Command(argv, {**env, "XDG_RUNTIME_DIR": str(run)}, socket, f"qemu:///session?socket={socket}")


def virsh(uri: str, *arguments: str, limit_s: float = COMMAND_S) -> str:
    """Run one command of virsh(1) and return what it printed.

    Raises:
        HapairError: the daemon is gone, or it refused; the message says what it said.
    """
    done = ask(uri, *arguments, limit_s=limit_s)
    if done.code == 0:
        return done.text
    said = done.stderr.decode(errors="replace").strip().removeprefix("error: ")
    if "failed to connect" not in said:
        raise HapairError(f"virsh {' '.join(arguments)}: {said}")
    if uri == HOST_URI:
        raise HapairError(f"the host's libvirt daemon does not answer: {said.splitlines()[-1]}", "start libvirtd again")
    raise HapairError(
        "the libvirt daemon of the lab's virtual machines does not answer any more",
        "invoke lab.destroy, then invoke lab.up; libvirtd.log in the lab's folder may say why it died",
    )


def ask(uri: str, *arguments: str, limit_s: float = COMMAND_S) -> proc.Completed:
    """Run one command of virsh(1), however it ends.

    Raises:
        CommandFailed: it has not ended in time.
        HostLacks: virsh is not installed.
    """
    return proc.run([*_virsh(uri), *arguments], limit_s=limit_s, check=False)


def _virsh(uri: str) -> list[str]:
    return [proc.which("virsh", "libvirt-clients"), "-q", "-c", uri]


def event_command(uri: str) -> list[str]:
    """Return the command that prints a line for whatever happens to the machines, until it is ended."""
    # Through stdbuf: virsh keeps its lines until a buffer is full when nobody types.
    return [proc.which("stdbuf", "coreutils"), "-oL", *_virsh(uri), "event", "--all", "--loop"]


def wait_answers(uri: str) -> None:
    """Wait until the daemon answers.

    Raises:
        TimedOut: it does not.
    """

    def answers() -> bool:
        try:
            return bool(virsh(uri, "uri"))
        except HapairError:
            return False

    wait_until("libvirtd answers", answers, Deadline.after(START_S), pause_s=0.05)


def make_pool(uri: str, folder: Path) -> None:
    """Let `folder` be the storage pool of a private daemon, with whatever lies in it."""
    known = virsh(uri, "pool-list", "--all", "--name").split()
    if POOL not in known:
        virsh(uri, "pool-define-as", POOL, "dir", "--target", str(folder))
    if POOL not in virsh(uri, "pool-list", "--name").split():
        virsh(uri, "pool-start", POOL)
    virsh(uri, "pool-refresh", POOL)
