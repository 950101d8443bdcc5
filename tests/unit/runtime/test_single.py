"""There is one agent on a node."""

from __future__ import annotations

import pytest
from hapair import cli
from hapair.single import AnotherRuns, only_agent

from .conftest import Host


@pytest.mark.parametrize("words", [["agent"], ["leave"]])
def test_a_second_agent_does_nothing_and_says_so(
    n1: Host, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with only_agent(n1.paths):
        assert cli.main(words, n1.paths) == 1
    assert "another agent runs on this node" in capsys.readouterr().err
    assert not n1.paths.socket.exists()


def test_the_next_one_may_run_when_the_first_has_ended(n1: Host) -> None:
    with only_agent(n1.paths), pytest.raises(AnotherRuns), only_agent(n1.paths):
        pass
    with only_agent(n1.paths):
        pass
