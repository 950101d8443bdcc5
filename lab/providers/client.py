"""Commands' side of a lab: starts the supervisor, finds it again, talks to it, cleans up after a dead one."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from lab import errors, paths, proc
from lab.deadline import Deadline, time_scale, wait_until
from lab.errors import BadInput, HapairError, HostLacks, TimedOut
from lab.proc import CommandFailed, Completed
from lab.providers import hostlibvirt, memory
from lab.providers.base import Direction, Frame, Impairment, LabPlan, LabStatus, NodeState
from lab.providers.record import Record
from lab.providers.supervisor import EVENTS, PLAN, SOCKET

START_LIMIT_S = 30.0
STOP_LIMIT_S = 30.0
STATE_LIMIT_S = 120.0
ANSWER_LIMIT_S = 30.0
CLOCK_LIMIT_S = 5.0
FILE_LIMIT_S = 120.0
SLACK_S = 20.0
"""How much longer than the supervisor's own limits this side waits."""


class Connection:
    """One request to the supervisor. Closing it ends whatever the request had started."""

    def __init__(self, folder: Path, request: Frame, limit_s: float) -> None:
        self.sock = _connect(folder)
        self.sock.settimeout(limit_s)
        self.tell(request)
        self._lines = self.sock.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.sock.close()

    def tell(self, frame: Frame) -> None:
        """Send one frame."""
        try:
            self.sock.sendall(json.dumps(frame).encode() + b"\n")
        except OSError as error:
            raise HapairError(f"the lab's supervisor does not listen: {error}") from None

    def frames(self) -> Iterator[Frame]:
        """Yield what comes, up to and with the frame that has the value.

        Raises:
            HapairError: the supervisor reports an error, or is gone.
            TimedOut: it says nothing for longer than the limit.
        """
        while True:
            try:
                line = self._lines.readline()
            except TimeoutError:
                raise TimedOut("the lab's supervisor did not answer in time", "see its supervisor.log") from None
            except ConnectionError:
                line = b""
            if not line:
                raise HapairError("the lab was stopped meanwhile")
            frame: Frame = json.loads(line)
            if "error" in frame:
                kind, message, hint = frame["error"]
                found = getattr(errors, kind, HapairError)
                raise found(message, hint)
            yield frame
            if "value" in frame:
                return

    def value(self) -> Frame:
        """Wait for the end and return the final value."""
        *_, last = self.frames()
        value: Frame = last["value"]
        return value


