"""The tree put where nobody expects it, and run: three random prefixes, an empty environment."""

from __future__ import annotations

import random
import re
import shutil
import string
from dataclasses import dataclass
from pathlib import Path

from lab import proc
from lab.check.manifest import Command
from lab.check.report import Report
from lab.check.subject import Subject

LIMIT_S = 60.0
# A name may have 255 bytes, a path 4096 (linux/limits.h); the tree's own paths must still fit.
LONG_PARTS, LONG_NAME = 8, 200
RESOLVED = re.compile(r"^\s*(\S+) => (not found|\S.*?)(?: \(0x[0-9a-f]+\))?$")
# What stands for the system: only there may a library come from that the tree does not hold.
SYSTEM = ("/lib", "/usr/lib")
SHOWN = 300


@dataclass(frozen=True)
class Place:
    """One place that a tree is put at; `seen` is the path it is used through."""

    what: str
    real: Path
    seen: Path


def places(room: Path, seed: int) -> list[Place]:
    """Return three places below `room`; the same seed gives the same names."""
    chance = random.Random(seed)  # noqa: S311 - no secret, and to be repeated with the seed that the report shows

    def name(length: int) -> str:
        return "".join(chance.choices(string.ascii_letters + string.digits, k=length))

    odd = room / f"{name(4)} {name(4)}'s «{name(3)}»;&$(x)"
    long = room.joinpath(name(8), *(name(LONG_NAME) for _ in range(LONG_PARTS)))
    return [
        Place("with blanks and signs in its path", odd, odd),
        Place(f"of {len(str(long))} characters", long, long),
        Place("behind a link", room / name(8), room / name(8)),
    ]


def run(subject: Subject, room: Path, seed: int, report: Report) -> None:
    """Put the tree at each place, let the loader resolve every ELF file, and run what the manifest's checks name.

    Args:
        subject: the artifact, unpacked somewhere outside of `room`.
        room: an empty folder that nobody else writes to.
        seed: of the places' names.
        report: gets the faults.
    """
    commands = subject.manifest.checks.commands
    if not commands and any(facts.kind == "program" for facts in subject.elves.values()):
        report.fault("moved", "manifest.json", "names no command to run, and there are programs")
    for place in places(room, seed):
        place.real.mkdir(parents=True)
        if place.seen != place.real:
            place.seen.symlink_to(place.real)
        shutil.copytree(subject.tree.root, place.real / "tree", symlinks=True)
        _load(subject, place, report)
        for command in commands:
            _command(command, place, room, report)
        shutil.rmtree(place.real / "tree")


def _command(command: Command, place: Place, room: Path, report: Report) -> None:
    program, *words = command.run
    direct = place.seen / "tree" / program
    # By a link elsewhere too, as on PATH: $ORIGIN must be the real place.
    link = room / "path" / Path(program).name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(direct)
    for path in (direct, link):
        try:
            done = proc.run(["env", "-i", path, *words], limit_s=LIMIT_S, cwd=room, check=False)
        except proc.CommandFailed as error:
            report.fault("moved", program, f"at a place {place.what}: {error.message}")
            continue
        printed = (done.stdout + done.stderr).decode(errors="replace")
        tail = printed.strip()[-SHOWN:]
        if done.code != 0:
            report.fault("moved", program, f"at a place {place.what}: exit code {done.code}: {tail}")
        elif command.prints not in printed:
            report.fault("moved", program, f"at a place {place.what}: prints {tail!r}, not {command.prints!r}")


def _load(subject: Subject, place: Place, report: Report) -> None:
    """Ask the loader, for every dynamic file, where it would take each library from."""
    elves = subject.elves
    inside = {Path(path).name for path in elves} | {facts.soname for facts in elves.values()}
    at = place.seen / "tree"
    loader = next((facts.interpreter for facts in elves.values() if facts.interpreter), "/lib64/ld-linux-x86-64.so.2")
    for path, facts in sorted(elves.items()):
        if not facts.needed:
            continue
        done = proc.run(["env", "-i", loader, "--list", at / path], limit_s=LIMIT_S, check=False)
        if done.code != 0:
            tail = (done.stderr or done.stdout).decode(errors="replace").strip()[-SHOWN:]
            report.fault("loads", path, f"at a place {place.what}: {tail}")
        for line in done.text.splitlines():
            if found := RESOLVED.match(line):
                wrong = _wrong(found[1], found[2], at, inside)
                if wrong:
                    report.fault("loads", path, f"at a place {place.what}: {wrong}")


def _wrong(library: str, found: str, at: Path, inside: set[str]) -> str:
    if found == "not found":
        return f"{library} is not found"
    if library in inside and not Path(found).resolve().is_relative_to(at.resolve()):
        return f"takes {library} from {found}, not from the tree"
    if library not in inside and not found.startswith(SYSTEM):
        return f"takes {library} from {found}"
    return ""
