"""`hapair explain`: the decision log, for people."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import hapair
import pytest
from hapair import cli, explain

from .conftest import Host

SOURCES = sorted(Path(str(hapair.__file__)).parent.rglob("*.py"))


def entry(number: int, resource: str = "r0", rule: str = "F6") -> dict[str, object]:
    return {
        "t": 1700000000.25 + number,
        "resource": resource,
        "rule": rule,
        "action": f"action {number}",
        "outcome": "done",
        "why": f"reason {number}",
        "took_s": 0.5,
    }


def test_the_last_decisions_of_one_resource(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry(1), entry(2, "r1"), entry(3, "*", "events"), entry(4), entry(5)]
    text = "\n".join(json.dumps(one) for one in entries)
    n1.paths.decisions.write_text(f"{text}\nhalf a li")
    assert cli.main(["explain", "r0", "-n", "3"], n1.paths) == 0
    said = capsys.readouterr().out
    assert [f"action {number}" in said for number in (1, 2, 3, 4, 5)] == [False, False, True, True, True]
    assert "F6: action 5 -> done  (0.5 s)" in said
    assert "why: reason 5" in said
    assert said.count("F6 is there because DRBD remembers") == 1
    assert ".250" in said


def test_nodes_go_by_their_names(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    why = "the lock is SOLO of uuid-n2, epoch 7, not of uuid-n1"
    n1.paths.decisions.write_text(json.dumps({**entry(1), "why": why}))
    assert cli.main(["explain", "r0"], n1.paths) == 0
    assert "why: the lock is SOLO of n2, epoch 7, not of n1\n" in capsys.readouterr().out


def test_nothing_to_explain(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "r0"], n1.paths) == 1
    n1.paths.decisions.write_text("")
    assert cli.main(["explain", "r0"], n1.paths) == 0
    assert "nothing was decided yet" in capsys.readouterr().out
    assert cli.main(["explain", "r9"], n1.paths) == 2


def named_rules() -> set[str]:
    """Every rule that the programs name: first arguments of Reaction and _remove, and `rule=` of the log."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [word.value for word in node.keywords if word.arg == "rule"]
            given += node.args[:1] if called in {"Reaction", "_remove"} else []
            found |= {one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return found - {""}


def test_every_rule_has_its_hazard() -> None:
    rules = named_rules()
    assert {"F1", "F3", "F10", "services", "bounded-demotion"} <= rules
    assert rules <= explain.HAZARDS.keys()
