"""A lab leaves nothing behind: the machine is looked at before `lab.up` and after `lab.destroy`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import paths, proc
from lab.artifacts import Ready
from lab.scenario import leftovers

SAYS_ON = (sys.executable, "-c", "import sys, time; exec(sys.argv[1]); print('on', flush=True); time.sleep(300)")
UP_S = 900.0
DOWN_S = 120.0


def invoke(*words: str, temporary: Path, limit_s: float) -> str:
    """Run a task as a user does, but for a folder of temporary files of its own."""
    kept = {name: os.environ[name] for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME") if name in os.environ}
    command = [sys.executable, "-m", "invoke", *words]
    env = {**kept, "TMPDIR": str(temporary)}
    return proc.run(command, limit_s=limit_s, cwd=paths.PROJECT, env=env).text


@pytest.mark.timeout(UP_S + 2 * DOWN_S)
def test_a_lab_leaves_nothing_behind(request: pytest.FixtureRequest, ready: Ready, tmp_path: Path) -> None:
    """A lab comes up and is destroyed: processes, namespaces, mounts, interfaces, volumes, sockets are as before."""
    name = f"leftovers-{os.getpid()}"
    with leftovers.adopting():
        before = leftovers.look()
        try:
            invoke("lab.up", "--name", name, "--provider", ready.choice.provider, temporary=tmp_path, limit_s=UP_S)
            during = leftovers.look()
        finally:
            invoke("lab.destroy", "--name", name, temporary=tmp_path, limit_s=DOWN_S)
        after = leftovers.look()
    # It must have seen the lab at all, or it would find nothing whatever was left.
    seen = leftovers.left(before, during)
    assert any("lab.providers.supervisor" in line for line in seen["processes"])
    assert any(name in line for line in seen["entries"])
    if request.config.getoption("--provider") == "vagrant":
        assert sum("qemu-system" in line for line in seen["processes"]) >= 2
        assert any("libvirtd" in line for line in seen["processes"])
    assert leftovers.left(before, after) == {}
    assert list(tmp_path.iterdir()) == []


@contextmanager
def process(_folder: Path) -> Iterator[None]:
    child = proc.spawn(["setsid", "-f", "sleep", "300"])  # as a daemon does: its parent ends at once
    child.wait(10)
    try:
        yield
    finally:
        for line in leftovers.look().processes:
            pid, _, command = line.partition(" ")
            if command == "sleep 300":
                os.kill(int(pid), signal.SIGKILL)
                os.waitpid(int(pid), 0)


@contextmanager
def spawned(argv: Sequence[str]) -> Iterator[None]:
    """A process for as long as the context lasts, which begins when it says "on"."""
    read, write = os.pipe()
    child = proc.spawn(argv, stdout=write)
    os.close(write)
    try:
        assert os.read(read, 3) == b"on\n"
        yield
    finally:
        os.close(read)
        proc.kill_group(child)
        child.wait()


@contextmanager
def socket(_folder: Path) -> Iterator[None]:
    with spawned([*SAYS_ON, "import socket; listener = socket.create_server(('127.0.0.1', 0))"]):
        yield


@contextmanager
def memory(_folder: Path) -> Iterator[None]:
    place = Path(f"/dev/shm/hapair-left-{os.getpid()}")  # noqa: S108 - what is planted lies where a lab's memory does
    place.mkdir()
    try:
        yield
    finally:
        place.rmdir()


@contextmanager
def mount(folder: Path) -> Iterator[None]:
    proc.run(["mount", "-t", "tmpfs", "none", folder], limit_s=10)
    try:
        yield
    finally:
        proc.run(["umount", folder], limit_s=10)


@contextmanager
def namespace(_folder: Path) -> Iterator[None]:
    with spawned(["unshare", "--map-root-user", "--net", *SAYS_ON, ""]):
        yield


PLANTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "processes": process,
    "sockets": socket,
    "entries": memory,
    "mounts": mount,
    "namespaces": namespace,
}


@pytest.mark.planted("leftovers")
@pytest.mark.parametrize("kind", PLANTS)
def test_what_is_left_is_found(kind: str, tmp_path: Path) -> None:
    if kind == "mounts" and os.geteuid() != 0:
        pytest.skip("only root can leave one on purpose")
    with leftovers.adopting():
        before = leftovers.look()
        with PLANTS[kind](tmp_path):
            found = leftovers.left(before, leftovers.look())
        assert kind in found
        assert leftovers.left(before, leftovers.look()) == {}
