#!/usr/bin/python3 -IS
"""Control agent of a lab node: runs commands that arrive on a serial line, without any network.

One JSON object a line in both directions; binary is base64; `id` tells the jobs apart, which run side by side.
  host -> node  {"id", "op": "run", "argv", "limit", "stdin"?, "env"?}   `stdin` names a file of the share
                {"id", "op": "pty", "argv", "limit", "rows", "cols"}     then {"id", "op": "data"|"size", ...}
                {"id", "op": "put", "path", "mode", "from"}   {"id", "op": "get", "path", "to"}   whole files
                {"id", "op": "kill"}   {"id", "op": "ping"}
  node -> host  {"ready": {...}} when the agent starts; {"ack": bytes read}; {"id", "out"|"err": base64};
                {"id", "end": exit code}; {"id", "fail": text}
Lines that are no such object are ignored: boot messages and half lines do no harm.

The share is a folder of the host (User-Mode Linux's hostfs) that only this agent sees: it is mounted, opened and
unmounted again, and lives on in the opened descriptor. Whole files go through it, because the line takes one byte a
system call towards the node; and a reader who lets more than 3968 unread bytes pile up in it stalls the line for
good (line_throttle() of Linux 7.2 is never undone): hence the acknowledgements, and the host's small window.

Usage: control.py [TTY [SHARE]]; TTY is /dev/ttyS0, or "-" for standard input; SHARE is a folder to use as it is.
"""

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
import sys
import termios
import time
import tty

CHUNK_BYTES = 32 << 10
OUT_LIMIT_BYTES = 256 << 10  # above it the agent stops reading from its jobs until the line has taken some
GRACE_S = 2.0  # between SIGTERM and SIGKILL
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
LINE_GONE = 3


class Agent:
    """The line, the share, and the jobs that run."""

    def __init__(self, line, share):
        self.line, self.share = line, share
        self.jobs = {}
        self.inward, self.outward = bytearray(), bytearray()
        self.selector = selectors.DefaultSelector()
        os.set_blocking(line, False)
        self.selector.register(line, selectors.EVENT_READ, self.on_line)

    def send(self, frame):
        """Queue one frame; it goes out as fast as the line takes it."""
        if not self.outward:
            self.selector.modify(self.line, selectors.EVENT_READ | selectors.EVENT_WRITE, self.on_line)
        self.outward += json.dumps(frame, separators=(",", ":")).encode() + b"\n"

    def serve(self):
        """Serve until the line is gone."""
        while True:
            due = min((job.deadline for job in self.jobs.values()), default=None)
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            if len(self.outward) > OUT_LIMIT_BYTES:
                self.wait_for_line(wait_s)
            else:
                for key, events in self.selector.select(wait_s):
                    key.data(events)
            now = time.monotonic()
            for job in [job for job in self.jobs.values() if job.deadline <= now]:
                job.expire()

    def wait_for_line(self, wait_s):
        """Wait for nothing but the line: the pipes of the jobs have to wait until it has taken what is queued."""
        with selectors.PollSelector() as only:
            only.register(self.line, selectors.EVENT_READ | selectors.EVENT_WRITE)
            for _, events in only.select(wait_s):
                self.on_line(events)

    def on_line(self, events):
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

    def on_frame(self, line):
        """Obey one line, if it is a frame."""
        try:
            frame = json.loads(line)
            number, op = frame["id"], frame["op"]
        except (ValueError, TypeError, KeyError):
            return
        try:
            if op == "ping":
                self.send({"id": number, "end": 0})
            elif op in JOBS:
                self.jobs[number] = JOBS[op](self, number, frame)
            elif number in self.jobs:
                self.jobs[number].take(op, frame)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.send({"id": number, "fail": str(error)})


