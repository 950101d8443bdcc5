"""The demo's story, told while it happens: the pair, its client and the power loss are fakes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import HapairError, TimedOut
from lab.scenario import demo, timeline
from lab.scenario.report import Result
from lab.scenario.scene import Scene
from tests.unit.scenario.fakes import drbd_now, healthy, ready


class Show:
    """A pair whose client writes all the time, and whose n2 takes over when n1 loses its power."""

    def __init__(self, folder: Path) -> None:
        self.pair, self.client = ready(folder)
        self.ended = threading.Event()
        self.told: list[str] = []
        self.told_at: list[float] = []
        self.told_live = threading.Event()
        self._writer = threading.Thread(target=self._write)
        n1 = self.pair.lab.nodes["n1"]
        off = n1.power_off

        def lose_power() -> None:
            off()
            self.pair.active = "n2"
            healthy(self.pair.lab, "n2")
            drbd_now(self.pair, "n2", "Primary")
            assert self.told_live.wait(20), "nothing was told while it happened"

        n1.power_off = lose_power  # type: ignore[method-assign] # a fake's fault
        self._writer.start()

    def _write(self) -> None:
        while not self.ended.wait(0.01):
            if self.pair.lab.nodes["third"].started:
                self.client.write()

    def tell(self, line: str) -> None:
        self.told.append(line)
        self.told_at.append(time.time())
        self.told_live.set()

    def end(self) -> None:
        self.ended.set()
        self._writer.join()


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Show]:
    monkeypatch.setattr(demo, "SETTLED_S", 0.0)
    (tmp_path / "lab").mkdir()
    made = Show(tmp_path / "lab")
    yield made
    made.end()


def narrators() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "narrator"]


def followers() -> list[str]:
    return [
        thread.name for thread in threading.enumerate() if thread.name.endswith((" events2", " journal", " decisions"))
    ]


def test_a_power_loss_is_told_live_drawn_and_judged(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = Scene.finish

    def quiet_finish(scene: Scene, error: str = "") -> Result:
        show.end()
        return finish(scene, error)

    monkeypatch.setattr(Scene, "finish", quiet_finish)
    began = time.time()
    drawn = demo.run(show.pair, tmp_path / "demo", show.tell, tmp_path / "demo.svg")
    *rows, gap, verdict = show.told
    times = [float(re.match(r" *(\d+\.\d) s  n1 \S+ +n2 \S+ +lock ", row)[1]) for row in rows]  # type: ignore[index] # no match: red
    assert times == [number / 2 for number in range(len(rows))], "each row once, in order"
    assert all(at >= began + row + timeline.ROW_S for at, row in zip(show.told_at, times, strict=False)), "half a row"
    assert gap.startswith("longest gap: ")
    assert verdict == f"{drawn.acked} writes acknowledged, 0 lost; verdict: {drawn.verdict.value}"
    assert drawn.acked >= 70
    assert drawn.name == "demo"
    assert [line for line in show.pair.lab.log if line.startswith("n1 o")] == ["n1 off", "n1 on"]
    picture = (tmp_path / "demo.svg").read_text()
    assert "n1 loses power under acknowledged writes" in picture
    assert (tmp_path / "demo" / "history.jsonl").exists()
    shown = demo.keep(drawn, tmp_path, "uml", began).read_text()
    assert "power loss of n1: recovered" in shown.lower() and "./dev invoke lab.demo" in shown
    assert narrators() == []


def test_a_demo_that_fails_stops_telling_and_gives_the_power_back(
    show: Show, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_scene: Scene, node: str, **_: object) -> None:
        raise TimedOut(f"{node} acknowledges a write")

    monkeypatch.setattr(Scene, "wait_ack_of", never)
    with pytest.raises(HapairError, match="n2 acknowledges a write"):
        demo.run(show.pair, tmp_path / "demo", show.tell, tmp_path / "demo.svg")
    assert show.pair.lab.nodes["n1"].state() == "on"
    assert narrators() == []
    assert not (tmp_path / "demo.svg").exists()
    assert (tmp_path / "demo" / "verdict.json").exists()
    assert followers() == [], "somebody still follows a node"
