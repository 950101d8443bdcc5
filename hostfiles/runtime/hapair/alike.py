"""What must be alike on both nodes for one to go on with what the other served: LXD's schemas, liblxc, the id maps.

Each agent tells its facts in an object of its own beside the lock (`LOCK.NODE`), again whenever a file behind them has
changed, so that the peer can compare before it stops anything. No LXD need run for that: the schema versions stand in
LXD's program, in the texts that make new databases; liblxc is asked itself; the id maps are root's lines.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from hapair import proc
from hapair.config import Config
from hapair.fence import base
from hapair.fence.site import SiteStore
from hapair.fencing import replace_file
from hapair.paths import Paths

FORMAT = 1
LIMIT_S = 15.0
RETRY_S = 2.0
"""Pause before the facts are told again to a store that did not take them."""
PEER_S = 10.0
"""How long a request waits for the peer's facts: one that has just booted may still be looking at its own."""
PAUSE_S = 0.5
KNOWN_S = 5.0
"""How long a promotion waits for this node's own first look."""
SCHEMA, LIBLXC, ID_MAPS = "LXD schema", "liblxc", "id maps"
UNKNOWN = "unknown"
LXD_PATH = re.compile(r"path=(\S+)")
LIBLXC_PATH = re.compile(r"liblxc\.so\.\S* => (/\S+)")
VERSIONED = re.compile(rb"INSERT INTO schema \(version, updated_at\) VALUES \((\d+), ")
"""How LXD's text of a new database ends (schema.go in lxd/db/node and lxd/db/cluster)."""
LOCAL = b"CREATE TABLE raft_nodes"
"""Stands shortly before that in the local database's text alone."""
BEFORE = 1024
CHUNK_BYTES = 1 << 18
ASK_LIBLXC = (
    "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); lib.lxc_get_version.restype = ctypes.c_char_p; "
    "print(lib.lxc_get_version().decode())"
)

Facts = Dict[str, str]


def program(config: Config, resource: str) -> Path | None:
    """Return the LXD that the resource's unit starts; None: systemd does not tell."""
    unit = config.resources[resource].lxd_unit
    found = LXD_PATH.search(proc.run(["systemctl", "show", "--property=ExecStart", "--value", unit], LIMIT_S).output)
    return Path(found.group(1)) if found else None


def version(lxd: Path | None) -> str:
    """Return the version that an LXD says it has."""
    done = proc.run([str(lxd), "--version"], LIMIT_S) if lxd else None
    return done.last_line if done is not None and done.ok else UNKNOWN


def schema(lxd: Path | None) -> str:
    """Return the versions of the databases that an LXD makes and expects; "" where its program does not show them."""
    found: Dict[bool, int] = {}
    kept = b""
    try:
        with (lxd or Path()).open("rb") as text:
            while True:
                data = text.read(CHUNK_BYTES)
                if not data:
                    break
                first = not kept
                kept = kept[-2 * BEFORE :] + data
                for one in VERSIONED.finditer(kept, 0 if first else BEFORE):
                    local = LOCAL in kept[max(0, one.start() - BEFORE) : one.start()]
                    # A former text of the global database is there, too, to bring old ones up to date.
                    found[local] = max(found.get(local, 0), int(one.group(1)))
    except OSError:
        return ""
    return f"local {found[True]}, global {found[False]}" if len(found) == len((True, False)) else ""


def library(lxd: Path | None) -> Path | None:
    """Return the liblxc that an LXD gets from the loader, without starting that LXD."""
    found = LIBLXC_PATH.search(proc.run(["ldd", str(lxd)], LIMIT_S).output) if lxd else None
    return Path(found.group(1)) if found else None


def liblxc(path: Path | None) -> str:
    """Return the version that a liblxc says it has: what LXD calls `driver_version`."""
    # A process of its own: the agent keeps no library that may be replaced under it.
    done = proc.run([sys.executable, "-c", ASK_LIBLXC, str(path)], LIMIT_S) if path else None
    return done.last_line if done is not None and done.ok else UNKNOWN


def id_maps(paths: Paths) -> str:
    """Return root's lines of subuid and subgid, the only ones that LXD goes by."""
    found = []
    for name in ("subuid", "subgid"):
        try:
            lines = (paths.root / "etc" / name).read_text(errors="replace").split()
        except OSError:
            lines = []
        own = [line[len("root:") :] for line in lines if line.startswith("root:")]
        found.append(f"{name} {' '.join(own) or 'none'}")
    return ", ".join(found)


@dataclass(frozen=True)
class Found:
    """The facts, the schema alone ("": unknown), the files that they come from, and how those were found."""

    facts: Facts
    schema: str
    files: Tuple[str, ...]
    stamps: Tuple[object, ...]

    @property
    def stale(self) -> bool:
        """True once one of the files has changed."""
        return self.stamps != _stamps(self.files)


