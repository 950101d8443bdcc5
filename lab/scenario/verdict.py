"""What a check says: valid, unknown or invalid, and why (the lattice is Jepsen's: false beats unknown beats true)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Ordered by `RANK`: the worse one decides."""

    VALID = "valid"
    UNKNOWN = "unknown"
    INVALID = "invalid"


SHOWN = 5  # reasons or examples in an explanation
RANK = {Outcome.VALID: 0, Outcome.UNKNOWN: 1, Outcome.INVALID: 2}


@dataclass(frozen=True)
class Verdict:
    """An outcome with its explanation, which names the events or facts behind it."""

    outcome: Outcome
    why: str = ""


def valid(why: str = "") -> Verdict:
    """Return: it holds."""
    return Verdict(Outcome.VALID, why)


def unknown(why: str) -> Verdict:
    """Return: what was observed does not tell."""
    return Verdict(Outcome.UNKNOWN, why)


def invalid(why: str) -> Verdict:
    """Return: it was violated."""
    return Verdict(Outcome.INVALID, why)


def nothing(what: str, found: Sequence[str]) -> Verdict:
    """Return: nothing of the kind was found; else it was violated, with the first few of them."""
    if not found:
        return valid()
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return invalid(f"{len(found)} {what}: {', '.join(found[:SHOWN])}{more}")


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst outcome with every explanation that speaks for it; nothing to judge is valid."""
    given = list(verdicts)
    outcome = max((verdict.outcome for verdict in given), key=RANK.__getitem__, default=Outcome.VALID)
    reasons = [verdict.why for verdict in given if verdict.outcome is outcome and verdict.why]
    more = [f"and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else []
    return Verdict(outcome, "; ".join(reasons[:SHOWN] + more))