class RunningNode:
    """A node of a running lab (see lab.providers.base.Node)."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = folder

    def __repr__(self) -> str:
        return f"RunningNode({self.name!r})"

    @property
    def console_path(self) -> Path:
        """The file that everything the node's kernel prints goes to."""
        return self._folder / f"{self.name}.console"

    def state(self) -> NodeState:
        """See lab.providers.base.Node."""
        return read_status(self._folder).nodes[self.name].state

    def run(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"", check: bool = True) -> Completed:
        """See lab.providers.base.Node."""
        parts: dict[str, list[bytes]] = {"out": [], "err": []}
        code = 0
        started_s = time.monotonic()
        with self.start(argv, limit_s=limit_s, stdin=stdin) as connection:
            for frame in connection.frames():
                for stream, pieces in parts.items():
                    if stream in frame:
                        pieces.append(base64.b64decode(frame[stream]))
                code = frame.get("value", {"code": 0})["code"]
        done = Completed((f"{self.name}:", *argv), code, b"".join(parts["out"]), b"".join(parts["err"]))
        if code < 0 and time.monotonic() - started_s >= limit_s * time_scale():
            raise CommandFailed(done, f"no end after {limit_s:g} s")
        if check and code != 0:
            raise CommandFailed(done)
        return done

    def stream(self, argv: Sequence[str], *, limit_s: float) -> Iterator[bytes]:
        """See lab.providers.base.Node."""
        rest = b""
        with self.start(argv, limit_s=limit_s) as connection:
            for frame in connection.frames():
                *lines, rest = (rest + base64.b64decode(frame.get("out", ""))).split(b"\n")
                yield from lines
        if rest:
            yield rest

    def start(self, argv: Sequence[str], *, limit_s: float, stdin: bytes = b"") -> Connection:
        """Start a command; its frames carry `out` and `err` (base64), the last one a `value` with its exit `code`."""
        text = base64.b64encode(stdin).decode()
        return self._request("run", limit_s=limit_s * time_scale(), argv=list(argv), stdin=text)

    def terminal(self, argv: Sequence[str], rows: int, cols: int, *, limit_s: float) -> Connection:
        """Start a command on a terminal of its own; see lab.providers.terminal."""
        return self._request("terminal", limit_s=limit_s, argv=list(argv), rows=rows, cols=cols, limit=limit_s)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """See lab.providers.base.Node."""
        text = base64.b64encode(data).decode()
        self._ask("put", limit_s=FILE_LIMIT_S * time_scale(), data=text, path=path, mode=mode)

    def get(self, path: str) -> bytes:
        """See lab.providers.base.Node."""
        return base64.b64decode(self._ask("get", limit_s=FILE_LIMIT_S * time_scale(), path=path)["data"])

    def clock(self) -> float:
        """See lab.providers.base.Node."""
        return float(self._ask("clock", limit_s=CLOCK_LIMIT_S)["clock"])

    def wait_ready(self, deadline: Deadline) -> None:
        """See lab.providers.base.Node."""
        self._ask("wait_ready", limit_s=deadline.left_s)

    def power_off(self) -> None:
        """See lab.providers.base.Node."""
        self._ask("power", to="off")

    def power_on(self) -> None:
        """See lab.providers.base.Node."""
        self._ask("power", to="on")

    def reset(self) -> None:
        """Press the reset button: power off and on again at once."""
        self._ask("power", to="reset")

    def freeze(self) -> None:
        """See lab.providers.base.Node."""
        self._ask("freeze")

    def thaw(self) -> None:
        """See lab.providers.base.Node."""
        self._ask("thaw")

    def attach_disk(self, slot: str, path: Path) -> None:
        """See lab.providers.base.Node."""
        self._ask("disk", slot=slot, path=str(path.resolve()))

    def detach_disk(self, slot: str) -> None:
        """See lab.providers.base.Node."""
        self._ask("disk", slot=slot, path=None)

    def sysrq(self, key: str) -> None:
        """See lab.providers.base.Node."""
        self._ask("sysrq", key=key)

    def _ask(self, op: str, *, limit_s: float = ANSWER_LIMIT_S, **fields: object) -> Frame:
        with self._request(op, limit_s=limit_s, **fields) as connection:
            return connection.value()

    def _request(self, op: str, *, limit_s: float, **fields: object) -> Connection:
        request = {"op": op, "node": self.name, "limit_s": limit_s, **fields}
        return Connection(self._folder, request, limit_s + SLACK_S)


