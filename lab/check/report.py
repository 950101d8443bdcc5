"""What a check found: every fault, named by rule and file, before anything fails."""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.errors import HapairError


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is not as it must be."""

    file: str
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what} [{self.rule}]"


@dataclass
class Report:
    """Grows while the checks run: `faults` fail the artifact, `notes` only tell something."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, rule: str, file: str, what: str) -> None:
        """Add a fault."""
        self.faults.append(Fault(file, rule, what))

    def note(self, text: str) -> None:
        """Add something worth knowing that is no fault."""
        self.notes.append(text)

    @property
    def rules(self) -> set[str]:
        """The rules that were broken."""
        return {fault.rule for fault in self.faults}

    def enforce(self) -> None:
        """Fail when there is a fault.

        Raises:
            HapairError: the message lists every fault with its file.
        """
        if self.faults:
            listed = "\n".join(f"  - {fault}" for fault in sorted(set(self.faults)))
            raise HapairError(
                f"{len(set(self.faults))} faults:\n{listed}", "mend the buildspec and build again; trust nothing of it"
            )
