#!/usr/bin/env python3
"""Stands in for a UML kernel: takes its command line, prints its console lines, runs the real control agent.

SIGUSR1 restarts it, SIGUSR2 powers it off, SIGALRM makes it panic. `fake=mute` starts no agent, `fake=short` ends at
once after "Restarting system".
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

AGENT = Path(__file__).resolve().parents[3] / "hostfiles/lab/control.py"
LINES = {
    signal.SIGUSR1: "reboot: Restarting system",
    signal.SIGUSR2: "reboot: Power down",
    signal.SIGALRM: "Kernel panic - not syncing: asked for",
}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    words = dict(word.partition("=")[::2] for word in sys.argv[1:])
    say("Checking that seccomp filters can be installed...OK")
    umid = Path(words["uml_dir"]) / words["umid"]
    umid.mkdir()
    (umid / "pid").write_text(str(os.getpid()))
    for word, value in words.items():
        if word.startswith("vec"):
            card = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            card.connect(dict(part.partition("=")[::2] for part in value.split(","))["dst"])
            card.detach()
    if words.get("fake") == "short":
        say(LINES[signal.SIGUSR1])
        return 0
    signals = set(LINES)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    line = words["ssl0"].removeprefix("fd:")
    command = [sys.executable, "-IS", str(AGENT), f"fd:{line}", words["hostfs"]]
    agent = None if words.get("fake") == "mute" else subprocess.Popen(command, pass_fds=[int(line)])
    got = signal.sigwait(signals)
    say(LINES[signal.Signals(got)])
    if agent:
        agent.kill()
        agent.wait()
    if got == signal.SIGALRM:
        signal.raise_signal(signal.SIGKILL)
    with contextlib.suppress(FileNotFoundError):
        (umid / "pid").unlink()
        umid.rmdir()
    return 0


if __name__ == "__main__":
    sys.exit(main())
