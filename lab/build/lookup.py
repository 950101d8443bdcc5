"""What the cache knows of a build without doing anything: the sources' digests, the keys they make, the artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.build import fetch, godeps, manifest
from lab.build.fetch import Fetched
from lab.build.manifest import Artifact
from lab.build.plan import Plan

Given = dict[tuple[str, str], Fetched]
"""Spec and source → what `--source` put in its place."""


@dataclass(frozen=True)
class Identity:
    """What one artifact is known by, and what that was made of."""

    key: str
    verified: bool
    sources: Mapping[str, Fetched]
    go_deps: godeps.Packages


@dataclass(frozen=True)
class Lookup:
    """The plans of one closure, and what was given for their sources."""

    plans: Mapping[str, Plan]
    given: Given = field(default_factory=dict)

    def sources(self, name: str) -> dict[str, Fetched] | None:
        """Return what is known of a spec's sources; None when one of them was never fetched."""
        known: dict[str, Fetched] = {}
        for source, described in self.plans[name].spec.sources.items():
            found = self.given.get((name, source)) or fetch.recorded(source, described)
            if found is None:
                return None
            known[source] = found
        return known

    def identity(self, name: str) -> Identity | None:
        """Return what an artifact is known by; None while a source of it, or of what it needs, is unknown."""
        plan = self.plans[name]
        sources = self.sources(name)
        packages = godeps.recorded(plan.spec.go_deps) if plan.spec.go_deps else {}
        needs = {alias: self.identity(other) for alias, other in plan.needs.items()}
        whole = {alias: need for alias, need in needs.items() if need is not None}
        if sources is None or packages is None or len(whole) < len(needs):
            return None
        key = plan.key(
            sources,
            {alias: need.key for alias, need in whole.items()},
            {package: one["sha256"] for package, one in packages.items()},
        )
        verified = all(source.verified for source in sources.values()) and all(need.verified for need in whole.values())
        return Identity(key, verified, sources, packages)

    def cached(self, name: str) -> Artifact | None:
        """Return the artifact of one of the plans, if the cache has it.

        Raises:
            Damaged: it is not what its manifest says.
        """
        known = self.identity(name)
        return manifest.find(self.plans[name].target(known.key, verified=known.verified)) if known else None