class RunningLab:
    """A running lab (see lab.providers.base.Lab)."""

    def __init__(self, plan: LabPlan, folder: Path) -> None:
        self.plan = plan
        self.name = plan.name
        self.folder = folder
        self.nodes: Mapping[str, RunningNode] = {node.name: RunningNode(folder, node.name) for node in plan.nodes}

    @property
    def events_path(self) -> Path:
        """The file of what happened to the lab: JSON lines with `t`, `source`, `kind`."""
        return self.folder / EVENTS

    def set_link(self, node: str, network: str, direction: Direction, impairment: Impairment) -> None:
        """See lab.providers.base.Lab."""
        fields = {"node": node, "network": network, "direction": direction, "impairment": asdict(impairment)}
        with Connection(self.folder, {"op": "link", **fields}, ANSWER_LIMIT_S) as connection:
            connection.value()

    def status(self) -> LabStatus:
        """See lab.providers.base.Lab."""
        return read_status(self.folder)

    @contextlib.contextmanager
    def capture(self, network: str, path: Path) -> Iterator[Path]:
        """See lab.providers.base.Lab; the file is complete when the context has ended."""
        request = {"op": "capture", "network": network, "path": str(path.absolute())}
        with Connection(self.folder, request, ANSWER_LIMIT_S) as connection:
            frames = connection.frames()
            next(frames)
            yield path
            connection.tell({})
            next(frames)

    def snapshot(self) -> None:
        """Keep the present state of every node, memory included, for `restore`."""
        self._state("snapshot")

    def restore(self) -> None:
        """Put every node back to the snapshot. Its control agent answers soon after: wait for it.

        Raises:
            HapairError: there is no snapshot.
        """
        self._state("restore")

    def _state(self, op: str) -> None:
        with Connection(self.folder, {"op": op}, STATE_LIMIT_S) as connection:
            connection.value()

    def stop(self) -> None:
        """Switch everything off; the disks stay."""
        stop(self.folder)

    def destroy(self) -> None:
        """See lab.providers.base.Lab."""
        destroy(self.folder)


def read_status(folder: Path) -> LabStatus:
    """Return the status of a running lab.

    Raises:
        HapairError: no supervisor answers.
    """
    with Connection(folder, {"op": "status"}, ANSWER_LIMIT_S) as connection:
        return LabStatus.from_json(connection.value())


def lock(folder: Path) -> FileLock:
    """Return the lock that whoever starts or destroys a lab must hold; taking it twice in one process is fine."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{folder}.lock", timeout=0, is_singleton=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lab's lock.

    Raises:
        BadInput: another command is at work on this lab.
    """
    handle = lock(folder)
    try:
        with handle:
            try:
                yield
            finally:
                if handle.lock_counter == 1 and not folder.exists():
                    # Whoever has opened it meanwhile notices that the name is gone, and opens a new one.
                    Path(handle.lock_file).unlink(missing_ok=True)
    except Timeout:
        raise BadInput(f"another command is at work on {folder.name}", "wait until it has ended") from None


def running(folder: Path) -> bool:
    """True if the lab's supervisor is alive."""
    record = Record.load(folder)
    return record is not None and record.alive("supervisor")


def start(plan: LabPlan, folder: Path) -> RunningLab:
    """Start a lab's supervisor, which switches on every node; returns as soon as it answers. Disks in `folder` stay.

    Raises:
        BadInput: the lab runs already, or another command is at work on it.
        HostLacks: this machine lacks memory or a program.
        HapairError: the supervisor did not start.
    """
    with locked(folder):
        if running(folder):
            raise BadInput(f"lab {plan.name} is running already", "`invoke lab.down` stops it")
        _check(plan)
        clean_up(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / PLAN).write_text(plan.dump())
        with (folder / "supervisor.log").open("ab") as log:
            log_start = log.tell()
            command: list[str | Path] = [sys.executable, "-m", "lab.providers.supervisor", folder]
            child = proc.spawn(command, env={"PYTHONPATH": str(paths.PROJECT)}, stdout=log, stderr=log)

        def answers() -> bool:
            if child.poll() is not None:
                text = (folder / "supervisor.log").read_bytes()[log_start:].decode(errors="replace").strip()
                kind = HostLacks if child.returncode == errors.ExitCode.HOST_LACKS else HapairError
                raise kind(f"lab {plan.name} did not start: {text}")
            try:
                return read_status(folder).pid == child.pid
            except HapairError:
                return False

        try:
            wait_until(f"the supervisor of lab {plan.name} answers", answers, Deadline.after(START_LIMIT_S))
        except BaseException:
            # Politely first: it knows best what it has made so far.
            proc.kill_group(child, signal.SIGTERM)
            with contextlib.suppress(Exception):
                child.wait(STOP_LIMIT_S)
            proc.kill_group(child)
            child.wait()
            clean_up(folder)
            raise
        child.returncode = 0  # it outlives this command on purpose: no warning about that
        return RunningLab(plan, folder)


