"""Scenario 11."""

from collections.abc import Callable

import pytest

from lab.scenario.scene import Scene
from lab.scenario.store_faults import Fault

STRANGER = "00000000-0000-4000-8000-000000000000"
Make = Callable[[Scene], Fault]
TROUBLES: dict[str, Make] = {
    "slow": lambda scene: scene.store.slow(1.5),  # beyond the nodes' own time limit of a request
    "answers_500": lambda scene: scene.store.answers(500),
    "answers_503": lambda scene: scene.store.answers(503),
    "answers_429": lambda scene: scene.store.answers(429),
    "answers_401": lambda scene: scene.store.answers(401),
    "answers_404": lambda scene: scene.store.answers(404),  # the object was deleted
    "garbage": lambda scene: scene.store.garbage(),
    "login_page": lambda scene: scene.store.login_page(),
    "other_lock": lambda scene: scene.store.other_lock(STRANGER),
}


@pytest.mark.scenario(11)
def test_store_troubles(scene: Scene) -> None:
    """The store is slow, fails, wants a password, or holds something else: never a lock; and it goes on afterwards."""
    active, _ = scene.roles()
    scene.expect(recovery_s=12, failovers=0, gap_s=12, may_fail=(active,))
    for name, trouble in TROUBLES.items():
        scene.wait_acks(5)
        fault = trouble(scene)
        with scene.faults.cut("crossover"):
            mark = scene.history.mark()
            with fault:
                lost = scene.wait_peer_lost(active, since=mark)
                scene.store.wait_hit(name, 2)
                assert scene.acks_between(lost.t, None) == 0, f"acknowledged alone although the store is {name}"
            scene.wait_solo(active, since=mark)
            scene.wait_acks(5)
        scene.wait_healed()
