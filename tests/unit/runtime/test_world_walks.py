"""Random walks through the tiny world: whatever happens in whatever order, the invariants hold and the pair heals."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hapair import lock, rules
from hapair.memory import Wish

from .model_store import Broken
from .test_world import heal, serving_pair
from .world import World

pytestmark = pytest.mark.thorough

WALKS = 25


def events(world: World, dice: random.Random) -> list[Callable[[], object]]:
    """Everything that may happen next."""
    node = dice.choice(list(world.nodes.values()))
    lane = dice.choice(["control", "services"])

    def set_store(fault: str) -> None:
        setattr(world.store, fault, True)

    def set_down(down: bool) -> None:
        world.store.down = down

    def set_link(up: bool) -> None:
        world.link = up

    def act() -> None:
        if node.agent_up:
            node.act(getattr(node, lane))

    return [
        *[world.write] * 4,
        *[lambda: world.pass_time(dice.choice([0.05, 0.3, 1.0, 2.5]))] * 6,
        *[node.decide] * 8,
        *[act] * 10,
        *[world.handshake] * 3,
        *[world.notice] * 2,
        *[node.handler_runs] * 3,
        *[world.finish_resync] * 2,
        node.lose_connection,
        *[world.store.land] * 2,
        lambda: set_link(False),
        *[lambda: set_link(True)] * 2,
        lambda: set_down(True),
        *[lambda: set_down(False)] * 3,
        lambda: set_store("lose_reply"),
        lambda: set_store("late"),
        node.power_off if dice.random() < 0.5 else lambda: None,
        *[lambda: None if node.up else node.power_on()] * 2,
        *[lambda: None if node.agent_up else node.start_agent()] * 4,
        node.start_agent if dice.random() < 0.5 else lambda: None,
        lambda: node.wish(dice.choice([Wish.SECONDARY, Wish.PRIMARY, Wish.LEAVE, Wish.SUSPEND])),
    ]


def walk(folder: Path, seed: int) -> None:
    """Let 400 random things happen, then heal."""
    dice = random.Random(seed)  # noqa: S311 - a reproducible walk, not a secret
    world = serving_pair(folder)
    try:
        for _ in range(400):
            dice.choice(events(world, dice))()
        heal(world)
    except AssertionError as broken:
        raise Broken("\n".join([f"seed {seed}: {broken}", *world.log[-60:]])) from broken


@pytest.mark.parametrize("seed", range(WALKS))
def test_random_interleavings_keep_the_invariants_and_heal(tmp_path: Path, seed: int) -> None:
    walk(tmp_path, seed)


def test_the_walk_finds_a_policy_that_ignores_the_peers_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault: without it, a walk that finds nothing would prove nothing."""

    def never(*_: object) -> bool:
        return False

    monkeypatch.setattr(lock, "closed_to", never)
    monkeypatch.setattr(rules, "closed_to", never)
    with pytest.raises(Broken):
        for seed in range(WALKS):
            walk(tmp_path / str(seed), seed)
