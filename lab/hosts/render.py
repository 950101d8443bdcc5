"""From a site to the files of a node: the templates of hostfiles/, placed by its catalog."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, meta
from pydantic import Field

from lab.errors import HapairError
from lab.hosts.checks import STORE_KEYS
from lab.hosts.runtime import zipapp
from lab.hosts.site import Part, Site, Store
from lab.hosts.tree import File, Link, Tree
from lab.paths import PROJECT
from lab.yamlio import load_model

HOSTFILES = PROJECT / "hostfiles"
TEMPLATES = HOSTFILES / "templates"

Each = Literal["node", "interface", "resource", "container"]
Mode = Annotated[str, Field(pattern=r"^0[0-7]{3}$")]
NodePath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._{}@-]+)+$")]


class TemplateEntry(Part):
    """One template and where it lands."""

    template: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]+$")]
    path: NodePath
    each: Each = "node"
    owner: Literal["root"] = "root"
    mode: Mode = "0644"
    validator: Literal["none", "drbdadm", "json", "sysctl", "systemd", "yaml"] = "none"
    reload: Literal["none", "agent", "boot", "drbd", "hostname", "network", "networkd", "sysctl", "systemd"] = "none"


class LinkEntry(Part):
    """One symbolic link."""

    path: NodePath
    target: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/@-]+$")]
    each: Each = "node"


class RuntimeEntry(Part):
    """Where the archive of the host programs lands."""

    path: NodePath
    mode: Mode


class Catalog(Part):
    """Everything that lands on a node."""

    templates: tuple[TemplateEntry, ...]
    links: tuple[LinkEntry, ...]
    runtime: RuntimeEntry


@cache
def catalog() -> Catalog:
    """Read hostfiles/catalog.yaml.

    Raises:
        BadInput: it does not fit its schema.
    """
    return load_model(HOSTFILES / "catalog.yaml", Catalog)


def render(site: Site, node: str, *, runtime: bytes | None = None) -> Tree:
    """Return every file that `node` needs.

    Args:
        site: the checked site.
        node: the name of one of its nodes.
        runtime: the archive of the host programs; made from hostfiles/runtime unless given.

    Raises:
        HapairError: a template uses a variable that there is not, or two entries of the catalog have one path.
    """
    environment = _environment(TEMPLATES)
    entries: dict[str, File | Link] = {}

    def place(path: str, entry: File | Link) -> None:
        if path in entries:
            raise HapairError(f"hostfiles/catalog.yaml: two entries make {path}", "mend one of the two")
        entries[path] = entry

    for template in catalog().templates:
        for names, variables in _rounds(site, node, template.each):
            try:
                text = environment.get_template(template.template).render(variables)
            except TemplateError as error:
                raise HapairError(f"hostfiles/templates/{template.template}: {error}", "mend the template") from None
            entry = File(text.encode(), int(template.mode, 8), template.validator, template.reload)
            place(_path(template.path, names), entry)
    for link in catalog().links:
        for names, _ in _rounds(site, node, link.each):
            place(_path(link.path, names), Link(link.target))
    archive = zipapp() if runtime is None else runtime
    place(catalog().runtime.path, File(archive, int(catalog().runtime.mode, 8)))
    return Tree(entries)


def render_all(site: Site, *, runtime: bytes | None = None) -> dict[str, Tree]:
    """Return the files of both nodes, by name."""
    archive = zipapp() if runtime is None else runtime
    return {node: render(site, node, runtime=archive) for node in site.nodes}


def variables(template: str) -> frozenset[str]:
    """Return the names that a template uses, for the table in hostfiles/README.md."""
    text = (TEMPLATES / template).read_text(encoding="utf-8")
    return frozenset(meta.find_undeclared_variables(_environment(TEMPLATES).parse(text)))


def runtime_config(site: Site, node: str) -> dict[str, Any]:
    """Return what /etc/hapair/hapair.json holds: all that the host programs know of the site."""
    times = site.times
    lan = site.nodes[node].lan.interface
    return {
        "pair": site.pair,
        "node": node,
        "peer": site.peer_of(node),
        "nodes": {
            name: {"uuid": str(it.uuid), "crossover": str(it.crossover.address.ip), "lan": str(it.lan.address.ip)}
            for name, it in site.nodes.items()
        },
        "store": _store(site.store),
        "times": {
            "selffence_s": times.selffence_s,
            "grace_s": times.grace_s,
            "watch_s": times.watch_s,
            "stop_s": float(times.stop_s),
            "start_s": float(times.start_s),
        },
        "watchdog_s": times.watchdog_s,
        "resources": {
            name: {
                "minor": it.minor,
                "device": it.device,
                "mount": it.mount,
                "mount_unit": it.mount_unit,
                "lxd_dir": it.lxd_dir,
                "pool": it.pool,
                "lxd_unit": f"{name}lxd.service",
                "preferred": it.preferred,
                "lan_interface": lan,
                "addresses": [str(ip) for c in site.containers.values() if c.resource == name for ip in c.addresses],
            }
            for name, it in site.resources.items()
        },
    }


def _store(store: Store) -> dict[str, Any]:
    needed, possible = STORE_KEYS[store.kind]
    return store.model_dump(include={"kind", "timeout_s", *needed, *possible})


def _path(pattern: str, names: dict[str, str]) -> str:
    try:
        return pattern.format_map(names)
    except KeyError as error:
        known = ", ".join(sorted(names)) or "none"
        raise HapairError(
            f"hostfiles/catalog.yaml: {pattern}: no name {error} here, only: {known}", "mend it"
        ) from None


def _rounds(site: Site, node: str, each: Each) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Yield, for each time an entry is used, the names for its path and the variables for its template."""
    here = site.nodes[node]
    common: dict[str, Any] = {
        "site": site,
        "node": node,
        "peer": site.peer_of(node),
        "lan": here.lan,
        "crossover": here.crossover,
        "hapair": runtime_config(site, node),
    }
    if each == "node":
        yield {}, common
    elif each == "interface":
        for kind, it in (("lan", here.lan), ("crossover", here.crossover)):
            yield {"interface": it.interface}, {**common, "interface": it, "interface_kind": kind}
    elif each == "resource":
        for name, resource in site.resources.items():
            names = {"resource": name, "mount_unit": resource.mount_unit}
            yield names, {**common, "resource": resource, "resource_name": name}
    else:
        for name, container in site.containers.items():
            yield {"container": name}, {**common, "container": container, "container_name": name}


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(  # noqa: S701 - configuration files, no HTML
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tenths"] = lambda seconds: round(seconds * 10)
    environment.filters["json"] = lambda value: json.dumps(value, indent=2, sort_keys=True)
    return environment
