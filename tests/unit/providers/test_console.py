"""What is read from a console."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.providers import console


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("", "died"),
        ("reboot: Restarting system\n", "restart"),
        ("[   12.3] sysrq: Resetting\n", "restart"),
        ("[   12.3] reboot: Power down", "power-off"),
        ("reboot: System halted", "power-off"),
        ("x\nKernel panic - not syncing: sysrq triggered crash\nCPU: 0\n", "panic"),
        ("reboot: Power down\n[1.0] booting again\nreboot: Restarting system\n", "restart"),
        ("someone echoed: Restarting system\n", "died"),
    ],
)
def test_how_a_kernel_ended(text: str, ending: str) -> None:
    assert console.ending(text) == ending


@pytest.mark.parametrize(
    ("rest", "mode"),
    [("OK\nmore", "seccomp"), ("missing\n", "ptrace"), ("error\n", "ptrace"), ("", ""), ("O", "")],
)
def test_how_processes_are_run(rest: str, mode: str) -> None:
    assert console.mode(f"Core dump limits :\n{console.SECCOMP_CHECK}{rest}") == mode


def test_no_mode_before_the_kernel_has_checked() -> None:
    assert console.mode("Core dump limits :\n") == ""


def test_parts_of_a_console(tmp_path: Path) -> None:
    path = tmp_path / "n1.console"
    assert console.tail(path) == ""
    path.write_bytes(b"old\n" + b"".join(b"line %d\n" % number for number in range(20_000)) + b"\xff last")
    assert console.tail(path, 2) == "line 19999\n\N{REPLACEMENT CHARACTER} last"
    assert console.head(path, 4, 12) == "line 0\nline "
    assert console.end(path, 4).endswith(" last")
    assert len(console.end(path, 4)) <= console.TAIL_BYTES
    assert console.end(path, path.stat().st_size - 4) == "last"
