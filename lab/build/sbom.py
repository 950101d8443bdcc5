"""The artifact's software bill of materials: CycloneDX 1.6 JSON (ECMA-424), the same for the same inputs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

SPACE = uuid.UUID("2b9b1c5e-6a0c-5f0f-9d2b-4f1d0a7c3e11")
"""Name space of the serial numbers, which CycloneDX wants to be UUIDs: version 5, over the artifact's digest."""

Content = Mapping[str, Any]
Component = dict[str, Any]


def document(content: Content, needs: Mapping[str, Content]) -> str:
    """Return the SBOM of an artifact.

    Args:
        content: its manifest, with the archive alone in `files`.
        needs: the manifests of what it was built with.
    """
    main = _main(content)
    parts: dict[str, Component] = {}
    links: dict[str, set[str]] = {}
    _collect(content, main["bom-ref"], parts, links)
    for alias, need in sorted(needs.items()):
        component = _need(content, alias, need)
        parts[component["bom-ref"]] = component
        links.setdefault(main["bom-ref"], set()).add(component["bom-ref"])
        _collect(need, component["bom-ref"], parts, links)
    text = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(SPACE, _digest(content))}",
        "version": 1,
        # No timestamp: the same inputs are to give the same document.
        "metadata": {"component": main, "tools": {"components": [{"type": "application", "name": "hapair"}]}},
        "components": [parts[ref] for ref in sorted(parts)],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(links.get(ref, ()))} for ref in [main["bom-ref"], *sorted(parts)]
        ],
    }
    return json.dumps(text, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _digest(content: Content) -> str:
    return str(content["files"][content["result"]]["sha256"])


def _hashes(sha256: object) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": str(sha256)}]


def _properties(**values: object) -> list[dict[str, str]]:
    told = {f"hapair:{name}": str(value) for name, value in sorted(values.items()) if value not in (None, "")}
    return [{"name": name, "value": value} for name, value in told.items()]


def _described(content: Content) -> Component:
    told: Component = {}
    if content.get("about"):
        told["description"] = content["about"]
    if content.get("license"):
        told["licenses"] = [{"expression": content["license"]}]
    if content.get("homepage"):
        told["externalReferences"] = [{"type": "website", "url": content["homepage"]}]
    return told


def _main(content: Content) -> Component:
    name, release = content["name"], str(content.get("release") or "")
    return {
        "type": "application",
        "bom-ref": f"artifact:{name}@{release}",
        "name": name,
        "version": release,
        "hashes": _hashes(_digest(content)),
        "properties": _properties(
            key=content["key"], liblxc=content.get("liblxc"), verified=str(bool(content.get("verified"))).lower()
        ),
        **_described(content),
    }


def _need(content: Content, alias: str, need: Content) -> Component:
    name, release = need["name"], str(need.get("release") or "")
    mine = {leaf.get("sha256") for leaf in need.get("tree", {}).values()} - {None}
    # Strip and run path are the same in both trees, so what was merged has the digest it had.
    merged = sorted(path for path, leaf in content.get("tree", {}).items() if leaf.get("sha256") in mine)
    return {
        "type": "library",
        "bom-ref": f"need:{name}@{release}",
        "name": name,
        "version": release,
        "hashes": _hashes(content["inputs"]["needs"].get(alias, {}).get("sha256") or _digest(need)),
        "properties": _properties(key=need["key"]),
        **({"evidence": {"occurrences": [{"location": path} for path in merged]}} if merged else {}),
        **_described(need),
    }


def _collect(content: Content, owner: str, parts: dict[str, Component], links: dict[str, set[str]]) -> None:
    """Add the components that one build took in: its sources, patches, Debian packages and Go modules."""
    inputs = content["inputs"]
    for component in [
        *(_source(content, name, source) for name, source in inputs.get("sources", {}).items()),
        *(_patch(file, sha256) for file, sha256 in inputs.get("patches", {}).items()),
        *(_go_package(name, package) for name, package in inputs.get("go_deps", {}).items()),
        *(_go_module(name, version) for name, version in inputs.get("go_modules", {}).items()),
        *_bundled(content),
        *_elf_files(content, owner),
    ]:
        parts[component["bom-ref"]] = component
        links.setdefault(owner, set()).add(component["bom-ref"])


def _source(content: Content, name: str, source: Content) -> Component:
    version = str(source.get("version") or content.get("release") or "")
    place = str(source["place"])
    purl = f"pkg:generic/{quote(name)}" + (f"@{quote(version)}" if version else "")
    patches = [
        {"type": "unofficial", "diff": {"url": quote(file)}} for file in sorted(content["inputs"].get("patches", {}))
    ]
    component: Component = {
        "type": "library",
        "bom-ref": f"source:{name}@{source['sha256']}",
        "name": name,
        "version": version,
        "purl": f"{purl}?checksum=sha256:{source['sha256']}",
        "hashes": _hashes(source["sha256"]),
        "properties": _properties(file=source["file"], place=place, verified=source["verified"] or "no"),
    }
    if place.startswith(("http://", "https://")):
        component["externalReferences"] = [{"type": "source-distribution", "url": place}]
    # The manifest lists patches for the whole build; its main source is the one that carries the build's name.
    if patches and name == content["name"]:
        component["pedigree"] = {"patches": patches}
    return component


def _patch(file: str, sha256: object) -> Component:
    return {
        "type": "file",
        "bom-ref": f"patch:{file}@{sha256}",
        "name": file,
        "hashes": _hashes(sha256),
        "properties": _properties(role="patch"),
    }


def _deb(name: str, version: object) -> str:
    return f"pkg:deb/debian/{quote(name)}@{quote(str(version), safe='')}"


def _go_package(name: str, package: Content) -> Component:
    paths = [{"name": "hapair:go:path", "value": path} for path in package.get("paths", ())]
    return {
        "type": "library",
        "bom-ref": f"go-package:{name}@{package['version']}",
        "name": name,
        "version": str(package["version"]),
        "purl": _deb(name, package["version"]),
        "hashes": _hashes(package["sha256"]),
        "properties": [*_properties(role="go source"), *paths],
    }


def _go_module(name: str, version: object) -> Component:
    return {
        "type": "library",
        "bom-ref": f"go-module:{name}@{version}",
        "name": name,
        "version": str(version),
        "purl": f"pkg:golang/{quote(name)}@{quote(str(version), safe='')}",
        "properties": [*_properties(role="go source"), {"name": "hapair:go:path", "value": name}],
    }


def _bundled(content: Content) -> Iterator[Component]:
    """Yield what the tools and headers came from: the distribution's packages that were there at the time."""
    for name, version in content["inputs"].get("build_deps", {}).items():
        yield {
            "type": "library",
            "bom-ref": f"build-dep:{name}@{version}",
            "name": name,
            "version": str(version),
            "purl": _deb(name, version),
            "scope": "excluded",
            "properties": _properties(role="build dependency"),
        }


def _elf_files(content: Content, owner: str) -> Iterator[Component]:
    """Yield the programs and libraries of the artifact itself, so that a digest found on a host leads back here."""
    if not owner.startswith("artifact:"):
        return
    for path, leaf in content.get("tree", {}).items():
        program = int(leaf.get("mode", "0"), 8) & 0o111
        if "sha256" in leaf and (program or ".so" in path.rpartition("/")[2]):
            yield {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": _hashes(leaf["sha256"])}
