"""The papers beside an artifact: CycloneDX SBOM and in-toto provenance, against their formats, digests and manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lab.check.manifest import Manifest
from lab.check.report import Report
from lab.check.subject import Subject

SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
GO_PATH = "hapair:go:path"
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class Digest(_Strict):
    """A DigestSet of in-toto, of which only SHA-256 is used."""

    sha256: Sha256


class Resource(_Strict):
    """A ResourceDescriptor of in-toto."""

    name: str
    uri: str | None = None
    digest: Digest | None = None
    annotations: dict[str, Any] = Field(default_factory=dict)


class About(_Strict):
    """What a statement is about."""

    name: str
    digest: Digest


class Definition(_Strict):
    """SLSA's BuildDefinition."""

    build_type: Annotated[str, Field(alias="buildType", pattern=r"^[a-z][a-z0-9+.-]*:")]
    external: Annotated[dict[str, Any], Field(alias="externalParameters")]
    internal: Annotated[dict[str, Any], Field(alias="internalParameters")]
    resolved: Annotated[list[Resource], Field(alias="resolvedDependencies")]


class Builder(_Strict):
    """SLSA's Builder."""

    id: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*:")]
    version: dict[str, str]


class Invocation(_Strict):
    """SLSA's BuildMetadata without its times, which no reproducible statement has."""

    id: Annotated[str, Field(alias="invocationId")]


class Details(_Strict):
    """SLSA's RunDetails."""

    builder: Builder
    metadata: Invocation


class Predicate(_Strict):
    """SLSA provenance v1."""

    definition: Annotated[Definition, Field(alias="buildDefinition")]
    details: Annotated[Details, Field(alias="runDetails")]


class Statement(_Strict):
    """in-toto Statement v1 with SLSA provenance v1."""

    kind: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    subject: Annotated[list[About], Field(min_length=1)]
    predicate_type: Annotated[Literal["https://slsa.dev/provenance/v1"], Field(alias="predicateType")]
    predicate: Predicate


def provenance(subject: Subject, report: Report) -> None:
    """Check the provenance: its form, its subjects against the real files, its materials against the manifest."""
    manifest, digests = subject.manifest, subject.digests
    try:
        told = Statement.model_validate_json((subject.folder / PROVENANCE).read_bytes())
    except OSError as error:
        report.fault("provenance", PROVENANCE, f"cannot be read: {error.strerror}")
        return
    except ValidationError as error:
        for fault in error.errors():
            report.fault("provenance", PROVENANCE, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        return
    subjects = {one.name: one.digest.sha256 for one in told.subject}
    if manifest.result not in subjects:
        report.fault("provenance", PROVENANCE, f"is not about {manifest.result}")
    for name, sha256 in sorted(subjects.items()):
        if digests.get(name) != sha256:
            report.fault("provenance", PROVENANCE, f"{name} has sha256 {digests.get(name)}, the subject says {sha256}")
    if told.predicate.details.metadata.id != manifest.key:
        report.fault("provenance", PROVENANCE, f"is of the build {told.predicate.details.metadata.id}")
    resolved = told.predicate.definition.resolved
    materials = {(one.name, one.digest.sha256 if one.digest else "") for one in resolved}
    for name, sha256 in sorted(materials - _materials(manifest)):
        report.fault("provenance", PROVENANCE, f"names {name} ({sha256 or 'no digest'}), unknown to the manifest")
    for name, sha256 in sorted(_materials(manifest) - materials):
        report.fault("provenance", PROVENANCE, f"does not name {name} ({sha256 or 'no digest'})")


def _materials(manifest: Manifest) -> set[tuple[str, str]]:
    inputs = manifest.inputs
    digested = (inputs.sources, inputs.go_deps, inputs.needs)
    found = {(name, one.sha256) for group in digested for name, one in group.items()}
    found |= {(name, sha256) for group in (inputs.files, inputs.patches) for name, sha256 in group.items()}
    return found | {(name, "") for name in inputs.build_deps}


def sbom(subject: Subject, report: Report) -> None:
    """Check the SBOM against CycloneDX's schema, and that it names everything that went in and came out."""
    # Their grammars take seconds to load, and whoever imports this module need not check anything.
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    try:
        text = (subject.folder / SBOM).read_text(encoding="utf-8")
        document = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        report.fault("sbom", SBOM, f"cannot be read: {error}")
        return
    if invalid := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        data: Any = invalid.data
        where = "/".join(str(part) for part in data.absolute_path) or "the document"
        report.fault("sbom", SBOM, f"no valid CycloneDX 1.6: {where}: {str(data.message)[:300]}")
        return
    _contents(subject, document, report)
    _go(subject, document, report)


def _contents(subject: Subject, document: Mapping[str, Any], report: Report) -> None:
    manifest, digests = subject.manifest, subject.digests
    if "timestamp" in document.get("metadata", {}):
        report.fault("sbom", SBOM, "has a timestamp, so it differs from build to build")
    main = document.get("metadata", {}).get("component", {})
    if _sha256(main) != digests.get(manifest.result):
        report.fault("sbom", SBOM, f"describes an archive with sha256 {_sha256(main)}")
    components = document.get("components", [])
    named = {(component["name"], _sha256(component)) for component in components}
    for name, sha256 in sorted(_materials(manifest) - named):
        # The spec's own files (kernel options, units) are no software of somebody else's.
        if name not in manifest.inputs.files and not _need(manifest, name, sha256, named):
            report.fault("sbom", SBOM, f"does not name {name} ({sha256 or 'no digest'})")
    versions = {(component["name"], component.get("version")) for component in components}
    for name, version in sorted(manifest.inputs.go_modules.items()):
        if (name, version) not in versions:
            report.fault("sbom", SBOM, f"does not name the Go module {name} {version}")
    for path in sorted(subject.elves):
        if (path, subject.tree.leaves[path].sha256) not in named:
            report.fault("sbom", SBOM, f"does not name {path} ({subject.tree.leaves[path].sha256})")


def _need(manifest: Manifest, alias: str, sha256: str, named: set[tuple[str, str]]) -> bool:
    need = manifest.inputs.needs.get(alias)
    return need is not None and need.sha256 == sha256 and (need.name, sha256) in named


def _sha256(component: Mapping[str, Any]) -> str:
    hashes = component.get("hashes", [])
    return next((str(one["content"]) for one in hashes if one["alg"] == "SHA-256"), "")


def _go(subject: Subject, document: Mapping[str, Any], report: Report) -> None:
    """Compare with what Go itself wrote into the programs: each package must belong to something in the SBOM."""
    roots = {
        str(one["value"])
        for component in document.get("components", [])
        for one in component.get("properties", [])
        if one["name"] == GO_PATH
    }
    own = _own(subject.manifest)
    for path, facts in sorted(subject.elves.items()):
        for package in uncovered(facts.packages, roots | own):
            report.fault("sbom", path, f"holds the Go package {package}, which the SBOM does not name")


def _own(manifest: Manifest) -> set[str]:
    """Return the import paths of what is being built; its source stands in the SBOM under its own name."""
    name = manifest.name.partition("-")[0]
    return {f"github.com/lxc/{name}", f"github.com/canonical/{name}"}


def uncovered(packages: Iterable[str], roots: set[str]) -> list[str]:
    """Return the packages that lie below none of the import paths."""

    def known(package: str) -> bool:
        parts = package.split("/")
        return any("/".join(parts[:count]) in roots for count in range(1, len(parts) + 1))

    return sorted(package for package in packages if not known(package))
