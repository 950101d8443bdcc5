"""The catalogue of scenarios, and one of them run by name or number."""

from __future__ import annotations

import re

import pytest

from lab.errors import BadInput
from lab.scenario import catalogue, runner


class TestCatalogue:
    def test_the_scenarios_of_the_issue_are_there_with_number_and_sentence(self) -> None:
        found = {entry.name: entry for entry in catalogue.scenarios() if not entry.planted}
        numbers = {name: entry.number for name, entry in found.items()}
        known = {"power_loss_active": 1, "power_loss_standby": 24, "switchovers": 31, "reboot_active": 45}
        assert numbers.items() >= known.items()
        assert numbers["launch_on_drbd"] is None
        assert {entry.session for entry in found.values()} >= {"failover", "fencing"}
        assert all(len(entry.doc) > 40 for entry in found.values())

    def test_every_scenario_has_a_planted_fault(self) -> None:
        for entry in catalogue.scenarios():
            if entry.path.parent.name == "lifecycle":
                continue  # it leaves each kind of thing behind on purpose, in its own module
            text = "".join(path.read_text() for path in entry.path.parent.glob("test_planted*.py"))
            named = re.search(rf'"""Scenario {entry.number}[, ]', text) if entry.number else entry.path.stem in text
            assert entry.planted or named, f"nothing turns {entry.name} red"

    @pytest.mark.parametrize("name", ["1", "power_loss_active", "test_power_loss_active", "power-loss-active"])
    def test_a_scenario_is_found_by_name_or_number(self, name: str) -> None:
        assert catalogue.find(name).name == "power_loss_active"

    def test_a_wrong_name_lists_the_right_ones(self) -> None:
        with pytest.raises(BadInput, match="there is no scenario 'x'") as caught:
            catalogue.find("x")
        assert "power_loss_standby" in caught.value.hint

    def test_a_run_by_name_becomes_a_run_of_pytest(self) -> None:
        given = runner.arguments("45", provider="uml", seed=7, keep=True, shell_on_failure=True)
        assert given[0].endswith("failover/test_reboot_active.py::test_reboot_active")
        assert {"--provider=uml", "--seed=7", "--keep", "--shell-on-failure", "--long"} <= set(given)
        plain = runner.arguments("45", provider="uml", seed=None, keep=False, shell_on_failure=False)
        assert not [option for option in plain if option.startswith(("--seed", "--keep", "--shell", "-m"))]

    @pytest.mark.parametrize(
        ("ended", "code"),
        [(pytest.ExitCode.OK, 0), (pytest.ExitCode.TESTS_FAILED, 1), (pytest.ExitCode.INTERNAL_ERROR, 1)],
    )
    def test_the_exit_code_is_one_of_ours(
        self, monkeypatch: pytest.MonkeyPatch, ended: pytest.ExitCode, code: int
    ) -> None:
        monkeypatch.setattr(pytest, "main", lambda _: ended)
        assert runner.run("1", provider="uml", seed=1, keep=False, shell_on_failure=False) == code

    def test_an_interrupted_run_is_an_interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pytest, "main", lambda _: pytest.ExitCode.INTERRUPTED)
        with pytest.raises(KeyboardInterrupt):
            runner.run("1", provider="uml", seed=1, keep=False, shell_on_failure=False)

    def test_a_wrong_provider_is_bad_input(self) -> None:
        with pytest.raises(BadInput, match="no provider is called 'cloud'"):
            runner.run("1", provider="cloud", seed=1, keep=False, shell_on_failure=False)
