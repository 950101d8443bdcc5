"""The papers of an artifact: valid, complete, and the same for the same inputs."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from lab.build import provenance, sbom

ARCHIVE = {"size_bytes": 9, "sha256": "a" * 64}


def manifest(name: str, release: str, **inputs: Any) -> dict[str, Any]:
    result = f"{name}-{release}-amd64.tar.zst"
    return {
        "name": name,
        "release": release,
        "arch": "amd64",
        "key": f"key-of-{name}",
        "about": f"what {name} is",
        "license": "Apache-2.0 AND LGPL-2.1-or-later",
        "homepage": "https://example.invalid/",
        "verified": True,
        "liblxc": "own",
        "source_date_epoch": 1,
        "result": result,
        "files": {result: ARCHIVE},
        "tree": {
            f"bin/{name}": {"mode": "0755", "size_bytes": 1, "sha256": "b" * 64},
            f"lib/lib{name}.so.1": {"mode": "0644", "size_bytes": 1, "sha256": "c" * 64},
            f"lib/lib{name}.so": {"link": f"lib{name}.so.1"},
            "share/doc": {"mode": "0644", "size_bytes": 1, "sha256": "d" * 64},
        },
        "inputs": {"engine": 2, "spec": {"name": name}, "files": {}, "tools": {}, "needs": {}, **inputs},
    }


def source(place: str, sha256: str) -> dict[str, Any]:
    return {"file": "x.tar.gz", "place": place, "version": "", "size_bytes": 1, "sha256": sha256, "verified": "sha256"}


@pytest.fixture
def content() -> dict[str, Any]:
    return manifest(
        "lxd",
        "5.0.2",
        sources={
            "lxd": source("https://example.invalid/lxd.tar.gz", "1" * 64),
            "lxd-debian": source("debian.tar.xz of Debian's source lxd in bookworm", "2" * 64),
        },
        patches={"patches/a b.patch": "3" * 64},
        build_deps={"gcc": "4:12.2.0-3"},
        go_deps={
            "golang-x-dev": {"version": "1.0-1", "sha256": "4" * 64, "size_bytes": 1, "paths": ["github.com/x/y"]}
        },
        go_modules={"gopkg.in/yaml.v2": "v2.4.0"},
        needs={"lxc": {"spec": "lxc-4.0.6", "name": "lxc", "release": "4.0.6", "key": "k", "sha256": "5" * 64}},
    )


@pytest.fixture
def needs() -> dict[str, Any]:
    lxc = manifest("lxc", "4.0.6", sources={"lxc": source("file lxc.tar.gz", "6" * 64)}, patches={"p.patch": "7" * 64})
    return {"lxc": lxc}


def by_name(document: str) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in json.loads(document)["components"]}


def test_the_sbom_is_valid_by_the_real_schema(content: dict[str, Any], needs: dict[str, Any]) -> None:
    text = sbom.document(content, needs)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert text.endswith("}\n")


def test_the_sbom_names_all_that_went_in(content: dict[str, Any], needs: dict[str, Any]) -> None:
    parts = by_name(sbom.document(content, needs))
    assert parts["source:lxd@" + "1" * 64]["externalReferences"][0]["url"] == "https://example.invalid/lxd.tar.gz"
    assert parts["source:lxd@" + "1" * 64]["purl"] == f"pkg:generic/lxd@5.0.2?checksum=sha256:{'1' * 64}"
    assert parts["source:lxd@" + "1" * 64]["pedigree"]["patches"][0]["diff"]["url"] == "patches/a%20b.patch"
    assert parts["patch:patches/a b.patch@" + "3" * 64]["hashes"][0]["content"] == "3" * 64
    assert parts["build-dep:gcc@4:12.2.0-3"]["purl"] == "pkg:deb/debian/gcc@4%3A12.2.0-3"
    assert {"name": "hapair:go:path", "value": "github.com/x/y"} in parts["go-package:golang-x-dev@1.0-1"]["properties"]
    assert parts["go-module:gopkg.in/yaml.v2@v2.4.0"]["purl"] == "pkg:golang/gopkg.in/yaml.v2@v2.4.0"
    assert parts["need:lxc@4.0.6"]["hashes"][0]["content"] == "5" * 64
    assert parts["source:lxc@" + "6" * 64]["version"] == "4.0.6"
    assert {"file:bin/lxd", "file:lib/liblxd.so.1"} == {ref for ref in parts if ref.startswith("file:")}


def test_every_reference_leads_somewhere(content: dict[str, Any], needs: dict[str, Any]) -> None:
    document = json.loads(sbom.document(content, needs))
    refs = {document["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in document["components"])}
    edges = {one["ref"]: one["dependsOn"] for one in document["dependencies"]}
    assert set(edges) == refs
    assert {to for targets in edges.values() for to in targets} == refs - {"artifact:lxd@5.0.2"}
    assert "source:lxc@" + "6" * 64 in edges["need:lxc@4.0.6"]


@pytest.mark.parametrize("write", [sbom.document, provenance.statement])
def test_the_same_inputs_give_the_same_bytes_in_any_order(
    content: dict[str, Any], needs: dict[str, Any], write: Any
) -> None:
    turned = json.loads(json.dumps(content), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert turned == content
    assert list(turned) != list(content)
    assert write(turned, copy.deepcopy(needs)) == write(content, needs)
    content["files"][content["result"]] = {"size_bytes": 9, "sha256": "e" * 64}
    assert write(turned, needs) != write(content, needs)


def test_the_statement_is_about_the_archive_and_names_every_material(
    content: dict[str, Any], needs: dict[str, Any]
) -> None:
    told = json.loads(provenance.statement(content, needs))
    assert told["_type"] == "https://in-toto.io/Statement/v1"
    assert told["predicateType"] == "https://slsa.dev/provenance/v1"
    assert told["subject"] == [{"name": content["result"], "digest": {"sha256": ARCHIVE["sha256"]}}]
    materials = {one["name"]: one for one in told["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert set(materials) == {"lxd", "lxd-debian", "patches/a b.patch", "gcc", "golang-x-dev", "lxc"}
    assert materials["lxd"]["uri"] == "https://example.invalid/lxd.tar.gz"
    assert materials["lxc"]["digest"] == {"sha256": "5" * 64}
    assert materials["lxc"]["annotations"] == {"sources": ["lxc"]}
    assert "startedOn" not in told["predicate"]["runDetails"]["metadata"]


def test_what_a_need_gave_is_located(content: dict[str, Any], needs: dict[str, Any]) -> None:
    content["tree"]["lib/liblxc.so.1"] = needs["lxc"]["tree"]["lib/liblxc.so.1"] = {"mode": "0644", "sha256": "9" * 64}
    occurrences = by_name(sbom.document(content, needs))["need:lxc@4.0.6"]["evidence"]["occurrences"]
    assert {"location": "lib/liblxc.so.1"} in occurrences
