"""What a buildspec is made of and how far its build is, in lines to read."""

from __future__ import annotations

from collections.abc import Iterator

from lab.build import fetch, manifest
from lab.build import spec as specs
from lab.build.lookup import Lookup
from lab.build.plan import closure
from lab.build.spec import Patch, Source, Spec
from lab.errors import HostLacks


def describe(name: str) -> list[str]:
    """Return a description of a buildspec: sources and where they may be found, needs, steps, state in the cache.

    Raises:
        BadInput: there is no such spec, or it is not valid.
    """
    spec, path = specs.load(name)
    lines = [f"{spec.id}: {spec.about}", f"  spec      {path}"]
    for source, described in spec.sources.items():
        lines += _source(source, described)
    lines += [f"  needs     {alias}: {need.spec}" for alias, need in spec.needs.items()]
    if spec.build_deps:
        lines.append(f"  packages  {' '.join(spec.build_deps)}")
    if spec.go_deps:
        lines.append(f"  Go        {len(spec.go_deps.packages)} packages of {spec.go_deps.suite}, and what they need")
    lines.append(f"  steps     {' '.join(step.name for step in spec.steps)}")
    lines += [f"  baked in  {one.path}: {one.reason}" for one in spec.baked]
    return lines + list(_state(spec))


def _source(name: str, source: Source) -> Iterator[str]:
    yield f"  source    {name}"
    yield from (f"    place   {place}" for place in source.places)
    yield from (f"    {kind}  {text}" for kind, text in (("sha256", source.sha256), ("sha512", source.sha512)) if text)
    yield from (f"    patch   {_patch(patch)}" for patch in source.patches)
    known = fetch.recorded(name, source)
    if known:
        vouched = known.verified or "unverified"
        yield f"    here    {known.file}, {known.size_bytes} bytes, from {known.place}, {vouched}"


def _patch(patch: Patch) -> str:
    if patch.series is None:
        return str(patch.file)
    skipped = f" but {', '.join(patch.series.skip)}" if patch.series.skip else ""
    return f"{patch.series.path} of {patch.series.source}{skipped}"


def _state(spec: Spec) -> Iterator[str]:
    try:
        lookup = Lookup(closure(spec.id))
    except HostLacks as error:
        yield f"  state     cannot be built here: {error.message}"
        return
    known = lookup.identity(spec.id)
    if known is None:
        yield "  state     no key yet: a source was never fetched"
        return
    yield f"  key       {known.key}"
    found = manifest.find(lookup.plans[spec.id].target(known.key, verified=known.verified))
    yield f"  state     {found.path}" if found else "  state     not built"
