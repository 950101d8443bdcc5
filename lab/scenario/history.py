"""One append-only history of everything that was observed: JSON lines, ordered by wall time.

Every event is `{"t": wall seconds, "source": …, "kind": …, …}`. Sources are `client`, `probe`, `store`, `n1`, `n2`,
`lab` (the supervisor) and `scenario` (the test itself). The guests of one machine share its clock, so wall time
orders them; what could still be reordered by a few milliseconds is treated as such by the invariants.
"""

from __future__ import annotations

import heapq
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from lab.deadline import Deadline
from lab.errors import BadInput, TimedOut

LONGEST_NAP_S = 0.25
LEAVES = (str, int, float, type(None))
"""Asked for first: that a value is no Mapping takes long to find out, and a history has a million of them."""


def _frozen(value: object) -> object:
    if isinstance(value, LEAVES):
        return value
    if isinstance(value, Mapping):
        return MappingProxyType({str(key): _frozen(part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        return tuple(_frozen(part) for part in value)
    return value


def _plain(value: object) -> object:
    if isinstance(value, LEAVES):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return value


@dataclass(frozen=True)
class Event:
    """One observation; `t` is wall time in seconds, `data` everything else, frozen to the last leaf."""

    t: float
    source: str
    kind: str
    data: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _frozen(self.data))

    def text(self, key: str) -> str:
        """Return a field as text, empty when the event lacks it."""
        value = self.data.get(key)
        return "" if value is None else str(value)

    def number(self, key: str) -> float:
        """Return a field as a number, NaN when the event lacks it or it is none."""
        value = self.data.get(key)
        return float(value) if isinstance(value, int | float) else math.nan

    def lines(self, key: str) -> tuple[str, ...]:
        """Return a field that is a list as texts, empty when the event lacks it."""
        value = self.data.get(key)
        return tuple(str(part) for part in value) if isinstance(value, tuple) else ()

    def flag(self, key: str) -> bool:
        """Return whether a field is there and true."""
        return bool(self.data.get(key))

    def __str__(self) -> str:
        fields = " ".join(f"{key}={_plain(value)}" for key, value in self.data.items() if key != "lines")
        return f"[{self.t:.3f} {self.source} {self.kind} {fields}]"

    def to_json(self) -> str:
        """Return the event as one line of JSON, without the line end."""
        plain = _plain(self.data)
        fields = plain if isinstance(plain, dict) else {}
        return json.dumps({"t": self.t, "source": self.source, "kind": self.kind, **fields}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str | bytes, source: str = "") -> Event:
        """Read one line; `source` is used when the line names none.

        Raises:
            BadInput: it is no JSON object, or lacks a time or a kind.
        """
        try:
            fields = json.loads(line)
            t, kind = float(fields.pop("t")), str(fields.pop("kind"))
            named = str(fields.pop("source", "") or source)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"not an event of a history: {line[:120]!r} ({error})") from None
        return cls(t, named, kind, fields)


def merge(*sources: Iterable[Event]) -> tuple[Event, ...]:
    """Return the events of all sources by wall time; events of the same moment keep the order of their source."""
    return tuple(heapq.merge(*(sorted(source, key=_when) for source in sources), key=_when))


def _when(event: Event) -> float:
    return event.t


class History:
    """Events as they arrive, from any thread; nothing is ever changed or taken away."""

    def __init__(self, path: Path | None = None) -> None:
        """Start empty; with `path`, every event is also appended to that file at once."""
        self._arrived: list[Event] = []
        self._news = threading.Condition()
        self._file = path.open("a", encoding="utf-8", buffering=1) if path else None

    def append(self, event: Event) -> None:
        """Add one event and wake those who wait."""
        with self._news:
            self._arrived.append(event)
            if self._file and not self._file.closed:
                self._file.write(event.to_json() + "\n")
            self._news.notify_all()

    def note(self, source: str, kind: str, **data: object) -> Event:
        """Add an event that happens now."""
        event = Event(time.time(), source, kind, data)
        self.append(event)
        return event

    def mark(self) -> int:
        """Return a place in the order of arrival, for `wait` to look from."""
        with self._news:
            return len(self._arrived)

    def events(self) -> tuple[Event, ...]:
        """Return everything so far, by wall time."""
        with self._news:
            arrived = list(self._arrived)
        return tuple(sorted(arrived, key=_when))

    def since(self, mark: int) -> Sequence[Event]:
        """Return what arrived from `mark` on, in the order of arrival."""
        with self._news:
            return self._arrived[mark:]

    def wait(
        self,
        what: str,
        wanted: Callable[[Event], bool],
        deadline: Deadline,
        *,
        mark: int = 0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Event:
        """Return the first event from `mark` on that is `wanted`; each event is looked at once.

        `meanwhile` is called at least every quarter of a second, and may raise to end the wait.

        Raises:
            TimedOut: the deadline passed first; the text carries the last event that arrived.
        """
        while True:
            fresh = self.since(mark)
            mark += len(fresh)
            for event in fresh:
                if wanted(event):
                    return event
            meanwhile()
            with self._news:
                if len(self._arrived) == mark:
                    if deadline.passed:
                        last = self._arrived[-1] if self._arrived else "nothing at all"
                        raise TimedOut(f"timed out waiting until {what}; last seen: {last}")
                    self._news.wait(min(LONGEST_NAP_S, deadline.left_s))
                elif deadline.passed:
                    raise TimedOut(f"timed out waiting until {what}; last seen: {self._arrived[-1]}")

    def close(self) -> None:
        """Close the file; events that come later stay in memory only."""
        with self._news:
            if self._file:
                self._file.close()

    @classmethod
    def load(cls, path: Path) -> History:
        """Read a history back.

        Raises:
            BadInput: the file cannot be read, or a line in it is no event (the last one may be cut short).
        """
        history = cls()
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise BadInput(f"{path}: {error.strerror}", "name the history.jsonl of a run") from None
        for number, line in enumerate(lines, start=1):
            try:
                history.append(Event.from_json(line))
            except BadInput as error:
                if number == len(lines):
                    break  # a run that was killed leaves half a line behind
                raise BadInput(f"{path}:{number}: {error.message}") from None
        return history
