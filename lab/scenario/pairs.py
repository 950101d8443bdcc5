"""Several pairs side by side: how many, what each worker of pytest-xdist is given, and what it gives back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import pytest

from lab.hosts.site import Site
from lab.providers import memory, pair
from lab.scenario.report import Result
from lab.scenario.runfolder import About
from lab.scenario.verdict import Outcome, Verdict

AUTO = 2
"""Pairs on two cores or more: one of User-Mode Linux waits half of the time, for time limits and its own nodes."""
MAX_PAIRS = 8
ALONE = (
    *("--keep", "--shell-on-failure", "--pdb", "--trace"),
    *("--collect-only", "--fixtures", "--setup-only", "--setup-plan", "--setup-show"),
)
"""Options of a person who looks on."""
OURS = "hapair"
"""The name of what is ours among what pytest-xdist carries between its processes."""


@dataclass(frozen=True)
class Share:
    """What one process plays: the run's seed and folder, its own lab, and whether it is a part of several."""

    seed: int
    folder: str
    lab: str
    part: bool = False


class Worker(Protocol):
    """What pytest-xdist tells of a worker that it is about to start."""

    config: pytest.Config
    gateway: Any
    workerinput: dict[str, Any]
    workeroutput: dict[str, Any]
    """There when the worker ended by itself."""


def choose(config: pytest.Config, site: Callable[[], Site]) -> None:
    """Let pytest-xdist start as many workers as there shall be pairs: none for a single one.

    Raises:
        pytest.UsageError: the number is none, or several pairs do not go with another option.
    """
    if is_worker(config):
        return
    asked = str(config.getoption("--pairs"))
    alone = [name for name in ALONE if config.getoption(name)]
    if asked == "auto":
        chosen = alone or config.option.keyword  # who names a scenario seldom means many
        count = 1 if chosen else auto(config.getoption("--provider"), site)
    elif asked.isdecimal() and 1 <= int(asked) <= MAX_PAIRS:
        count = int(asked)
    else:
        raise pytest.UsageError(f"--pairs {asked}: give a number from 1 to {MAX_PAIRS}, or auto")
    if count > 1 and alone:
        raise pytest.UsageError(f"--pairs {asked} and {alone[0]} do not go together: leave one of them out")
    if count > 1:
        config.option.numprocesses = count
        # One scenario at a time: they take from ten seconds to two minutes.
        config.option.dist, config.option.maxschedchunk = "load", 1
        config.option.maxworkerrestart = "0"  # a worker that died has left its lab behind


def auto(provider: str, site: Callable[[], Site]) -> int:
    """Return how many pairs this machine plays side by side; emulated virtual machines fill it alone."""
    cores = len(os.sched_getaffinity(0))
    if provider != "uml" or cores < AUTO:
        return 1
    room = memory.available_bytes() >> 20
    return AUTO if room >= AUTO * pair.needed_memory_mb(site()) else 1


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is one of several that play."""
    return "workerinput" in vars(config)


def give(worker: Worker, whole: Share) -> None:
    """Tell a worker its share; its lab is the run's, with a number from the second on."""
    number = int(str(worker.gateway.id).removeprefix("gw")) + 1
    name = whole.lab if number == 1 else f"{whole.lab}-{number}"
    worker.workerinput[OURS] = asdict(Share(whole.seed, whole.folder, name, part=True))


def given(config: pytest.Config) -> Share | None:
    """Return what this worker was given; None in a process that plays alone, or gives."""
    return Share(**vars(config)["workerinput"][OURS]) if is_worker(config) else None


def tell(config: pytest.Config, **names: list[str]) -> None:
    """Tell the process that reports what this worker left out, up, or removed: as the lists are when it has ended."""
    vars(config)["workeroutput"][OURS] = names


def told(worker: Worker, what: str) -> list[str]:
    """Return one of the lists that a worker told; nothing of one that died."""
    return list(getattr(worker, "workeroutput", {}).get(OURS, {}).get(what, ()))


def lab_of(worker: Worker) -> str:
    """Return the name of the lab that a worker was given."""
    return Share(**worker.workerinput[OURS]).lab


def packed(drawn: Result, about: About, command: str) -> str:
    """Return what the audit found, as text that one process can give to another."""
    return json.dumps({"drawn": asdict(drawn), "about": asdict(about), "command": command})


def unpacked(text: str) -> tuple[Result, About, str]:
    """Return what was packed."""
    found: dict[str, Any] = json.loads(text)
    drawn, about = found["drawn"], found["about"]
    drawn["verdict"] = Outcome(drawn["verdict"])
    drawn["invariants"] = {name: _verdict(verdict) for name, verdict in drawn["invariants"].items()}
    about["planted"] = tuple(about["planted"])
    return Result(**drawn), About(**about), str(found["command"])


def _verdict(fields: Mapping[str, str]) -> Verdict:
    return Verdict(Outcome(fields["outcome"]), fields["why"])
