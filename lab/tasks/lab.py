"""lab.*: two real nodes, a third one, and the cables between them."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from invoke.context import Context
from invoke.tasks import task

from lab import artifacts, log, paths
from lab.errors import BadInput, ExitCode
from lab.hosts.site import EXAMPLE, load_site
from lab.providers import box as boxes
from lab.providers import bundle as bundles
from lab.providers import choice, doctor_vagrant, hostlibvirt, pair, report, terminal
from lab.providers import doctor as checks
from lab.scenario import demo as story
from lab.scenario import faults, manual, runfolder
from lab.scenario.verdict import Outcome
from lab.tasks._run import guarded

NAME_HELP = "the lab's name; labs of different names run side by side"
SITE_HELP = "the site file (default: hostfiles/site.example.yaml)"
PROVIDER_HELP = (
    "what the pair's nodes are: uml (User-Mode Linux) or vagrant; default: the site file's, or the best here"
)
LIBVIRT_HELP = (
    "which libvirt runs virtual machines: host, session, own; default: the site file's, or the host's if it may"
)
BUNDLE_HELP = "take kernel and image from this file or URL, and build nothing"


@task(
    auto_shortflags=False,
    help={
        "name": NAME_HELP,
        "provider": PROVIDER_HELP,
        "libvirt": LIBVIRT_HELP,
        "site": SITE_HELP,
        "bundle": BUNDLE_HELP,
    },
)
@guarded
def up(  # noqa: PLR0917 - Invoke passes flags by name
    context: Context,
    name: str = "default",
    provider: str | None = None,
    libvirt: str | None = None,
    site: str = str(EXAMPLE),
    bundle: str | None = None,
) -> None:
    """Bring up two nodes and a third, until the container answers; a second time changes nothing."""
    model = load_site(Path(site))
    asked = provider or context.config.lab.provider
    daemon = libvirt or context.config.lab.libvirt
    choice.check(asked)
    if daemon is not None:
        hostlibvirt.named(daemon)
    pair.check_start(name, model)
    with log.steps(f"Bringing up the lab {name!r}") as progress:
        kinds = asked or pair.provider_of(name), daemon or pair.libvirt_of(name)
        made = artifacts.for_lab(kinds[0], model, progress, bundle, libvirt=kinds[1], tell=log.say)
        running = pair.bring_up(name, model, made.artifacts, progress, hypervisor=made.hypervisor)
    log.out(report.text(running))


@task(
    auto_shortflags=False,
    help={"name": NAME_HELP, "watch": "show it again every second until Ctrl-C", "json": "print JSON"},
)
@guarded
def status(_context: Context, name: str = "default", watch: bool = False, json: bool = False) -> None:
    """Print the state of the nodes, their roles, the fence lock, the cables, and who serves."""
    running = pair.attach(name)
    show = report.as_json if json else report.text
    if watch:
        log.watch(lambda: show(running), every_s=1.0)
    else:
        log.out(show(running))


@task(auto_shortflags=False, help={"node": "n1, n2 or third", "name": NAME_HELP})
@guarded
def ssh(context: Context, node: str, name: str = "default") -> None:
    """Run the shell command given after `--` on NODE, or open a shell there; the exit code is the command's.

    invoke lab.ssh NODE [-- COMMAND]
    """
    raise SystemExit(terminal.shell(pair.attach(name).node(node), context.remainder))


@task(auto_shortflags=False, help={"node": "n1, n2 or third", "name": NAME_HELP})
@guarded
def console(_context: Context, node: str, name: str = "default") -> None:
    """Show what NODE's console has said and says, until Ctrl-C.

    invoke lab.console NODE
    """
    terminal.console(pair.attach(name).node(node).console_path)


@task(
    auto_shortflags=False,
    help={"folder": "where the files go (default: out/logs/NAME)", "name": NAME_HELP},
)
@guarded
def logs(_context: Context, folder: str | None = None, name: str = "default") -> None:
    """Collect the nodes' journals, kernel logs, consoles, decision logs and the store's log."""
    target = Path(folder) if folder else paths.PROJECT / "out" / "logs" / name
    running = pair.attach(name)
    with log.steps(f"Collecting the logs of the lab {name!r}") as progress:
        collected = report.collect(running, target, progress)
    for path in collected.files:
        log.out(str(path))
    for node, why in collected.missing.items():
        log.warn(f"{node} gave nothing but its console: {why}")


@task(
    auto_shortflags=False,
    help={
        "fault": "its name; a wrong one lists all",
        "node": "the node that it hits (default: the one that serves)",
        "name": NAME_HELP,
    },
)
@guarded
def fault(_context: Context, fault: str, node: str | None = None, name: str = "default") -> None:
    """Put a fault in place, until `lab.heal`.

    invoke lab.fault FAULT [--node NODE]
    """
    running = pair.attach(name)
    hit = node or running.serving()
    if hit is None:
        raise BadInput("nobody serves just now", "name the node that the fault shall hit: --node n1")
    placed = manual.inject(running.lab, fault, hit)
    log.out(f"{hit}: {placed.text}; invoke lab.heal --name {name} undoes it")


@task(auto_shortflags=False, help={"name": NAME_HELP})
@guarded
def heal(_context: Context, name: str = "default") -> None:
    """Make every cable whole, thaw and power on every node."""
    faults.heal_all(pair.attach(name).lab)
    log.out("healed")


@task(auto_shortflags=False, help={"name": NAME_HELP})
@guarded
def reset(_context: Context, name: str = "default") -> None:
    """Throw away all that the nodes have written, and start them again, until the container answers."""
    running = pair.attach(name)
    with log.steps(f"Resetting the lab {name!r}") as progress:
        pair.reset(running, progress)
    log.out(report.text(running))


@task(auto_shortflags=False, help={"name": NAME_HELP})
@guarded
def down(_context: Context, name: str = "default") -> None:
    """Shut the nodes down in good order and keep their disks; `lab.up` goes on from there."""
    running = pair.attach(name)
    with log.steps(f"Shutting down the lab {name!r}") as progress:
        pair.shut_down(running, progress)


@task(auto_shortflags=False, help={"name": NAME_HELP, "every": "all labs of this user"})
@guarded
def destroy(_context: Context, name: str = "default", every: bool = False) -> None:
    """End a lab and remove all of it, whatever state it is in."""
    for one in pair.names() if every else [name]:
        log.out(f"{one}: {'removed' if pair.destroy(one) else 'there is none'}")


@task(
    auto_shortflags=False,
    help={"site": SITE_HELP, "provider": "what the nodes shall be: what it lacks is a failure, not a warning"},
)
@guarded
def doctor(_context: Context, site: str = str(EXAMPLE), provider: str | None = None) -> None:
    """Check by doing whether this machine can run a lab: one line each, with its cure."""
    model = load_site(Path(site))
    cached = artifacts.cached()
    findings = checks.examine(pair.needed_memory_mb(model), kernel_cached=cached.kernel, image_cached=cached.image)
    wanted = (provider or model.lab.provider) == "vagrant"
    more = doctor_vagrant.examine(wanted=wanted, named=model.lab.box, version=model.lab.box_version)
    bad = False
    for finding in itertools.chain(findings, more):
        log.out(finding.line())
        bad = bad or finding.grade is checks.Grade.BAD
    if bad:
        raise SystemExit(int(ExitCode.HOST_LACKS))


@task(
    auto_shortflags=False,
    help={
        "name": "the lab's name: it must not exist yet, and is removed at the end",
        "provider": PROVIDER_HELP,
        "svg": "draw the timeline into this file",
        "site": SITE_HELP,
        "bundle": BUNDLE_HELP,
    },
)
@guarded
def demo(
    _context: Context,
    name: str = "demo",
    provider: str | None = None,
    svg: str | None = None,
    site: str = str(EXAMPLE),
    bundle: str | None = None,
) -> None:
    """Tell the story of one power loss, live: roles, lock, acknowledged writes, and the gap in seconds."""
    model = load_site(Path(site))
    if name in pair.names():
        raise BadInput(f"there is a lab {name!r} already, and the demo removes its own", "take another --name")
    pair.check_start(name, model)
    with log.steps(f"Bringing up the lab {name!r}") as progress:
        made = artifacts.for_lab(provider, model, progress, bundle, tell=log.say)
        running = pair.bring_up(name, model, made.artifacts, progress, hypervisor=made.hypervisor)
    try:
        began = time.time()
        run = runfolder.new(began)
        drawn = story.run(running, run / "demo", log.out, Path(svg) if svg else None)
        log.say(f"report: {story.keep(drawn, run, 'vagrant' if made.hypervisor else 'uml', began)}")
    finally:
        pair.destroy(name)
    if drawn.verdict is not Outcome.VALID:
        raise SystemExit(int(ExitCode.FAILED))


@task(auto_shortflags=False, help={"file": "the bundle to write"})
@guarded
def bundle(_context: Context, file: str) -> None:
    """Pack kernel, image and digests into FILE, for machines without compiler, root or user namespaces.

    invoke lab.bundle FILE
    """
    with log.steps(f"Packing {file}") as progress:
        made = artifacts.ensure(progress)
        bundles.pack(made, Path(file), progress)
    log.out(file)


@task(
    auto_shortflags=False,
    help={"release": f"of the distribution: {', '.join(boxes.RELEASES)} (default: {boxes.DEFAULT})"},
)
@guarded
def box(_context: Context, release: str = boxes.DEFAULT) -> None:
    """Build the Vagrant box of the lab's nodes; prints its file, and last the command that adds it to Vagrant."""
    with log.steps(f"Making the box {release}") as progress:
        made = boxes.ensure(progress, release)
        packed = boxes.pack(made, progress)
    log.out(str(packed.with_suffix(".box")))
    log.out(f"vagrant box add {packed}")
