#!/usr/bin/python3 -IS
"""Control agent of a lab node: runs commands that arrive on a serial line, without any network.

One JSON object a line in both directions; binary is base64; `id` tells the jobs apart, which run side by side.
  host -> node  {"id", "op": "run", "argv", "limit", "stdin"?, "env"?}   `stdin` names a file of the share
                {"id", "op": "pty", "argv", "limit", "rows", "cols"}     then {"id", "op": "data"|"size", ...}
                {"id", "op": "put", "path", "mode", "from"}   {"id", "op": "get", "path", "to"}   whole files
                {"id", "op": "kill"}   {"id", "op": "ping"}   {"id", "op": "clock"}   the wall clock, in seconds
                {"id", "op": "hello"}   the answer is `ready`
                {"id", "op": "spool", "name", "b"}   {"id", "op": "drop", "name"}   {"id", "op": "fetch", "path"}
  node -> host  {"ready": {...}} when the agent starts; {"ack": bytes read}; {"id", "out"|"err": base64};
                {"id", "end": exit code}; {"id", "fail": text}
Lines that are no such object are ignored: boot messages and half lines do no harm.

The share is a folder of the host (User-Mode Linux's hostfs) that only this agent sees: it is mounted, opened and
unmounted again, and lives on in the opened descriptor. Whole files go through it, because the line takes one byte a
system call towards the node; and a reader who lets more than 3968 unread bytes pile up in it stalls the line for
good (line_throttle() of Linux 7.2 is never undone): hence the acknowledgements, and the host's small window.

A virtual machine has a port of virtio-serial instead (/dev/virtio-ports/…), which has room and does not stall, and no
share: a folder of its own takes that place, and the host fills and reads it with spool, fetch and drop.

Usage: control.py [LINE [SHARE]]; LINE is a terminal (/dev/ttyS0), a port, or fd:NUMBER; SHARE is a folder to use as it
is.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import pty
import selectors
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty
from pathlib import Path
from typing import IO, Any

CHUNK_BYTES = 32 << 10
OUT_LIMIT_BYTES = 256 << 10  # above it the agent stops reading from its jobs until the line has taken some
GRACE_S = 2.0  # between SIGTERM and SIGKILL
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
LINE_GONE = 3

Frame = dict[str, Any]
Child = subprocess.Popen[bytes]


class Agent:
    """The line, the share, and the jobs that run."""

    def __init__(self, line: int, share: int) -> None:
        self.line, self.share = line, share
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        self.identity = {"boot_id": boot_id, "uptime_s": uptime_s, "pid": os.getpid()}
        self.jobs: dict[int, Job] = {}
        self.inward, self.outward = bytearray(), bytearray()
        self.selector = selectors.DefaultSelector()
        os.set_blocking(line, False)
        self.selector.register(line, selectors.EVENT_READ, self.on_line)

    def send(self, frame: Frame | None) -> None:
        """Queue one frame; it goes out as fast as the line takes it."""
        if not self.outward:
            self.selector.modify(self.line, selectors.EVENT_READ | selectors.EVENT_WRITE, self.on_line)
        self.outward += json.dumps(frame, separators=(",", ":")).encode() + b"\n"

    def shared(self, name: str, flags: int = os.O_RDONLY) -> IO[bytes]:
        """Open a file that the host has put into the share."""
        return os.fdopen(os.open(name, flags, 0o600, dir_fd=self.share), "wb" if flags else "rb")

    def announce(self) -> None:
        """Say that the agent is here, and in which boot of the node."""
        self.send({"ready": self.identity})

    def serve(self) -> None:
        """Serve until the line is gone."""
        while True:
            due = min((job.deadline for job in self.jobs.values()), default=None)
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            if len(self.outward) > OUT_LIMIT_BYTES:
                self.wait_for_line(wait_s)
            else:
                for key, events in self.selector.select(wait_s):
                    # What an earlier event of this round has closed or changed must not be touched any more.
                    if self.selector.get_map().get(key.fd) is key:
                        key.data(events)
            now = time.monotonic()
            for job in [job for job in self.jobs.values() if job.deadline <= now]:
                job.expire()

    def wait_for_line(self, wait_s: float | None) -> None:
        """Wait for nothing but the line: the pipes of the jobs have to wait until it has taken what is queued."""
        with selectors.PollSelector() as only:
            only.register(self.line, selectors.EVENT_READ | selectors.EVENT_WRITE)
            for _, events in only.select(wait_s):
                self.on_line(events)

    def on_line(self, events: int) -> None:
        """Write what is queued, read and obey what has come."""
        if events & selectors.EVENT_WRITE and self.outward:
            with contextlib.suppress(BlockingIOError):
                del self.outward[: os.write(self.line, self.outward[: 64 << 10])]
            if not self.outward:
                self.selector.modify(self.line, selectors.EVENT_READ, self.on_line)
        if events & selectors.EVENT_READ:
            try:
                data = os.read(self.line, 64 << 10)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.EIO:  # a terminal whose other end was closed
                    raise
                data = b""
            if not data:
                sys.exit(LINE_GONE)
            self.send({"ack": len(data)})
            self.inward += data
            if b"\n" in data:
                *lines, rest = self.inward.split(b"\n")
                self.inward = bytearray(rest)
                for line in lines:
                    self.on_frame(bytes(line))

    def on_frame(self, line: bytes) -> None:
        """Obey one line, if it is a frame."""
        try:
            frame = json.loads(line)
            number, op = frame["id"], frame["op"]
        except (ValueError, TypeError, KeyError):
            return
        try:
            if op == "ping":
                self.send({"id": number, "end": 0})
            elif op == "clock":
                self.send({"id": number, "out": base64.b64encode(f"{time.time():.6f}".encode()).decode()})
                self.send({"id": number, "end": 0})
            elif op == "hello":
                self.announce()
            elif op == "spool":
                with self.shared(frame["name"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
                    file.write(base64.b64decode(frame["b"]))
            elif op == "drop":
                os.unlink(frame["name"], dir_fd=self.share)
            elif op in JOBS:
                self.jobs[number] = JOBS[op](self, number, frame)
            elif number in self.jobs:
                self.jobs[number].take(op, frame)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.send({"id": number, "fail": f"{op}: {error}"})


class Job:
    """A child process in a session of its own; what it prints is passed on as it comes."""

    def __init__(self, agent: Agent, number: int, frame: Frame) -> None:
        self.agent, self.number = agent, number
        self.deadline = time.monotonic() + frame.get("limit", 3600)
        self.signal = signal.SIGTERM
        self.streams: dict[int, str] = {}
        self.child = self.start(frame)
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.child.pid}/oom_score_adj").write_text("0")
        self.exit = os.pidfd_open(self.child.pid)
        agent.selector.register(self.exit, selectors.EVENT_READ, self.on_exit)

    def start(self, frame: Frame) -> Child:
        """Start the command on two pipes."""
        with self.agent.shared(frame["stdin"]) if "stdin" in frame else Path(os.devnull).open("rb") as stdin:
            return self.spawn(frame["argv"], stdin, subprocess.PIPE, env={**ENVIRONMENT, **frame.get("env", {})})

    def spawn(self, argv: list[str], stdin: IO[bytes], stdout: IO[bytes] | int, env: dict[str, str]) -> Child:
        """Start a process and follow what it prints."""
        # vfork and exec: a fork of the agent itself takes User-Mode Linux 20 ms.
        try:
            child = subprocess.Popen(
                argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=env, cwd="/", start_new_session=True
            )
        except FileNotFoundError as error:  # reported as a shell would: exit code 127
            return self.spawn(["sh", "-c", 'echo "$0: not found" >&2; exit 127', error.filename], stdin, stdout, env)
        for stream, name in ((child.stdout, "out"), (child.stderr, "err")):
            if stream is not None:
                self.follow(os.dup(stream.fileno()), name)
                stream.close()
        return child

    def follow(self, fd: int, stream: str) -> None:
        """Pass on what comes out of `fd`."""
        os.set_blocking(fd, False)
        self.streams[fd] = stream
        self.agent.selector.register(fd, selectors.EVENT_READ, lambda _: self.on_output(fd))

    def on_output(self, fd: int) -> bool:
        """Pass on one chunk; return whether there may be more."""
        try:
            data = os.read(fd, CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EIO:  # what a terminal says when its last user closed it
                raise
            data = b""
        if data:
            self.agent.send({"id": self.number, self.streams[fd]: base64.b64encode(data).decode()})
            return True
        self.agent.selector.unregister(fd)
        del self.streams[fd]
        os.close(fd)
        return False

    def take(self, op: str, _frame: Frame) -> None:
        """Obey a later frame about this job."""
        if op == "kill":
            self.expire()

    def expire(self) -> None:
        """End the process group: politely first, and after GRACE_S for good."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, self.signal)
        self.deadline = time.monotonic() + GRACE_S
        self.signal = signal.SIGKILL

    def on_exit(self, _events: int) -> None:
        """Report the end. What the child left in its pipes still counts; what its own children add later does not."""
        code = self.child.wait()
        for fd in list(self.streams):
            while fd in self.streams and self.on_output(fd):
                pass
        for fd in (*self.streams, self.exit):
            self.agent.selector.unregister(fd)
            os.close(fd)
        del self.agent.jobs[self.number]
        try:
            self.agent.send({"id": self.number, "end": self.conclude(code)})
        except OSError as error:
            self.agent.send({"id": self.number, "fail": str(error)})

    def conclude(self, code: int) -> int:
        """Do what remains to be done after the child has ended with `code`; return the code to report."""
        return code


