"""The errors that a user can act on: a message that names the thing, and a hint that names the cure."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What every hapair command returns to its caller."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    HOST_LACKS = 3


class HapairError(Exception):
    """Something failed that the user should read about; `hint` says what to do next."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class BadInput(HapairError):
    """What the user gave (a file, a flag, a name) is wrong; nothing was touched."""

    exit_code = ExitCode.BAD_INPUT


class HostLacks(HapairError):
    """This machine, or every source of a download, lacks something that the command needs."""

    exit_code = ExitCode.HOST_LACKS


class TimedOut(HapairError):
    """A bounded wait ended; the message carries the last observation."""
