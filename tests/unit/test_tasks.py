"""Every task explains itself, and the entry points say what is missing outside the environment."""

import inspect
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection, Config, Task

from lab import proc
from lab.paths import PROJECT

GOLDEN = PROJECT / "tests/golden/invoke-list.txt"


def all_tasks(collection: Collection | None = None, prefix: str = "") -> dict[str, Task[Any]]:
    if collection is None:
        import tasks  # noqa: PLC0415 - the entry point itself is what is looked at

        collection = tasks.namespace
    found = {f"{prefix}{name}": task for name, task in collection.tasks.items()}
    for name, part in collection.collections.items():
        found |= all_tasks(part, f"{prefix}{name}.")
    return found


TASKS = all_tasks()
# Invoke takes each text out of a task's `help` when the task is run, and other tests run tasks.
HELP = {name: dict(task.help) for name, task in TASKS.items()}


@pytest.mark.parametrize("name", TASKS)
def test_task_explains_itself_and_its_parameters(name: str) -> None:
    task = TASKS[name]
    assert (task.body.__doc__ or "").strip(), f"{name} has no docstring"
    parameters = list(inspect.signature(task.body).parameters.values())[1:]
    assert sorted(word.replace("-", "_") for word in HELP[name]) == sorted(
        parameter.name for parameter in parameters
    ), f"help= of {name}"
    assert all(HELP[name].values())
    for argument in task.get_arguments():
        assert not [word for word in argument.names if len(word) == 1], f"{name} has a short flag"


@pytest.mark.parametrize("name", TASKS)
def test_help_shows_what_is_positional(name: str) -> None:
    # Invoke's own help lists positional arguments among the flags.
    parameters = list(inspect.signature(TASKS[name].body).parameters.values())[1:]
    required = [parameter.name.upper() for parameter in parameters if parameter.default is parameter.empty]
    if required:
        assert f"invoke {name} {' '.join(required)}" in (TASKS[name].body.__doc__ or "")


@pytest.mark.parametrize("name", TASKS)
def test_required_parameters_are_positional_and_the_others_flags(name: str) -> None:
    task = TASKS[name]
    parameters = list(inspect.signature(task.body).parameters.values())[1:]
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    assert {argument.name for argument in task.get_arguments() if argument.positional} == required


@pytest.mark.spawns
def test_list_is_the_golden_one() -> None:
    shown = proc.run([sys.executable, "-m", "invoke", "--list"], limit_s=30, cwd=PROJECT).text + "\n"
    if os.environ.get("HAPAIR_UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()


def test_environment_overrides_task_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_LAB_PROVIDER", "vagrant")
    config = Config(project_location=PROJECT)
    config.load_project()
    assert config["lab"]["provider"] is None
    config.load_shell_env()
    assert config["lab"]["provider"] == "vagrant"


@pytest.mark.spawns
@pytest.mark.parametrize("entry", ["tasks", "noxfile"])
@pytest.mark.parametrize("missing", ["invoke", "rich"])
def test_outside_the_environment_the_cure_is_named(entry: str, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; import {entry}"
    done = proc.run([sys.executable, "-c", program], limit_s=30, cwd=PROJECT, check=False)
    assert done.code == 3
    assert done.stderr.decode().startswith("hapair: ")
    assert "./dev" in done.stderr.decode() and "Traceback" not in done.stderr.decode()


@pytest.mark.spawns
def test_too_old_python_is_told_so() -> None:
    program = "import sys; sys.version_info = (3, 8, 1); import tasks"
    done = proc.run([sys.executable, "-c", program], limit_s=30, cwd=PROJECT, check=False)
    assert (done.code, "Python 3.8, too old" in done.stderr.decode()) == (3, True)


@pytest.mark.spawns
def test_tasks_leave_the_pytest_plugin_to_pytest() -> None:
    # Imported ahead of pytest its assertions cannot be rewritten: pytest warns, and our warnings are errors.
    code = "import sys, tasks, lab.scenario.runner; sys.exit('lab.scenario.plugin' in sys.modules)"
    assert proc.run([sys.executable, "-c", code], limit_s=30, cwd=PROJECT, check=False).code == 0


@pytest.mark.spawns
def test_a_named_task_loads_its_own_collection_alone() -> None:
    look = "import sys; sys.argv = ['invoke', 'build.list']; import tasks; print('lab.providers' in sys.modules)"
    done = proc.run([sys.executable, "-c", look], limit_s=30, env={"PYTHONPATH": str(PROJECT)})
    assert done.text == "False"


@pytest.mark.spawns
def test_without_vagrant_no_task_complains_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import lab.tasks.lab"]
    done = proc.run(command, limit_s=30, env={"PYTHONPATH": str(PROJECT), "PATH": str(tmp_path)})
    assert done.stderr == b""