class Terminal(Job):
    """A command on a terminal of its own."""

    def start(self, frame: Frame) -> Child:
        """Start the command on a new terminal."""
        self.terminal, theirs = pty.openpty()
        self.take("size", frame)
        # Not start_new_session: setsid has to be the one that begins the session, to give it the terminal.
        argv, env = ["setsid", "--ctty", *frame["argv"]], {"TERM": "xterm", **ENVIRONMENT, **frame.get("env", {})}
        child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, cwd="/")
        os.close(theirs)
        self.follow(self.terminal, "out")
        return child

    def take(self, op: str, frame: Frame) -> None:
        """Type into the terminal, or change its size."""
        if op == "data":
            with contextlib.suppress(OSError):
                os.write(self.terminal, base64.b64decode(frame["b"]))
        elif op == "size":
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", frame["rows"], frame["cols"], 0, 0))
        else:
            super().take(op, frame)


class Put(Job):
    """A file that comes from the share: written beside its place, then renamed."""

    def start(self, frame: Frame) -> Child:
        """Copy beside."""
        self.path, self.sync = Path(frame["path"]), frame.get("sync", False)
        self.beside = self.path.with_name(f"{self.path.name}.{self.number}~")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.agent.shared(frame["from"]) as source, self.beside.open("wb") as target:
            os.fchmod(target.fileno(), frame["mode"])
            return self.spawn(["cat"], source, target, ENVIRONMENT)

    def conclude(self, code: int) -> int:
        """Rename."""
        try:
            if code == 0:
                if self.sync:
                    with self.beside.open("rb") as file:
                        os.fsync(file.fileno())
                self.beside.rename(self.path)
        finally:
            self.beside.unlink(missing_ok=True)
        return code


