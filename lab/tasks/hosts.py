"""hosts.*: the files of the pair's nodes, from the one site file."""

from __future__ import annotations

from pathlib import Path

from invoke import Context, task

from lab import log
from lab.errors import BadInput
from lab.hosts import sdk as trees
from lab.hosts.render import render_all
from lab.hosts.site import EXAMPLE, load_site
from lab.hosts.tree import write
from lab.hosts.validate import validate
from lab.tasks._run import guarded

SITE_HELP = "the site file (default: hostfiles/site.example.yaml)"


@task(auto_shortflags=False, help={"folder": "where the files go, one folder for each node", "site": SITE_HELP})
@guarded
def render(_context: Context, folder: str, site: str = str(EXAMPLE)) -> None:
    """Write every file that the nodes need below FOLDER, in place of what was rendered there before.

    invoke hosts.render FOLDER [--site FILE]
    """
    if folder.startswith("-"):
        raise BadInput(f"{folder} is no folder", "invoke --help hosts.render shows the options; ./NAME allows any name")
    written = write(render_all(load_site(Path(site))), Path(folder))
    for path in written:
        log.out(str(path))
    log.say(f"{len(written)} files and links")


@task(
    auto_shortflags=False,
    help={
        "kind": "gcs or s3",
        "folder": "where the tree KIND-pyVERSION goes; on a node that is /usr/lib/hapair/sdk",
        "python": "the version of the nodes' Python (default: 3.11)",
        "machine": "the nodes' architecture (default: x86_64)",
    },
)
@guarded
def sdk(_context: Context, kind: str, folder: str, python: str = "3.11", machine: str = "x86_64") -> None:
    """Get the SDK of a cloud fence store as a tree for nodes without pip; the last line is its path.

    invoke hosts.sdk KIND FOLDER [--python 3.11] [--machine x86_64]
    """
    if folder.startswith("-"):
        raise BadInput(f"{folder} is no folder", "invoke --help hosts.sdk shows the options; ./NAME allows any name")
    log.out(str(trees.make(kind, python, Path(folder), machine)))


@task(auto_shortflags=False, help={"site": SITE_HELP})
@guarded
def check(_context: Context, site: str = str(EXAMPLE)) -> None:
    """Check the site file, and what is rendered from it with the programs that will read it."""
    for verdict in validate(render_all(load_site(Path(site)))):
        log.out(str(verdict))
