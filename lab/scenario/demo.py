"""One power loss, told live in the terminal: roles, lock, acknowledged writes, and the gap in seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.errors import HapairError
from lab.scenario import page, timeline
from lab.scenario.report import Report, Result, write_atomically
from lab.scenario.runfolder import About, RunFile
from lab.scenario.scene import Pair, Scene

RECOVERY_S = 40.0
SETTLED_S = 1.0
"""A row is told once every source has had this long to report what happened in it."""
SEED = 1


def run(pair: Pair, folder: Path, tell: Callable[[str], None], svg: Path | None = None) -> Result:
    """Cut the power of the active node under acknowledged writes, and tell what happens as it happens.

    Args:
        folder: where history and logs go.
        tell: takes one line after the other.
        svg: where the timeline is drawn, if anywhere.

    Raises:
        HapairError: the service did not come back, or the pair did not heal.
    """
    scene = Scene(pair, "demo", folder, seed=SEED)
    try:
        with _told(scene, tell):
            scene.begin()
            active, standby = scene.roles()
            scene.expect(recovery_s=RECOVERY_S, failovers=1, fences=(standby,))
            scene.wait_acks(30)
            with scene.faults.power_loss(active, leaves=active):
                scene.wait_ack_of(standby)
                scene.wait_acks(40)
            scene.wait_healed()
    except HapairError as error:
        scene.finish(error.message)  # what the nodes say of it is kept, and nobody follows them any more
        raise
    drawn = scene.finish()
    events = scene.history.events()
    if svg:
        write_atomically(svg, timeline.svg(events, title=f"{active} loses power under acknowledged writes"))
    for line in timeline.text(events)[-1:]:
        tell(line)
    tell(f"{drawn.acked} writes acknowledged, {drawn.lost} lost; verdict: {drawn.verdict.value}")
    return drawn


def keep(drawn: Result, run: Path, provider: str, began: float) -> Path:
    """Make a run of a demo whose scene went into `run`/demo, and return its page; `began` is in wall seconds."""
    Report(run, provider, SEED).add(drawn)
    file = RunFile(run, began)
    file.command = "./dev invoke lab.demo"
    file.add(About(drawn.name, drawn.name, sentence="The active node loses its power under acknowledged writes."))
    return page.write(run)


@contextlib.contextmanager
def _told(scene: Scene, tell: Callable[[str], None]) -> Iterator[None]:
    """Tell each row of the timeline once it is settled, while the body runs."""
    ended = threading.Event()
    begun = time.time()

    def narrate() -> None:
        told = 0
        while not ended.wait(timeline.ROW_S / 2):
            settled_s = time.time() - begun - SETTLED_S
            for row in timeline.rows(scene.history.events())[told:]:
                if row.at_s + timeline.ROW_S > settled_s:
                    break
                tell(str(row))
                told += 1

    thread = threading.Thread(target=narrate, name="narrator", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
