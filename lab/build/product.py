"""From a room where all steps are done to the artifact in the cache: tree, archive, SBOM, provenance, manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.build import archive, globs, gomodules, manifest, plan, provenance, sbom, steps
from lab.build.manifest import Artifact
from lab.build.spec import Spec
from lab.build.steps import Room
from lab.errors import BadInput, HapairError

SBOM = "sbom.cdx.json"
PROVENANCE = "provenance.intoto.json"
TOLD = ("libraries", "baked", "rpath", "runtime", "checks")
"""What the manifest repeats from the spec, so that whoever checks or runs the artifact needs no spec."""


def publish(room: Room) -> Artifact:
    """Make the artifact of a finished room and put it into the cache in one move.

    Raises:
        HapairError: the steps did not leave what the spec says.
    """
    spec, key = room.made.spec, room.key
    verified = is_verified(room)
    target = room.made.target(key, verified=verified)
    if spec.result is not None:
        stage = room.folder / "stage"
        if not (stage / spec.result).is_file():
            raise HapairError(
                f"{spec.id}: the steps left no {spec.result} in the stage", f"read the logs in {room.logs}"
            )
        content = {"name": spec.name, "key": key, "result": spec.result, "inputs": room.made.inputs(room.sources)}
        # A spec without release keeps the manifest that it always had.
        release = {"release": spec.release} if spec.release else {}
        return manifest.publish(stage, target, {**content, **release})
    tree = steps.install(room)
    beside = room.folder / "beside"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    with room.progress.step(f"{spec.id}: archive"):
        content = _content(room, tree, beside, verified=verified)
    needs = {name: need.content for name, need in room.needs.items()}
    (beside / SBOM).write_text(sbom.document(content, needs), encoding="utf-8")
    (beside / PROVENANCE).write_text(provenance.statement(content, needs), encoding="utf-8")
    return manifest.publish(beside, target, content)


def is_verified(room: Room) -> bool:
    """Tell whether a checksum, a signature or apt vouches for every source, those of the needs included."""
    return all(one.verified for one in room.sources.values()) and all(one.verified for one in room.needs.values())


def _content(room: Room, tree: Path, beside: Path, *, verified: bool) -> dict[str, Any]:
    """Write the archive and return the manifest, with the archive alone in `files`."""
    spec = room.made.spec

    def mode_of(path: str, mode: int) -> int:
        wanted = globs.first(spec.install.modes, path, "")
        return int(wanted, 8) if wanted else archive.usual(path, mode)

    system = room.made.system
    liblxc = None if spec.system_liblxc is None else "system" if system else "own"
    marks = manifest.marks(verified=verified, system=system)
    file = beside / f"{spec.id}-{plan.architecture()}{marks}.tar.zst"
    listing = archive.listing(tree, mode_of)
    if not listing:
        raise HapairError(f"{spec.id}: the steps left nothing in {{tree}}", f"read the logs in {room.logs}")
    if unused := [glob for glob in spec.install.modes if not any(map(globs.matcher([glob]), listing))]:
        raise HapairError(f"{spec.id}: modes: no file matches {unused[0]}", "mend `install`")
    archive.pack(tree, file, top=spec.id, epoch=spec.epoch, mode_of=mode_of)
    return {
        "name": spec.name,
        "release": spec.release,
        "arch": plan.architecture(),
        "key": room.key,
        "about": spec.about,
        "license": spec.license,
        "homepage": spec.homepage,
        "verified": verified,
        "liblxc": liblxc,
        "source_date_epoch": spec.epoch,
        "result": file.name,
        "top": spec.id,
        "files": {file.name: {"size_bytes": file.stat().st_size, "sha256": archive.digest(file)}},
        "tree": listing,
        "inputs": _inputs(room),
        **spec.model_dump(mode="json", include=set(TOLD)),
        "libraries": _libraries(spec, system=system),
    }


def _libraries(spec: Spec, *, system: bool) -> dict[str, list[str]]:
    moved = spec.system_liblxc.libraries if spec.system_liblxc and system else ()
    bundled = [soname for soname in spec.libraries.bundled if soname not in moved]
    return {"bundled": bundled, "system": [*spec.libraries.system, *moved]}


def _inputs(room: Room) -> dict[str, Any]:
    needs = {name: _told(need) for name, need in room.needs.items()}
    inputs = room.made.inputs(room.sources, needs, room.go_deps)
    inputs["patches"] = {
        told: archive.digest(file)
        for source in room.made.spec.sources.values()
        for patch in source.patches
        for told, file in steps.patch_files(room, patch)
    }
    return inputs | {"go_modules": _go_modules(room, room.made.spec)}


def _told(need: Artifact) -> dict[str, Any]:
    name, release = need.content["name"], need.content["release"]
    told: Mapping[str, Any] = {"spec": need.name, "key": need.key, "sha256": need.sha256, "verified": need.verified}
    return {**told, "name": name, "release": release}


def _go_modules(room: Room, spec: Spec) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, source in spec.sources.items():
        if source.go_modules is None:
            continue
        file = steps.source_folder(room, name) / source.go_modules
        if not file.is_file():
            raise BadInput(f"{spec.id}: the source {name} has no {source.go_modules}", "mend `go_modules`")
        found |= gomodules.parse(file.read_text(encoding="utf-8"))
    return found