class Get(Job):
    """A file that goes into the share."""

    def start(self, frame: Frame) -> Child:
        """Copy."""
        with Path(frame["path"]).open("rb") as source, self.agent.shared(frame["to"], os.O_WRONLY) as target:
            return self.spawn(["cat"], source, target, ENVIRONMENT)


class Fetch(Job):
    """A file of the share that goes over the line."""

    def start(self, frame: Frame) -> Child:
        """Print it."""
        with self.agent.shared(frame["path"]) as source:
            return self.spawn(["cat"], source, subprocess.PIPE, ENVIRONMENT)


JOBS = {"run": Job, "pty": Terminal, "put": Put, "get": Get, "fetch": Fetch}


def open_share() -> int:
    """Return a descriptor of the host's folder, mounted for as long as the descriptor lives."""
    place, libc = Path("/run/hapair-share"), ctypes.CDLL(None, use_errno=True)
    place.mkdir(mode=0o700, exist_ok=True)
    if libc.mount(b"none", bytes(place), b"hostfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount hostfs")
    share = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    libc.umount2(bytes(place), 2)  # MNT_DETACH
    place.rmdir()
    return share


def main() -> None:
    """Open the line, say that we are here, serve."""
    device = sys.argv[1] if len(sys.argv) > 1 else "/dev/ttyS0"
    line = int(device[3:]) if device.startswith("fd:") else os.open(device, os.O_RDWR | os.O_NOCTTY)
    if os.isatty(line):
        tty.setraw(line)
        termios.tcflush(line, termios.TCIFLUSH)
    if len(sys.argv) > 2:
        share = os.open(sys.argv[2], os.O_RDONLY)
    elif device.startswith("/dev/virtio-ports/"):
        share = os.open(tempfile.mkdtemp(prefix="hapair-", dir="/run"), os.O_RDONLY | os.O_DIRECTORY)
    else:
        share = open_share()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    ctypes.CDLL(None).mlockall(3)  # MCL_CURRENT | MCL_FUTURE; best effort
    agent = Agent(line, share)
    agent.send(None)  # ends whatever half line an earlier agent left
    agent.announce()
    agent.serve()


if __name__ == "__main__":
    main()
