"""Everything about a build that is known before its sources are, and the key that all of it makes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lab import proc
from lab.build import archive, manifest
from lab.build import spec as specs
from lab.build.fetch import Fetched
from lab.build.spec import Spec
from lab.errors import BadInput, HostLacks

ENGINE = 1
"""Part of every key: raise it when the engine does something else with the same spec."""
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the tools are, in the sandbox as outside of it."""
VERSION_S = 10.0
FINISHERS = ("patchelf", "strip")
"""What the engine itself works on a tree with."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The kernel's name → Debian's."""
Liblxc = Literal["own", "system"]


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Plan:
    """One buildspec and what counts besides it."""

    spec: Spec
    folder: Path
    files: Mapping[str, str]
    """File beside the spec → its SHA-256."""
    tools: Mapping[str, str]
    """Program → the first line of its version."""
    patches: Mapping[str, str] = field(default_factory=dict)
    """Patch beside the spec → its SHA-256."""
    build_deps: Mapping[str, str] = field(default_factory=dict)
    """Debian package → its version."""
    system: bool = False
    """Link against the distribution's liblxc."""

    @property
    def needs(self) -> dict[str, str]:
        """Name for {deps.NAME} → the spec that is built for it."""
        left_out = self.spec.system_liblxc.need if self.system and self.spec.system_liblxc else None
        return {name: need.spec for name, need in self.spec.needs.items() if name != left_out}

    def inputs(
        self,
        sources: Mapping[str, Fetched],
        needs: Mapping[str, Any] | None = None,
        go_deps: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return all that goes into the key, and the manifest tells."""
        described = {"about", "packages", "disk_bytes", "sources"}
        spec = self.spec.model_dump(exclude=described, exclude_defaults=True)
        for step in spec["steps"]:
            for shown in ("limit_s", "expect_objects", "estimate_s", "reads"):
                step.pop(shown, None)
        inputs = {
            "engine": ENGINE,
            "spec": {**spec, "unpack": {name: _unpacked(source) for name, source in self.spec.sources.items()}},
            "files": dict(self.files),
            "tools": dict(self.tools),
            "sources": {name: asdict(source) for name, source in sources.items()},
        }
        more = {"patches": self.patches, "build_deps": self.build_deps, "needs": needs, "go_deps": go_deps}
        inputs |= {name: dict(value) for name, value in more.items() if value}
        return inputs | ({"liblxc": "system"} if self.system else {})

    def key(
        self,
        sources: Mapping[str, Fetched],
        needs: Mapping[str, str] | None = None,
        go_deps: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the content key: the same inputs always have the same key.

        Args:
            sources: what they were fetched as.
            needs: name → the key of the artifact that is needed.
            go_deps: package → its digest.
        """
        inputs = self.inputs(sources, needs, go_deps)
        inputs["sources"] = {name: source.sha256 for name, source in sources.items()}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]

    def warmth(self) -> str:
        """Return the key of the compiler caches: every input but those that a developer changes."""
        inputs = self.inputs({})
        for name in ("sources", "patches", "files"):
            inputs.pop(name, None)
        inputs["spec"].pop("unpack")
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]

    def target(self, key: str, *, verified: bool) -> Path:
        """Return where the artifact stands or will stand."""
        return manifest.place(self.spec.id, key, verified=verified, system=self.system)


def _unpacked(source: specs.Source) -> dict[str, Any]:
    told = source.model_dump(include={"member", "strip", "exclude"})
    return told | source.model_dump(include={"patches", "go_modules"}, exclude_defaults=True)


def plan(name: str, *, liblxc: Liblxc = "own") -> Plan:
    """Read a spec and everything beside it that counts; raises as `closure` does."""
    spec, path = specs.load(name)
    return _complete(spec, path, liblxc, _versions(_build_deps(spec, liblxc)))


def closure(name: str, *, liblxc: Liblxc = "own") -> dict[str, Plan]:
    """Return the plans of a spec and of all that it needs, those that are needed first.

    Raises:
        BadInput: a spec, or a file that it names, is not there or not valid, or specs need each other in a circle.
        HostLacks: a tool or a package is not installed.
    """
    found: dict[str, tuple[Spec, Path]] = {}
    _visit(name, liblxc, (), found)
    if liblxc == "system" and not any(spec.system_liblxc for spec, _ in found.values()):
        raise BadInput(f"{name} does not link against liblxc", "leave --liblxc out")
    versions = _versions({package for spec, _ in found.values() for package in _build_deps(spec, liblxc)})
    return {one: _complete(spec, path, liblxc, versions) for one, (spec, path) in found.items()}


