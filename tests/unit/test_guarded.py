"""Tasks end with a message, a hint and an exit code; and they unwind whatever ends them."""

import inspect
import os
import signal
import sys

import pytest

from lab import proc
from lab.errors import BadInput, ExitCode, HapairError, HostLacks, TimedOut
from lab.paths import PROJECT
from lab.tasks._run import guarded


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (HapairError("it broke", "mend it"), ExitCode.FAILED),
        (TimedOut("it broke", "mend it"), ExitCode.FAILED),
        (BadInput("it broke", "mend it"), ExitCode.BAD_INPUT),
        (HostLacks("it broke", "mend it"), ExitCode.HOST_LACKS),
    ],
)
def test_errors_become_a_message_and_a_code(
    error: HapairError, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    @guarded
    def body() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        body()
    assert ended.value.code == code
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "error: it broke\n  hint: mend it\n")


def test_exit_codes_are_what_the_documents_say() -> None:
    assert [(code.name, int(code)) for code in ExitCode] == [
        ("DONE", 0),
        ("FAILED", 1),
        ("BAD_INPUT", 2),
        ("HOST_LACKS", 3),
    ]


def test_success_returns_the_value() -> None:
    assert guarded(lambda a, b=2: a + b)(1, b=3) == 4


def test_faults_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)()


def test_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    @guarded
    def body() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        body()
    assert (ended.value.code, capsys.readouterr().err) == (130, "error: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_unwind_and_handlers_come_back(number: signal.Signals, code: int) -> None:
    cleaned = []
    before = signal.getsignal(number)

    @guarded
    def body() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as ended:
        body()
    assert (ended.value.code, cleaned, signal.getsignal(number)) == (code, [True], before)


def test_signature_and_docstring_stay() -> None:
    def body(ctx: object, name: str, keep: bool = False) -> None:
        """Say it."""

    assert inspect.signature(guarded(body)) == inspect.signature(body)
    assert guarded(body).__doc__ == "Say it."


@pytest.mark.spawns
def test_reader_that_went_away_is_no_fault() -> None:
    program = (
        "from lab import log\nfrom lab.tasks._run import guarded\n"
        "@guarded\ndef body():\n    for _ in range(9): log.out('x' * 99999)\nbody()\n"
    )
    read_end, write_end = os.pipe()
    os.close(read_end)
    child = proc.spawn([sys.executable, "-c", program], cwd=PROJECT, stdout=write_end, stderr=-1)
    os.close(write_end)
    _, complaint = child.communicate(timeout=30)
    assert (child.returncode, complaint) == (141, b"")
