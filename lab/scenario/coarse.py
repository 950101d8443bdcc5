"""Lanes made small enough to draw: a picture of an hour needs no more boxes than one of a minute. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lab.scenario.lanes import Span

BOXES = 400  # spans in a lane; a screen has some 1000 pixels for them
BARS = 1200  # columns of acknowledgements
NAMED = 3  # states that a box still names


def spans(given: Sequence[Span], most: int = BOXES) -> tuple[Span, ...]:
    """Return at most about `most` spans: neighbours that are too short to be seen become one that names them."""
    if len(given) <= most:
        return tuple(given)
    least_s = (given[-1].end_s - given[0].start_s) / most
    found: list[Span] = []
    short: list[Span] = []
    for span in given:
        if span.length_s < least_s:
            short.append(span)
        if short and (span.length_s >= least_s or short[-1].end_s - short[0].start_s >= least_s):
            found.append(_one(short))
            short = []
        if span.length_s >= least_s:
            found.append(span)
    return (*found, *([_one(short)] if short else []))


def _one(short: Sequence[Span]) -> Span:
    if len(short) == 1:
        return short[0]
    states = list(dict.fromkeys(span.state for span in short))
    more = f" and {len(states) - NAMED} more" if len(states) > NAMED else ""
    text = f"{len(short)} changes: {', '.join(states[:NAMED])}{more}"
    return Span(short[0].start_s, short[-1].end_s, text)


def columns(counts: Sequence[int], most: int = BARS) -> tuple[int, list[float]]:
    """Return (slots in a column, mean of each column): means keep the height comparable, whatever the length."""
    per = -(-len(counts) // most) or 1
    starts = range(0, len(counts), per)
    return per, [sum(counts[start : start + per]) / len(counts[start : start + per]) for start in starts]


def zooms(moments: Sequence[float], length_s: float, fit: int, zoomed: Sequence[int]) -> list[int]:
    """Return for each of ascending moments the first zoom at which its label, to its right, meets no other moment.

    `fit` labels fit side by side into the whole length at zoom 1. 0 stands for none of the zooms.
    """
    rooms = [(zoom, length_s / (fit * zoom)) for zoom in zoomed]
    free = [late - early for early, late in pairwise([*moments, math.inf])]
    return [next((zoom for zoom, room in rooms if space >= room), 0) for space in free]
