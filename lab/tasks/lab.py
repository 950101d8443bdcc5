"""Two real nodes, a third one, and the cables between them: stand-in until the tasks are here."""

from invoke import Context, task

from lab import log
from lab.tasks._run import guarded


@task(auto_shortflags=False, help={"lab": "name of the lab"})
@guarded
def status(ctx: Context, lab: str = "default") -> None:
    """Print what runs."""
    log.out(f"{lab} {ctx.config.lab.provider}")