class Job:
    """A child process in a session of its own; what it prints is passed on as it comes."""

    def __init__(self, agent, number, frame):
        self.agent, self.number = agent, number
        self.deadline = time.monotonic() + frame.get("limit", 3600)
        self.signal = signal.SIGTERM
        self.streams = {}
        self.start(frame)
        self.exit = os.pidfd_open(self.pid)
        agent.selector.register(self.exit, selectors.EVENT_READ, self.on_exit)

    def start(self, frame):
        """Start the child on two pipes."""
        stdin = os.open(frame["stdin"], os.O_RDONLY, dir_fd=self.agent.share) if "stdin" in frame else NULL
        (stdout, to_out), (stderr, to_err) = os.pipe(), os.pipe()
        self.pid = fork(lambda: self.child(frame), (stdin, to_out, to_err))
        for fd in {stdin, to_out, to_err} - {NULL}:
            os.close(fd)
        self.follow(stdout, "out")
        self.follow(stderr, "err")

    def child(self, frame):
        """What the child does; it never returns."""
        execute(frame)

    def follow(self, fd, stream):
        """Pass on what comes out of `fd`."""
        os.set_blocking(fd, False)
        self.streams[fd] = stream
        self.agent.selector.register(fd, selectors.EVENT_READ, lambda _: self.on_output(fd))

    def on_output(self, fd):
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

    def take(self, op, _frame):
        """Obey a later frame about this job."""
        if op == "kill":
            self.expire()

    def expire(self):
        """End the process group: politely first, and after GRACE_S for good."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, self.signal)
        self.deadline = time.monotonic() + GRACE_S
        self.signal = signal.SIGKILL

    def on_exit(self, _events):
        """Report the end. What the child left in its pipes still counts; what its own children add later does not."""
        _, status = os.waitpid(self.pid, 0)
        for fd in list(self.streams):
            while fd in self.streams and self.on_output(fd):
                pass
        for fd in (*self.streams, self.exit):
            self.agent.selector.unregister(fd)
            os.close(fd)
        del self.agent.jobs[self.number]
        self.agent.send({"id": self.number, "end": os.waitstatus_to_exitcode(status)})


class Terminal(Job):
    """A child on a terminal of its own."""

    def start(self, frame):
        """Start the child on a new terminal."""
        ours, theirs = pty.openpty()
        self.terminal = ours
        self.take("size", frame)
        self.pid = fork(lambda: self.child(frame), (theirs, theirs, theirs), terminal=True)
        os.close(theirs)
        self.follow(ours, "out")

    def take(self, op, frame):
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

    def child(self, frame):
        """Copy, rename."""
        path, beside = frame["path"], f"{frame['path']}.{self.number}~"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        source = os.open(frame["from"], os.O_RDONLY, dir_fd=self.agent.share)
        target = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            copy(source, target)
            os.fchmod(target, frame["mode"])
            if frame.get("sync"):
                os.fsync(target)
            os.rename(beside, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise


class Get(Job):
    """A file that goes into the share."""

    def child(self, frame):
        """Copy."""
        source = os.open(frame["path"], os.O_RDONLY)
        copy(source, os.open(frame["to"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.agent.share))


JOBS = {"run": Job, "pty": Terminal, "put": Put, "get": Get}
NULL = os.open(os.devnull, os.O_RDONLY)


def copy(source, target):
    """Copy all that `source` has."""
    while data := os.read(source, 1 << 20):
        while data:
            data = data[os.write(target, data) :]


def execute(frame):
    """Become the command of a frame."""
    argv = frame["argv"]
    os.execvpe(argv[0], argv, {**ENVIRONMENT, **frame.get("env", {})})


def fork(call, fds, terminal=False):
    """Call `call` in a child that has a session of its own and `fds` as its standard streams; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 127
    try:
        os.setsid()
        for target, fd in enumerate(fds):
            os.dup2(fd, target)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        for sig in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, signal.SIG_DFL)
        os.chdir("/")
        set_oom_score(0)
        call()
        code = 0
    except OSError as error:
        os.write(2, f"{error.strerror}: {error.filename or ''}\n".encode())
    finally:
        os._exit(code)  # never back into the agent's loop, whatever happened


def set_oom_score(score):
    """Tell the out-of-memory killer how much this process is worth; best effort."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


def open_share():
    """Return a descriptor of the host's folder, mounted for as long as the descriptor lives."""
    place, libc = b"/run/hapair-share", ctypes.CDLL(None, use_errno=True)
    os.makedirs(place, 0o700, exist_ok=True)
    if libc.mount(b"none", place, b"hostfs", 0, None):
        raise OSError(ctypes.get_errno(), "mount hostfs")
    share = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    libc.umount2(place, 2)  # MNT_DETACH
    os.rmdir(place)
    return share


def main():
    """Open the line, say that we are here, serve."""
    device, folder = (*sys.argv[1:], *("/dev/ttyS0", None)[len(sys.argv) - 1 :])
    line = 0 if device == "-" else os.open(device, os.O_RDWR | os.O_NOCTTY)
    if os.isatty(line):
        tty.setraw(line)
        termios.tcflush(line, termios.TCIFLUSH)
    share = os.open(folder, os.O_RDONLY) if folder else open_share()
    set_oom_score(-1000)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mlockall(3)  # MCL_CURRENT | MCL_FUTURE
    with open("/proc/sys/kernel/random/boot_id") as boot_id, open("/proc/uptime") as uptime:
        ready = {"boot_id": boot_id.read().strip(), "uptime_s": float(uptime.read().split()[0]), "pid": os.getpid()}
    agent = Agent(line, share)
    agent.send(None)  # ends whatever half line an earlier agent left
    agent.send({"ready": ready})
    agent.serve()


if __name__ == "__main__":
    main()
