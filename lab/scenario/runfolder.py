"""A run's folder: what the run notes there of each scenario beside the verdicts (run.json), and how it is read back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab.errors import BadInput
from lab.paths import PROJECT
from lab.scenario.history import Event, History
from lab.scenario.report import write_atomically
from lab.scenario.verdict import Outcome, Verdict

RUNS = PROJECT / "out" / "runs"
PAGE = "report.html"
NAME_A_RUN = "name the folder of a run, such as out/runs/20260102T030405Z-4711"
HISTORY = "history.jsonl"
OWN = (HISTORY, "verdict.json", "facts.json")
"""What a scenario writes beside the logs that it collects."""


def new(began: float) -> Path:
    """Return where a run that began then (wall time) is written: no other has it, even if it began in the same second.

    It is not made: what is only looked at leaves none.
    """
    return RUNS / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(began))}-{os.getpid()}"


@dataclass(frozen=True)
class About:
    """What a scenario is, for whoever reads of it later; `planted` names the invariants that had to turn red."""

    name: str
    folder: str
    number: int | None = None
    sentence: str = ""
    planted: tuple[str, ...] = ()
    repeat: str = ""
    """The one command that repeats it."""
    error: str = ""
    """What ended it before its end."""


class RunFile:
    """run.json of one run, whole at every moment."""

    def __init__(self, folder: Path, began: float) -> None:
        """Nothing is written before the first scenario has ended; `began` is in wall seconds."""
        self.folder, self.began = folder, began
        self.command = ""
        self.scenarios: list[About] = []

    def add(self, one: About) -> None:
        """Add a scenario and write the file anew, by rename."""
        self.scenarios.append(one)
        self.folder.mkdir(parents=True, exist_ok=True)
        scenarios = [asdict(each) for each in self.scenarios]
        data = {"began": round(self.began, 3), "command": self.command, "scenarios": scenarios}
        write_atomically(self.folder / "run.json", json.dumps(data, indent=1) + "\n")


@dataclass(frozen=True)
class Kept:
    """One scenario as its files tell it; `verdict` is None when it never came to one."""

    about: About
    verdict: Outcome | None
    invariants: Mapping[str, Verdict]
    events: tuple[Event, ...]
    logs: tuple[Path, ...]
    lost: int | None = None


@dataclass(frozen=True)
class RunFiles:
    """Everything that a run left behind; what is not known is empty or None."""

    folder: Path
    provider: str
    seed: int | None
    began: float | None
    command: str
    scenarios: tuple[Kept, ...]
    logs: tuple[Path, ...] = field(default=())


def newest(runs: Path = RUNS) -> Path:
    """Return the folder of the last run.

    Raises:
        BadInput: there is none.
    """
    found = [folder for folder in runs.glob("*") if is_run(folder)]
    if not found:
        raise BadInput(f"{runs}: no run is there", f"run some scenarios first (./dev nox -s failover), or {NAME_A_RUN}")
    return max(found, key=lambda folder: (folder.stat().st_mtime, folder.name))


def is_run(folder: Path) -> bool:
    """Return whether a run left something in a folder; one that was killed in its first scenario did."""
    return (folder / "summary.json").exists() or any(folder.glob(f"*/{HISTORY}"))


def read(folder: Path) -> RunFiles:
    """Read a run back.

    Raises:
        BadInput: it is no folder of a run, or a file in it is damaged; the message names the file, and the line.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder}: there is no such folder", NAME_A_RUN)
    if not is_run(folder):
        raise BadInput(f"{folder}: no run is there: neither summary.json nor a scenario's {HISTORY}", NAME_A_RUN)
    run, summary = _object(folder / "run.json"), _object(folder / "summary.json")
    drawn = _objects(folder / "summary.json", summary)
    listed = _objects(folder / "run.json", run) or [{"name": d.get("name"), "folder": d.get("name")} for d in drawn]
    abouts = [_about(folder, entry) for entry in listed]
    known = {about.folder for about in abouts}
    # A scenario that was killed is in neither file: its history is all there is of it.
    others = sorted(path.parent.name for path in folder.glob(f"*/{HISTORY}") if path.parent.name not in known)
    pairs = [(about, drawn[place] if place < len(drawn) else {}) for place, about in enumerate(abouts)]
    seed, began = summary.get("seed"), run.get("began")
    return RunFiles(
        folder=folder,
        provider=str(summary.get("provider") or ""),
        seed=seed if isinstance(seed, int) else None,
        began=float(began) if isinstance(began, int | float) else None,
        command=str(run.get("command") or ""),
        scenarios=tuple(_kept(folder, *pair) for pair in [*pairs, *((About(name, name), {}) for name in others)]),
        logs=tuple(path for path in (folder / name for name in ("summary.json", "junit.xml")) if path.exists()),
    )


def _kept(folder: Path, about: About, drawn: Mapping[str, object]) -> Kept:
    own = folder / about.folder
    history = own / HISTORY
    lost = drawn.get("lost")
    return Kept(
        about=about,
        verdict=_outcome(folder / "summary.json", drawn["verdict"]) if drawn else None,
        invariants=dict(_verdicts(own / "verdict.json")),
        events=History.load(history).events() if history.exists() else (),
        logs=tuple(sorted(path for path in own.glob("*") if path.is_file() and not path.name.startswith("."))),
        lost=lost if isinstance(lost, int) else None,
    )


def _about(folder: Path, entry: Mapping[str, object]) -> About:
    number, planted = entry.get("number"), entry.get("planted")
    name, own = str(entry.get("name") or ""), str(entry.get("folder") or "")
    if not name or Path(own).name != own:
        raise BadInput(f"{folder / 'run.json'}: a scenario has no name, or a folder outside the run: {own!r}")
    return About(
        name=name,
        folder=own,
        number=number if isinstance(number, int) else None,
        sentence=str(entry.get("sentence") or ""),
        planted=tuple(str(red) for red in planted) if isinstance(planted, list) else (),
        repeat=str(entry.get("repeat") or ""),
        error=str(entry.get("error") or ""),
    )


def _verdicts(path: Path) -> Iterator[tuple[str, Verdict]]:
    for name, said in _object(path).items():
        fields = said if isinstance(said, dict) else {}
        yield name, Verdict(_outcome(path, fields.get("outcome")), str(fields.get("why") or ""))


def _outcome(path: Path, text: object) -> Outcome:
    try:
        return Outcome(str(text))
    except ValueError:
        raise BadInput(f"{path}: {text!r} is no verdict", "a verdict is valid, unknown or invalid") from None


def _objects(path: Path, found: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    scenarios = found.get("scenarios", [])
    if not isinstance(scenarios, list) or not all(isinstance(entry, dict) for entry in scenarios):
        raise BadInput(f"{path}: its scenarios are no list of objects", "run the scenarios again")
    return scenarios


def _object(path: Path) -> Mapping[str, object]:
    """Read a JSON object; a file that is not there is an empty one: a run may have been killed before it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: {error.msg}", "run the scenarios again") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: it cannot be read ({error})", "run the scenarios again") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: not a JSON object", "run the scenarios again")
    return found