def attach(folder: Path) -> RunningLab:
    """Return a lab that is running.

    Raises:
        BadInput: there is none in `folder`, or it does not run.
    """
    if not (folder / PLAN).is_file():
        raise BadInput(f"there is no lab {folder.name}", "`invoke lab.up` makes it")
    if not running(folder):
        raise BadInput(f"lab {folder.name} does not run", "`invoke lab.up` starts it")
    return RunningLab(LabPlan.load((folder / PLAN).read_text()), folder)


def stop(folder: Path) -> None:
    """End a lab's supervisor and its nodes; the disks stay. A lab that does not run is only cleaned up."""
    with locked(folder):
        record = Record.load(folder)
        if record is not None and record.alive("supervisor"):
            with contextlib.suppress(HapairError), Connection(folder, {"op": "shutdown"}, ANSWER_LIMIT_S) as connection:
                connection.value()
            with contextlib.suppress(TimedOut):  # then it is killed
                wait_until(
                    "the supervisor has ended", lambda: not record.alive("supervisor"), Deadline.after(STOP_LIMIT_S)
                )
        clean_up(folder)


def destroy(folder: Path) -> None:
    """End a lab and remove all of it; one that a killed command left behind, too.

    Raises:
        BadInput: `folder` holds something else than a lab.
        HapairError: something of it on the host's libvirt could not be removed; repeating it goes on from there.
    """
    with locked(folder):
        if not folder.exists():
            return
        if not (folder / PLAN).is_file() and any(folder.iterdir()):
            raise BadInput(f"{folder} is no lab", "move it away, or take another name")
        stop(folder)
        if (folder / PLAN).is_file():
            _leave_host(folder)
        shutil.rmtree(folder)


def _leave_host(folder: Path) -> None:
    """Remove what a lab has on the host's libvirt; the lab's folder stays as long as something does."""
    try:
        plan = LabPlan.load((folder / PLAN).read_text())
    except BadInput:  # damaged, or of an earlier version: nothing says what there may be
        return
    if plan.hypervisor and plan.hypervisor.host:
        hostlibvirt.remove(plan)


def clean_up(folder: Path) -> None:
    """Remove what a dead supervisor has left: processes, memory, sockets. Disks and logs stay."""
    record = Record.load(folder)
    if record:
        record.kill()
        wait_until(
            "the lab's processes have ended",
            lambda: not any(record.alive(name) for name in record.processes),
            Deadline.after(STOP_LIMIT_S),
        )
        record.remove_memory()
    for leftover in (folder / SOCKET, *(folder / "net").glob("*"), *folder.glob("*.share/*"), folder / "run.json"):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(folder / "run", ignore_errors=True)


def _check(plan: LabPlan) -> None:
    for node in plan.nodes:
        if not os.access(node.kernel, os.X_OK) or not node.kernel.is_file():
            raise BadInput(f"kernel {node.kernel} cannot be executed", "`invoke build.linux-uml` makes it")
        if not os.access(node.image, os.R_OK):
            raise BadInput(f"image {node.image} cannot be read", "`invoke lab.up` makes it")
    need_mb = sum(node.memory_mb for node in plan.nodes)
    if (have_mb := memory.available_bytes() >> 20) < need_mb:
        raise HostLacks(f"{have_mb} MiB of memory are available, {need_mb} MiB needed", "stop something, or give less")


def _connect(folder: Path) -> socket.socket:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        raise HapairError(f"there is no lab {folder.name}") from None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A socket's path has room for 107 bytes only; this one is short wherever the folder is.
        sock.connect(f"/proc/self/fd/{fd}/{SOCKET}")
    except OSError:
        sock.close()
        raise HapairError(f"lab {folder.name} does not run") from None
    finally:
        os.close(fd)
    return sock
