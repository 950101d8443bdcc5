"""Everything that nodes, store and supervisor say during a scenario: into files, and what matters into the history.

Followed from before the scenario until after it, across reboots, and complete before anything is torn down.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

from lab.deadline import Deadline
from lab.errors import BadInput
from lab.providers.base import Lab, Node
from lab.scenario.clocks import Clocks
from lab.scenario.follow import Follower
from lab.scenario.history import Event, History
from lab.scenario.observed import NODES

# The last is no complaint, but the cause of one that I10 excuses.
NOTABLE = re.compile(
    rb"Split-Brain|BUG:|WARNING:|Oops|hung task|blocked for more than|Kernel panic|BTRFS (error|critical)"
    rb"|drbd_uuid_new_current"
)
BUG = re.compile(r"BUG:|WARNING:|Oops|hung task|blocked for more than|Kernel panic|BTRFS (error|critical)")
_KERNEL_LINE = re.compile(rb"^(\d+\.\d+) \S+ kernel: (.*)$")
_UNIT_LINE = re.compile(
    rb"^(\d+\.\d+) \S+ systemd\[1\]: (Mounting|Mounted|Starting|Started) (\S+(?:\.mount|lxd\.service)) "
)
GREET_S = 10.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"
STORE_LOG = "/var/lib/hapair-store/requests.jsonl"
PROXY_LOG = "/run/hapair-store-proxy.jsonl"
DECISIONS = "/var/log/hapair/decisions.jsonl"
EVENTS2 = ["stdbuf", "-oL", "drbdsetup", "events2", "--timestamps"]


def parse_events2(line: str, source: str) -> Event | None:
    """Read one line of `drbdsetup events2 --timestamps`; None for a line that says nothing (the end of a dump).

    `change` is exists, create, change, destroy, call or response; `object` resource, connection, device,
    peer-device, path or helper; the rest are the fields as printed.
    """
    words = line.split()
    if len(words) < 3 or words[2] == "-":
        return None
    try:
        t = datetime.fromisoformat(words[0]).timestamp()
    except ValueError:
        return None
    fields = dict(word.split(":", 1) for word in words[3:] if ":" in word)
    numbers = {key: int(value) for key, value in fields.items() if value.isdigit()}
    return Event(t, source, "drbd", {**fields, **numbers, "change": words[1], "object": words[2]})


def parse_kernel(line: bytes, source: str) -> Event | None:
    """Return the event of a kernel line of `journalctl -o short-unix` that an invariant looks at, else None."""
    found = _KERNEL_LINE.match(line)
    if not found or not NOTABLE.search(found[2]):
        return None
    text = found[2].decode(errors="replace")
    return Event(float(found[1]), source, "kernel", {"text": text, "bug": bool(BUG.search(text))})


def parse_unit(line: bytes, source: str) -> Event | None:
    """Return the event of a journal line in which systemd tells of a mount's or an LXD's start, else None."""
    found = _UNIT_LINE.match(line)
    if not found:
        return None
    return Event(float(found[1]), source, "unit", {"unit": found[3].decode(), "change": found[2].decode()})


class Recorder:
    """The followers of one scenario, and the files that they write in `folder`."""

    def __init__(self, lab: Lab, history: History, folder: Path, clocks: Clocks, *, since: float = 0.0) -> None:
        """Prepare; what the nodes have logged before the wall time `since` belongs to another scenario."""
        self._since = since
        self._before: dict[tuple[str, str], Event] = {}
        """The last version of each lock object, and who was told, before `since`."""
        self.lab, self.history, self.folder, self.clocks = lab, history, folder, clocks
        self._files: dict[str, BinaryIO] = {}
        self._writing = threading.Lock()
        self._boots: dict[str, str] = {}
        self._times: dict[str, str] = {}
        local = [lab.folder / "events.jsonl", *(lab.folder / f"{name}.console" for name in lab.nodes)]
        self._local = {path: path.stat().st_size if path.exists() else 0 for path in local}
        self.followers = [*self._of_nodes(), *self._of_store()]

    def start(self) -> None:
        """Begin to follow everything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for follower in self.followers:
            follower.start()

    def stop(self, deadline: Deadline) -> None:
        """End every follower, then add what the lab itself wrote meanwhile; the files are complete afterwards."""
        ending = [threading.Thread(target=follower.stop, args=(deadline,)) for follower in self.followers]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()
        for path, start in self._local.items():
            self._copy(path, start)
        for event in self._before.values():
            # The lock as the scenario found it: nobody may have changed it since.
            self.history.append(event)
        with self._writing:
            for file in self._files.values():
                file.close()

    def _of_nodes(self) -> Iterator[Follower]:
        for name in NODES:
            node = self.lab.nodes[name]
            yield self._follower(node, "journal", partial(self._journal_argv, name), self._journal(name))
            yield self._follower(node, "events2", lambda: EVENTS2, self._events2(name))
            yield self._follower(node, "decisions", lambda: _tail(DECISIONS), self._log(name, name, "decision"))

    def _of_store(self) -> Iterator[Follower]:
        """The store tells what it has changed, the proxy before it who was told what."""
        third = self.lab.nodes["third"]
        for stream, path, kind in (("requests", STORE_LOG, "request"), ("proxy", PROXY_LOG, "proxy")):
            yield self._follower(third, stream, partial(_tail, path), self._log(third.name, "store", kind))

    def _follower(
        self, node: Node, stream: str, argv: Callable[[], list[str]], on_line: Callable[[bytes], None]
    ) -> Follower:
        def told(change: str) -> None:
            self.history.note(node.name, change, stream=stream)

        return Follower(node, stream, argv, on_line, before=lambda: self._greet(node), on_change=told)

    def _greet(self, node: Node) -> None:
        """Note which boot of the node answers now, once a boot."""
        boot = node.get(BOOT_ID).decode().strip()
        if self._since:
            # A journal that says nothing of its own would not tell that it is followed.
            node.run(["logger", "-t", "hapair-lab", "followed by a scenario"], limit_s=GREET_S, check=False)
        with self._writing:
            known = self._boots.get(node.name) == boot
            self._boots[node.name] = boot
        if not known:
            self.clocks.read(node, boot)
            self.history.note(node.name, "boot", boot=boot)

    def _journal_argv(self, node: str) -> list[str]:
        known = self._times.get(node, f"{self._since:.6f}" if self._since else "")
        since = [f"--since=@{known}"] if known else []
        return ["journalctl", "--follow", "--no-tail", "--boot", "--output=short-unix", "-q", *since]

    def _journal(self, node: str) -> Callable[[bytes], None]:
        def on_line(line: bytes) -> None:
            stamp = line.split(b" ", 1)[0]
            if re.fullmatch(rb"\d+\.\d+", stamp):
                self._times[node] = stamp.decode()
            kernel = _KERNEL_LINE.match(line.rstrip(b"\n"))
            self._write(f"{node}.kernel" if kernel else f"{node}.journal", line)
            event = (parse_kernel if kernel else parse_unit)(line.rstrip(b"\n"), node)
            if event:
                self.history.append(self.clocks.corrected(event, node))

        return on_line

    def _events2(self, node: str) -> Callable[[bytes], None]:
        def on_line(line: bytes) -> None:
            self._write(f"{node}.events2", line)
            event = parse_events2(line.decode(errors="replace"), node)
            if event:
                self.history.append(self.clocks.corrected(event, node))

        return on_line

    def _log(self, node: str, source: str, kind: str) -> Callable[[bytes], None]:
        """Take lines of a JSON log; a log that is read from its start again brings nothing twice."""
        seen: set[bytes] = set()

        def on_line(line: bytes) -> None:
            if line in seen:
                return
            seen.add(line)
            event = None
            with contextlib.suppress(BadInput):
                event = self.clocks.corrected(as_event(line, source, kind), node)
            if event and event.t < self._since:
                if source == "store" and event.text("method") == "PUT" and event.number("status") in (200, 201):
                    self._before[kind, event.text("name")] = event
                return
            self._write(f"{source}.{kind}s.jsonl", line)
            if event:
                self.history.append(event)

        return on_line

    def _write(self, name: str, line: bytes) -> None:
        with self._writing:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = (self.folder / name).open("ab", buffering=0)
            if not file.closed:
                file.write(line if line.endswith(b"\n") else line + b"\n")

    def _copy(self, path: Path, start: int) -> None:
        """Copy what a file of the lab (the supervisor's events, a console) gained since the start."""
        try:
            with path.open("rb") as log:
                log.seek(start)
                lines = log.readlines()
        except OSError:
            return
        for line in lines:
            self._write(f"lab.{path.name}" if path.suffix == ".jsonl" else path.name, line)
            if path.suffix == ".jsonl":
                with contextlib.suppress(BadInput):
                    self.history.append(Event.from_json(line, "lab"))


def as_event(line: bytes, source: str, kind: str) -> Event:
    """Read one line of another program's log as an event of `kind`, whatever fields it has beside `t`.

    Raises:
        BadInput: it is no JSON object with a time.
    """
    try:
        fields = json.loads(line)
        t = float(fields.pop("t"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"no line of a log: {line[:120]!r} ({error})") from None
    return Event(t, source, kind, fields)


def _tail(path: str) -> list[str]:
    return ["tail", "-n", "+1", "-F", "-q", path]