def gather(config: Config, resource: str, paths: Paths) -> Found:
    """Look at everything, unless it was looked at in this boot and is as it was: an agent may start in a takeover."""
    lxd = program(config, resource)
    kept = _kept(paths.alike(resource), lxd)
    if kept is not None and not kept.stale:
        return kept
    shared = library(lxd)
    etc = (paths.root / "etc" / name for name in ("subuid", "subgid", "ld.so.cache"))
    files = (str(lxd), str(shared), *(str(path) for path in etc))
    # A file that changes meanwhile counts as changed afterwards.
    stamps = _stamps(files)
    made = schema(lxd)
    facts = {SCHEMA: made or f"{UNKNOWN}, of LXD {version(lxd)}", LIBLXC: liblxc(shared), ID_MAPS: id_maps(paths)}
    found = Found(facts, made, files, stamps)
    with contextlib.suppress(OSError):
        replace_file(paths.alike(resource), json.dumps(asdict(found)).encode(), durable=False)
    return found


def _kept(path: Path, lxd: Path | None) -> Found | None:
    try:
        told = json.loads(path.read_bytes())
        stamps = tuple(tuple(one) if one else None for one in told["stamps"])
        kept = Found(dict(told["facts"]), str(told["schema"]), tuple(told["files"]), stamps)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if kept.files[:1] == (str(lxd),) else None


def differences(mine: Facts, theirs: Facts, me: str, peer: str) -> List[str]:
    """Return what is not alike, with both values and the nodes' names."""
    return [
        f"{name}: {mine.get(name, UNKNOWN)} on {me}, {theirs.get(name, UNKNOWN)} on {peer}"
        for name in (SCHEMA, LIBLXC, ID_MAPS)
        if mine.get(name) != theirs.get(name)
    ]


class Alike:
    """The facts of one resource on this node: looked at again when their files change, and told to the peer."""

    def __init__(self, config: Config, resource: str, paths: Paths, tell: Callable[[str], None]) -> None:
        """`tell` is told in words why the store does not take the facts, once for each new reason."""
        self._config, self._resource, self._paths, self._tell = config, resource, paths, tell
        self._store = SiteStore(config.store, paths)
        self._found: Found | None = None
        self._known = threading.Event()
        self._running = False
        self._trouble, self._again_at = "not told yet", 0.0

    def look(self) -> None:
        """Begin a look, in a thread of its own, when one is due; only called by the deciding thread."""
        stale = self._found is None or self._found.stale
        due = stale or (self._trouble and time.monotonic() >= self._again_at)
        if due and not self._running:
            self._running = True
            threading.Thread(target=self._look, name=f"{self._resource}-alike", daemon=True).start()

    def schema(self) -> str:
        """Return the schema of this node's LXD, "" when it is not known."""
        self._known.wait(KNOWN_S)
        return self._found.schema if self._found is not None else ""

    def objection(self) -> str:
        """Return why the peer must not go on with what this node serves, as far as facts tell; or ""."""
        until = time.monotonic() + PEER_S
        me, peer = self._config.node, self._config.peer
        mine = gather(self._config, self._resource, self._paths).facts
        while True:
            theirs, why = self._ask()
            if theirs is not None:
                found = differences(mine, theirs, me, peer)
                return f"{me} and {peer} are not alike ({'; '.join(found)})" if found else ""
            if time.monotonic() >= until:
                return f"nobody knows what {peer} runs: {why}"
            # Nothing announces that the peer has written to the store.
            time.sleep(PAUSE_S)

    def _name(self, node: str) -> str:
        return f"{self._config.lock_name(self._resource)}.{node}"

    def _look(self) -> None:
        try:
            self._found = gather(self._config, self._resource, self._paths)
            self._known.set()
            trouble = self._publish(self._found.facts)
            if trouble and trouble != self._trouble:
                self._tell(trouble)
            self._trouble, self._again_at = trouble, time.monotonic() + RETRY_S
        finally:
            self._running = False

    def _publish(self, facts: Facts) -> str:
        """Write this node's object, unless it says so already; return what went wrong, or ""."""
        limit_s, name = self._config.store.timeout_s, self._name(self._config.node)
        body = json.dumps({"format": FORMAT, "node": self._config.node, "facts": facts}, sort_keys=True).encode()
        seen = self._store.read(name, limit_s)
        there = seen.found is base.Found.OBJECT
        if seen.found is base.Found.UNAVAILABLE or (there and seen.body == body):
            return seen.text
        wrote = self._store.write(name, body, seen.tag if there else None, limit_s)
        return "" if wrote.written is base.Written.YES else wrote.text or "another write came first"

    def _ask(self) -> Tuple[Facts | None, str]:
        """Return what the peer has told, or None and why that is not known."""
        peer = self._config.peer
        seen = self._store.read(self._name(peer), self._config.store.timeout_s)
        if seen.found is base.Found.MISSING:
            return None, "its agent has told nothing to the store yet"
        if seen.found is base.Found.UNAVAILABLE:
            return None, seen.text
        try:
            told = json.loads(seen.body)
            if told["format"] != FORMAT or told["node"] != peer:
                return None, f"the store holds something else: install one hapair on both, and restart that of {peer}"
            return {str(name): str(value) for name, value in dict(told["facts"]).items()}, ""
        except (ValueError, KeyError, TypeError, RecursionError) as bad:
            return None, f"the store holds something else ({type(bad).__name__})"


def _stamps(files: Tuple[str, ...]) -> Tuple[object, ...]:
    """Return what changes whenever one of the files does."""
    found: List[object] = []
    for path in files:
        try:
            seen = Path(path).stat()
            found.append((seen.st_ino, seen.st_size, seen.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)
