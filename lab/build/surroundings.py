"""What a build can see of the machine and must not care about; `lab.build.vary` changes it and compares the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Surroundings:
    """The inside of the sandbox. The defaults are what every ordinary build gets; none of it is an input of the key."""

    root: str = "/build"
    """Where the steps find src, work, stage and deps."""
    prefix: str = "/opt/hapair"
    """What {prefix} stands for in a spec."""
    home: str = "/build/home"
    user: str = "root"
    uid: int = 0
    hostname: str = "hapair"
    timezone: str = "UTC"
    locale: str = "C.UTF-8"
    umask: int = 0o022
    jobs: int | None = None
    """What {jobs} stands for, and how many CPUs the steps may use; None: all that this process may use."""
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env: Mapping[str, str] = field(default_factory=dict)
    """More variables, for every step."""
    wrap: tuple[str, ...] = ()
    """Words before each step's command, inside the sandbox."""


PLAIN = Surroundings()
