"""What is too small to be seen is drawn together, and nothing is lost by it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lab.scenario import coarse
from lab.scenario.lanes import Span


def test_few_spans_stay_as_they_are() -> None:
    given = (Span(0, 0.001, "a"), Span(0.001, 9, "b"))
    assert coarse.spans(given) == given


def test_many_spans_become_few_without_holes_and_long_ones_stay() -> None:
    flapping = [Span(n / 100, (n + 1) / 100, "up" if n % 2 else "down") for n in range(10_000)]
    found = coarse.spans([*flapping, Span(100.0, 200.0, "StandAlone")])
    assert len(found) <= coarse.BOXES + 2
    assert (found[0].start_s, found[-1]) == (0.0, Span(100.0, 200.0, "StandAlone"))
    assert all(early.end_s == late.start_s for early, late in pairwise(found))
    assert found[0].state.endswith("changes: down, up")


def test_a_box_names_three_states_and_counts_the_rest() -> None:
    (one,) = coarse.spans([Span(n, n + 1, f"s{n}") for n in range(5)], most=1)
    assert one == Span(0, 5, "5 changes: s0, s1, s2 and 2 more")


@pytest.mark.parametrize("slots", [0, 1, 1200, 1201, 36_000])
def test_columns_keep_the_total(slots: int) -> None:
    counts = [n % 5 for n in range(slots)]
    per, means = coarse.columns(counts)
    assert len(means) <= coarse.BARS
    sizes = [min(per, slots - start) for start in range(0, slots, per)]
    assert sum(mean * size for mean, size in zip(means, sizes, strict=True)) == pytest.approx(sum(counts))


def test_labels_appear_as_there_is_room_and_stay() -> None:
    at = [0.0, 1.0, 1.4, 1.5, 50.0]
    chosen = coarse.zooms(at, 100.0, fit=20, zoomed=(1, 8, 16, 64))
    assert chosen == [8, 16, 64, 1, 1]
    for zoom in (1, 8, 16, 64):
        shown = [moment for moment, first in zip(at, chosen, strict=True) if first and first <= zoom]
        assert all(late - early >= 100.0 / (20 * zoom) for early, late in pairwise(shown))
    assert coarse.zooms([1.0, 1.0], 10.0, fit=10, zoomed=(1, 2)) == [0, 1]
