"""Where an artifact came from: an in-toto Statement v1 with SLSA's provenance v1, the same for the same inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

Content = Mapping[str, Any]

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:hapair:buildspec:1"
BUILDER = "urn:hapair:engine"


def statement(content: Content, needs: Mapping[str, Content]) -> str:
    """Return the statement about an artifact.

    Times of start and end, which SLSA leaves optional, are not in it: they would differ from build to build.

    Args:
        content: its manifest, with the archive alone in `files`.
        needs: the manifests of what it was built with.
    """
    inputs = content["inputs"]
    subjects = [{"name": name, "digest": {"sha256": file["sha256"]}} for name, file in sorted(content["files"].items())]
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "spec": content["name"],
                "release": content.get("release"),
                "arch": content.get("arch"),
                "liblxc": content.get("liblxc"),
            },
            "internalParameters": {
                "engine": inputs["engine"],
                "sourceDateEpoch": content.get("source_date_epoch"),
                "spec": inputs["spec"],
                "tools": inputs.get("tools", {}),
            },
            "resolvedDependencies": sorted(_materials(inputs, needs), key=lambda one: (one["uri"], one["name"])),
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"engine": str(inputs["engine"])}},
            "metadata": {"invocationId": content["key"]},
        },
    }
    text = {"_type": STATEMENT, "subject": subjects, "predicateType": PREDICATE, "predicate": predicate}
    return json.dumps(text, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _materials(inputs: Content, needs: Mapping[str, Content]) -> Iterator[dict[str, Any]]:
    for name, source in inputs.get("sources", {}).items():
        place = str(source["place"])
        yield {
            "name": name,
            "uri": place if place.startswith(("http://", "https://")) else f"urn:hapair:source:{quote(name)}",
            "digest": {"sha256": source["sha256"]},
            "annotations": {"place": place, "file": source["file"], "verified": source["verified"]},
        }
    for kind, files in (("file", inputs.get("files", {})), ("patch", inputs.get("patches", {}))):
        for name, sha256 in files.items():
            yield {"name": name, "uri": f"urn:hapair:{kind}:{quote(name)}", "digest": {"sha256": sha256}}
    for name, package in inputs.get("go_deps", {}).items():
        yield {"name": name, "uri": _deb(name, package["version"]), "digest": {"sha256": package["sha256"]}}
    for name, version in inputs.get("build_deps", {}).items():
        yield {"name": name, "uri": _deb(name, version)}
    for alias, need in inputs.get("needs", {}).items():
        uri = f"urn:hapair:artifact:{quote(str(need['name']))}:{quote(str(need.get('release') or ''))}"
        made = needs.get(alias, {})
        told = {"annotations": {"sources": sorted(made["inputs"].get("sources", {}))}} if made else {}
        yield {"name": alias, "uri": uri, "digest": {"sha256": need["sha256"]}, **told}


def _deb(name: str, version: object) -> str:
    return f"pkg:deb/debian/{quote(name)}@{quote(str(version), safe='')}"
