"""The timeline of a history, as rows and as a picture."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from lab.scenario import lanes, timeline
from tests.unit.scenario.stories import Story, failover

SVG = "{http://www.w3.org/2000/svg}"
OWNERS = {"c2b8e4f3-0d67-4f15-8b3c-91e6a7d04b22": "n2"}


def told() -> Story:
    story = failover(OWNERS)
    story.add(0.0, "store", "request", method="GET", after={"state": "SHARED", "owner": None, "epoch": 4})
    story.add(11.9, "store", "request", method="PUT", after={"state": "SOLO", "owner": next(iter(OWNERS)), "epoch": 5})
    story.add(11.95, "store", "request", method="PUT", after=None)
    return story.add(14.2, "scenario", "heal", node="n1", name="power_loss")


def test_the_gap_is_that_of_the_invariant() -> None:
    whole = lanes.timeline(told().told())
    assert whole.gap
    assert whole.gap.start_s == pytest.approx(1.46)
    assert whole.gap.end_s == pytest.approx(14.01)
    assert timeline.text(told().told())[-1] == "longest gap: 12.55 s, from 1.46 s to 14.01 s"


def test_the_lanes() -> None:
    whole = lanes.timeline(told().told())
    assert [(span.start_s, span.state) for span in whole.nodes["n1"].role] == [(0.0, "Primary"), (2.0, "off")]
    assert [(span.start_s, span.state) for span in whole.nodes["n2"].role] == [(0.0, "Secondary"), (12.0, "Primary")]
    assert [(span.start_s, span.state) for span in whole.lock] == [(0.0, "SHARED"), (11.9, "SOLO n2")]
    assert sum(whole.acks) == 20
    assert whole.acks[10:15] == (2, 2, 2, 2, 2)
    assert [mark.text for mark in whole.marks if mark.kind != "lock"] == ["power loss of n1", "n1 healed"]


def test_rows_show_roles_lock_acknowledgements_and_the_growing_gap() -> None:
    rows = timeline.rows(told().told())
    assert [row.at_s for row in rows[:3]] == [0.0, 0.5, 1.0]
    assert rows[2].acks == (2, 2, 2, 2, 2) and rows[2].gap_s == 0.0
    assert rows[0].gap_s == 0.0  # nothing was acknowledged yet: no gap has begun
    assert rows[10].gap_s == pytest.approx(4.0)
    assert str(rows[4]).split() == ["2.0", "s", "n1", "off", "n2", "Secondary", "lock", "SHARED", "1.0", "s", "gap",
                                    "power", "loss", "of", "n1"]  # fmt: skip
    assert "SOLO n2" in str(rows[28]) and "▂▂▂▂▂" in str(rows[28])


def test_silence_after_the_client_stopped_is_no_gap() -> None:
    story = Story().write(1.0, 0).write(2.0, 1).add(2.5, "client", "stop").add(9.0, "scenario", "end")
    assert timeline.text(story.told())[-1] == "longest gap: 1.00 s, from 1.01 s to 2.01 s"
    assert timeline.rows(story.told())[-1].gap_s == 0.0


def test_a_frozen_primary_is_shown_as_such() -> None:
    story = Story().add(3.0, "n1", "drbd", object="resource", role="Primary", suspended="fencing").write(5.0, 1)
    assert [span.state for span in lanes.timeline(story.told()).nodes["n1"].role] == ["Primary", "frozen"]


def test_nothing_observed_is_no_error() -> None:
    assert lanes.timeline(()).gap is None
    assert timeline.text(())[0].startswith("   0.0 s  n1 -")
    ET.fromstring(timeline.svg(()))  # noqa: S314 - our own text


def test_the_picture_is_well_formed_and_tells_the_same_gap() -> None:
    root = ET.fromstring(timeline.svg(told().told(), title="n1 < n2 & more"))  # noqa: S314 - our own text
    assert root.find(f"{SVG}title") is not None and root.findtext(f"{SVG}title") == "n1 < n2 & more"
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "gap"] == ["12.55 s"]
    for lane in ("n1", "n2", "store", "client", "power loss of n1", "SOLO n2", "off"):
        assert lane in texts
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("fill") == "#2b5c9b"]
    assert len(bars) == 10  # ten slots of 100 ms hold acknowledgements
    names = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert names <= {"svg", "title", "rect", "text", "line"}  # nothing that loads or runs anything


def test_everything_stays_inside_the_picture() -> None:
    root = ET.fromstring(timeline.svg(told().told()))  # noqa: S314 - our own text
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for rect in root.iter(f"{SVG}rect"):
        x, y = float(rect.get("x", 0)), float(rect.get("y", 0))
        assert x >= 0 and x + float(rect.get("width", 0)) <= width + 1
        assert y >= 0 and y + float(rect.get("height", 0)) <= height


def test_bars_never_run_out_of_blocks() -> None:
    assert timeline.bars([0, 1, 8, 99]) == " ▁██"
