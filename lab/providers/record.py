"""What a running lab leaves on disk so that a later command can clean up after a killed supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "run.json"


@dataclass
class Record:
    """The processes of a lab (name -> pid, start time in clock ticks) and the folder of its nodes' memory."""

    boot_id: str
    memory: str
    processes: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def new(cls, memory: Path) -> Record:
        """Return a record of this process, as the supervisor."""
        return cls(_boot_id(), str(memory), {"supervisor": identity(os.getpid())})

    @classmethod
    def load(cls, folder: Path) -> Record | None:
        """Return the record of a lab; None if there is none, or none that can be read."""
        try:
            data = json.loads((folder / FILE).read_text())
            processes = {name: (int(pid), int(start)) for name, (pid, start) in data["processes"].items()}
            return cls(str(data["boot_id"]), str(data["memory"]), processes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def save(self, folder: Path) -> None:
        """Write the record, atomically."""
        beside = folder / f"{FILE}~"
        beside.write_text(json.dumps(asdict(self)))
        beside.replace(folder / FILE)

    def alive(self, name: str) -> bool:
        """True if that very process still runs: same machine boot, same id, same start time."""
        if self.boot_id != _boot_id() or name not in self.processes:
            return False
        return identity(self.processes[name][0]) == self.processes[name]

    def kill(self) -> None:
        """Kill the process group of every recorded process that still runs, the supervisor first."""
        for name in sorted(self.processes, key=lambda name: name != "supervisor"):
            if self.alive(name):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.processes[name][0], signal.SIGKILL)

    def remove_memory(self) -> None:
        """Remove the folder of the nodes' memory, if it is one of ours."""
        folder = Path(self.memory)
        if folder.name.startswith("hapair-"):
            shutil.rmtree(folder, ignore_errors=True)


def identity(pid: int) -> tuple[int, int]:
    """Return a process's id and start time (field 22 of /proc/PID/stat); the time is 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return pid, 0
    fields = text.rpartition(")")[2].split()
    return pid, 0 if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