def _visit(name: str, liblxc: Liblxc, above: tuple[str, ...], found: dict[str, tuple[Spec, Path]]) -> None:
    if name in above:
        circle = " → ".join([*above[above.index(name) :], name])
        raise BadInput(f"buildspecs need each other: {circle}", "take one of these needs out")
    if name in found:
        return
    spec, path = specs.load(name)
    if spec.result is not None and above:
        raise BadInput(f"{above[-1]} needs {name}, which makes a single file and no tree", "take that need out")
    left_out = spec.system_liblxc.need if liblxc == "system" and spec.system_liblxc else None
    for alias, need in spec.needs.items():
        if alias != left_out:
            _visit(need.spec, liblxc, (*above, name), found)
    found[name] = spec, path


def _build_deps(spec: Spec, liblxc: Liblxc) -> tuple[str, ...]:
    extra = spec.system_liblxc.build_deps if spec.system_liblxc and liblxc == "system" else ()
    return (*spec.build_deps, *extra)


def _complete(spec: Spec, path: Path, liblxc: Liblxc, versions: Mapping[str, str]) -> Plan:
    missing = [file for file in spec.files if not (path.parent / file).is_file()]
    if missing:
        raise BadInput(f"{path}: files: {missing[0]} is not beside it", "write that file, or take it off the list")
    wanted = _build_deps(spec, liblxc)
    if absent := [package for package in wanted if package not in versions]:
        raise HostLacks(
            f"building {spec.id} needs Debian's {', '.join(absent)}", f"as root: apt-get install {' '.join(absent)}"
        )
    tools = {tool: _version(tool, spec) for tool in spec.tools}
    if spec.result is None:
        tools |= {tool: _version(tool, spec) for tool in FINISHERS} | {"zstandard": archive.ZSTD}
    return Plan(
        spec,
        path.parent,
        files={file: archive.digest(path.parent / file) for file in spec.files},
        tools=tools,
        patches=_patches(spec, path),
        build_deps={package: versions[package] for package in wanted},
        system=liblxc == "system" and spec.system_liblxc is not None,
    )


def _patches(spec: Spec, path: Path) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name, source in spec.sources.items():
        for patch in source.patches:
            if patch.file is None:
                continue
            file = path.parent / patch.file
            if not file.is_file():
                raise BadInput(f"{path}: sources.{name}.patches: {patch.file} is not beside it", "write that file")
            digests[patch.file] = archive.digest(file)
            if digests[patch.file] != patch.sha256:
                raise BadInput(
                    f"{path}: {patch.file}: its sha256 is {digests[patch.file]}, must be {patch.sha256}",
                    "mend the one that is wrong",
                )
    return digests


def _version(tool: str, spec: Spec) -> str:
    found = shutil.which(tool, path=PATH)
    if found is None:
        packages = " ".join(spec.packages or spec.build_deps or (tool,))
        raise HostLacks(f"{tool} is not installed, and building {spec.id} needs it", f"apt-get install {packages}")
    done = proc.run([found, "--version"], limit_s=VERSION_S, env={"PATH": PATH}, check=False)
    if done.code != 0:
        raise BadInput(f"{spec.id}: tools: {tool} --version fails", "name its package in build_deps instead")
    return done.text.partition("\n")[0]


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those Debian packages that are installed."""
    wanted = sorted(set(packages))
    if not wanted:
        return {}
    query = shutil.which("dpkg-query", path=PATH)
    if query is None:
        raise HostLacks("this machine has no dpkg to ask for the versions of packages", "build on Debian or Ubuntu")
    shown = "${db:Status-Status} ${Package} ${Version}\\n"
    # It fails when one name is unknown to it, and still prints the others.
    done = proc.run([query, "-W", "-f", shown, *wanted], limit_s=VERSION_S, check=False)
    lines = [line.split() for line in done.text.splitlines()]
    return {words[1]: words[2] for words in lines if len(words) == 3 and words[0] == "installed"}


def jobs() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))
