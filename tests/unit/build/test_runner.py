"""Long commands end with whoever started them."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from lab import paths, proc
from lab.build import runner
from lab.deadline import Deadline, wait_until
from lab.errors import HostLacks

PARENT = """\
import sys
from pathlib import Path
from lab.build import runner
runner.run(["sh", "-c", "echo $$ >$0.new; mv $0.new $0; exec sleep 1000", sys.argv[1]],
           cwd=Path("/"), log=Path(sys.argv[1] + ".log"), limit_s=1000)
"""


@pytest.mark.spawns
def test_a_killed_parent_takes_the_command_along(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    parent = proc.spawn([sys.executable, "-c", PARENT, told], env={"PYTHONPATH": str(paths.PROJECT)})
    pid = wait_until("the command runs", lambda: told.exists() and int(told.read_text()), Deadline.after(20))
    ended = os.pidfd_open(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert select.select([ended], [], [], 20)[0], "the command goes on"
    os.close(ended)


@pytest.mark.spawns
def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostLacks, match="no-such-program is not installed"):
        runner.run(["no-such-program"], cwd=tmp_path, log=tmp_path / "log", limit_s=1)
