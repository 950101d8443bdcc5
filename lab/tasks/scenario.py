"""Faults injected into a running pair, and what must hold then."""

from pathlib import Path

from invoke import Context, task

from lab import log
from lab.errors import BadInput
from lab.providers.base import PROVIDERS
from lab.scenario import catalogue
from lab.tasks._run import guarded


@task(name="list", auto_shortflags=False, help={"planted": "the planted faults too"})
@guarded
def list_(ctx: Context, planted: bool = False) -> None:  # noqa: ARG001 - Invoke's signature
    """Print every scenario: its number in the catalogue, its name, its sentence. Starts nothing."""
    for entry in catalogue.scenarios():
        if planted or not entry.planted:
            red = f" [turns {', '.join(entry.planted)} red]" if entry.planted else ""
            log.out(f"{entry.number or '-':>3}  {entry.name:<24} {entry.doc}{red}")


@task(
    auto_shortflags=False,
    help={
        "name": "name or catalogue number of the scenario",
        "provider": "what the nodes are: uml (User-Mode Linux) or vagrant (default: invoke.yaml's, or uml)",
        "seed": "of everything random, as a failed run printed it",
        "keep": "leave the lab running at the end",
        "shell-on-failure": "drop into the pair when it fails",
    },
)
@guarded
def run(  # noqa: PLR0917 - Invoke passes flags by name
    ctx: Context,
    name: str,
    provider: str | None = None,
    seed: str = "",
    keep: bool = False,
    shell_on_failure: bool = False,
) -> None:
    """Run one scenario on a pair of its own.

    invoke scenario.run NAME [--keep] [--shell-on-failure] [--seed NUMBER]
    """
    from lab.scenario import runner  # noqa: PLC0415 - pytest is slow to load, and only this task needs it

    if seed and not seed.isdigit():
        raise BadInput(f"--seed {seed!r} is no whole number", "give the number that the run printed")
    number = int(seed) if seed else None
    kind = str(provider or ctx.config.lab.provider or PROVIDERS[0])
    code = runner.run(name, provider=kind, seed=number, keep=keep, shell_on_failure=shell_on_failure)
    raise SystemExit(int(code))


@task(auto_shortflags=False, help={"run": "folder of the run (default: the newest in out/runs)"})
@guarded
def report(_context: Context, run: str | None = None) -> None:
    """Write a run as one HTML page, report.html in its folder, that needs nothing else; prints the page's path."""
    from lab.scenario import page, runfolder  # noqa: PLC0415 - only this task needs templates

    log.out(str(page.write(Path(run) if run else runfolder.newest())))
