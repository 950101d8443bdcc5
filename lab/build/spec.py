"""Buildspecs: what to build, from which sources, in which steps. Strict: an unknown key names its file and line.

One YAML file in buildspecs/ for each name and release. What every field means stands at the models below; a complete
example is tests/unit/build/hello-1.0.yaml. In `env`, `steps` and `install.substitute` the engine fills in:

    {src}      the sources; with several of them, {src}/NAME is that of NAME
    {files}    copies of `files`
    {work}     an empty folder for out-of-tree builds
    {stage}    what `make install DESTDIR={stage}` writes to
    {prefix}   what `--prefix` is given; it may differ from build to build, and must not end up in the result
    {tree}     {stage}{prefix}: what becomes the artifact
    {deps.X}   the unpacked artifact of the need X: its include, lib, lib/pkgconfig
    {go_deps}  the root that `go_deps` are extracted to
    {cache}    a folder that survives, for compiler caches (ccache, GOCACHE)
    {jobs} {release} {epoch} {multiarch}
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lab import paths
from lab.errors import BadInput
from lab.yamlio import load_model

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
Release = Annotated[str, StringConstraints(pattern=r"^[0-9][0-9A-Za-z.+~]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Sha512 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{128}$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]
Mode = Annotated[str, StringConstraints(pattern=r"^[0-7]{4}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+/\S+$")]
PLACEHOLDERS = frozenset(
    ("src", "files", "work", "stage", "prefix", "tree", "go_deps", "cache", "jobs", "release", "epoch", "multiarch")
)
DEPS = "deps."
NO_SPECS = frozenset({"defaults", "abi"})
"""Files in the folder that hold something else: default releases, and the policy of the artifacts' checks."""
EPOCH_S = 1577836800
"""2020-01-01: the time of every file in an artifact (SOURCE_DATE_EPOCH), unless the spec names another."""


def _inside(text: str) -> str:
    """Refuse a path that is absolute or climbs out of the folder it is relative to."""
    if Path(text).is_absolute() or ".." in Path(text).parts or not text or "\0" in text:
        raise ValueError(f"{text!r} must be a relative path without '..'")
    return text


def fields(text: str) -> set[str]:
    """Return the names of the placeholders in a text.

    Raises:
        ValueError: a brace is left open.
    """
    parts = [(field, spec, how) for _, field, spec, how in string.Formatter().parse(text) if field is not None]
    if any(spec or how for _, spec, how in parts):
        raise ValueError("a placeholder is a name in braces, nothing else; a brace itself is doubled")
    return {field for field, _, _ in parts}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its placeholders filled in; a doubled brace becomes one."""
    parts = string.Formatter().parse(text)
    return "".join(literal + (values[field] if field is not None else "") for literal, field, _, _ in parts)


def _template(text: str) -> str:
    """Refuse a placeholder that the engine does not fill in."""
    try:
        unknown = {name for name in fields(text) if name not in PLACEHOLDERS and not name.startswith(DEPS)}
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in [*sorted(PLACEHOLDERS), "deps.NAME"])
        raise ValueError(f"{text!r}: unknown placeholder {{{min(unknown)}}}; known are {known}")
    return text


Inside = Annotated[str, AfterValidator(_inside)]
Template = Annotated[str, AfterValidator(_template)]
Globs = Annotated[tuple[Inside, ...], Field(strict=False)]
"""Patterns of paths in the tree: `*` and `?` stay within one name, `**` spans folders, `lib/**` is all below lib."""
Names = Annotated[tuple[Name, ...], Field(strict=False)]
Words = Annotated[tuple[str, ...], Field(strict=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AptPackage(_Strict):
    """A binary package of a suite, whether or not the machine's own apt set-up knows that suite."""

    suite: Name
    package: Name
    version: str | None = None

    def __str__(self) -> str:
        return f"apt package {self.package}{f'={self.version}' if self.version else ''} of {self.suite}"


class DebSource(_Strict):
    """One file of a source package (`apt-get source`), whether or not the machine has `deb-src` lines."""

    suite: Name
    package: Name
    version: str | None = None
    """The Debian version; None: the newest of that suite."""
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+~-]*$")] | None = None
    """The file's name as the archive spells it; None: the one whose name ends in `.orig.tar.*`."""

    def __str__(self) -> str:
        wanted = f"{self.package}{f'={self.version}' if self.version else ''}"
        return f"{self.file or 'orig.tar'} of Debian's source {wanted} in {self.suite}"


class Place(_Strict):
    """One place that may have a source: exactly one of the four."""

    apt: AptPackage | None = None
    deb_src: DebSource | None = None
    url: Url | None = None
    file: str | None = None
    """A local file, relative to the spec's folder."""

    @model_validator(mode="after")
    def _one(self) -> Place:
        if sum(place is not None for place in (self.apt, self.deb_src, self.url, self.file)) != 1:
            raise ValueError("a place is exactly one of 'apt', 'deb_src', 'url' and 'file'")
        return self

    def __str__(self) -> str:
        return self.url or (f"file {self.file}" if self.file is not None else str(self.apt or self.deb_src))


class Signature(_Strict):
    """A detached signature of the source file, checked with gpgv."""

    places: Annotated[tuple[Place, ...], Field(min_length=1, strict=False)]
    keyring: Inside
    """The public keys, a file beside the spec (binary or armoured)."""
    fingerprint: Fingerprint
    """The primary key that must have signed."""


class Series(_Strict):
    """The patches that a quilt series in another source of this spec lists, in its order."""

    source: Name
    path: Inside = "debian/patches/series"
    skip: Words = ()


class Patch(_Strict):
    """A patch beside the spec with its checksum, or a whole series; in the order given, after unpacking."""

    file: Inside | None = None
    sha256: Sha256 | None = None
    series: Series | None = None
    strip: int = 1

    @model_validator(mode="after")
    def _one(self) -> Patch:
        if (self.file is None) == (self.series is None):
            raise ValueError("a patch is exactly one of 'file' and 'series'")
        if (self.file is None) != (self.sha256 is None):
            raise ValueError("a patch file needs its 'sha256', a series has none")
        return self


class Source(_Strict):
    """A source archive: where it may be found, in order, what it must be, and which part of it is unpacked."""

    places: Annotated[tuple[Place, ...], Field(min_length=1, strict=False)]
    sha256: Sha256 | None = None
    sha512: Sha512 | None = None
    size_bytes: int | None = None
    signature: Signature | None = None
    member: Inside | None = None
    """The tar archive inside a .deb, as a glob; without it the .deb's own content is the source."""
    strip: int = 0
    """Leading folders to drop from each path."""
    exclude: Words = ()
    """What need not be unpacked: patterns of GNU tar, anchored at the archive's top."""
    patches: Annotated[tuple[Patch, ...], Field(strict=False)] = ()
    go_modules: Inside | None = None
    """A `vendor/modules.txt` in the unpacked source: its modules go into manifest and SBOM."""

    @property
    def pinned(self) -> bool:
        """True when a checksum in the spec says which file it must be."""
        return self.sha256 is not None or self.sha512 is not None


class Lines(_Strict):
    """A check: every line of one file (but comments and empty ones) must stand in another."""

    of: Template
    inside: Template


class Step(_Strict):
    """One command, run without a shell in the sandbox, or one check."""

    name: Name
    run: Annotated[tuple[Template, ...], Field(min_length=1, strict=False)] | None = None
    lines: Lines | None = None
    cwd: Template = "{src}"
    env: dict[str, Template] = Field(default_factory=dict)
    """Over the spec's own `env`, for this step alone."""
    reads: Globs = ()
    """All that it reads of {src}: as long as that, and everything but the sources, is the same, the step is not run
    again for changed sources, and what it wrote is put back. For autoreconf and configure."""
    limit_s: float = 600
    expect_objects: int | None = None
    """How many objects the compiler announces ("  CC", "  AS" lines), for showing what remains."""
    estimate_s: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if (self.run is None) == (self.lines is None):
            raise ValueError("a step is exactly one of 'run' and 'lines'")
        return self


class GoDeps(_Strict):
    """Packages of a suite with all that they depend on, extracted into the build and never installed."""

    suite: Name
    packages: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)]
    only: str = "golang-*"
    """Which of the packages that they depend on are taken along (a glob of names; "" for none)."""


class Need(_Strict):
    """Another spec's artifact, unpacked at {deps.X}."""

    spec: Name
    """The other spec: its file without `.yaml`."""
    merge: Globs = ()
    """What of its tree becomes part of this artifact's."""


class SystemLiblxc(_Strict):
    """What `--liblxc=system` means: {deps.NEED} is /usr, the need is not built, and these packages must be there."""

    need: Name
    build_deps: Names = ("liblxc-dev",)
    libraries: Words = ("liblxc.so.1",)
    """Sonames that the host then brings, instead of the tree."""


class Substitution(_Strict):
    """A text that stands for another in some files; every file that matches must hold it."""

    files: Globs
    old: Template
    new: Template


class Install(_Strict):
    """From {tree} to the artifact's tree: which files, and how they are changed, in the order of these fields."""

    include: Globs = ("**",)
    exclude: Globs = ()
    symlinks: dict[Inside, str] = Field(default_factory=dict)
    """Path in the tree → target, which must be relative and lead to something in the tree."""
    substitute: Annotated[tuple[Substitution, ...], Field(strict=False)] = ()
    modes: dict[Inside, Mode] = Field(default_factory=dict)
    """Glob → mode, where it is not the usual one (0755 for folders and what is executable, else 0644)."""
    strip: Globs = ()
    """ELF files that lose their debug information and local symbols; what matches and is no ELF file is left alone."""


class Libraries(_Strict):
    """Where the libraries that ELF files need come from."""

    bundled: Words = ()
    """Sonames that are in the tree."""
    system: Words = ()
    """Sonames that the host brings."""


class Baked(_Strict):
    """An absolute path that stays in the artifact's files."""

    path: str
    reason: str
    """Why it does no harm wherever the artifact is unpacked."""


class Runtime(_Strict):
    """What the artifact asks of the host that runs it; for the reader, and for the lab's units."""

    environment: dict[str, str] = Field(default_factory=dict)
    folders: Words = ()
    """Folders to create when the service starts."""
    tools: Words = ()


class Command(_Strict):
    """A command of the tree, run from wherever it was unpacked."""

    run: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """The first word is a path in the tree."""
    prints: str
    """Text that must stand in what it prints."""


class Checks(_Strict):
    """What `build.check` asserts beyond its policy."""

    commands: Annotated[tuple[Command, ...], Field(strict=False)] = ()
    needed: dict[Inside, Words] = Field(default_factory=dict)
    """Glob → every soname that these files must need."""
    absent: Words = ()
    """Texts that must not stand in any file."""


class Spec(_Strict):
    """One thing to build."""

    name: Name
    release: Release | None = None
    about: str
    license: str = ""
    """An SPDX expression."""
    homepage: str = ""
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    files: Globs = ()
    """Files beside the spec that the steps read; each is an input of the key."""
    tools: Words = ()
    """Programs whose version is an input of the key."""
    packages: Names = ()
    """Debian packages to install when a tool is missing."""
    build_deps: Names = ()
    """Debian packages that must be installed; their versions are inputs of the key."""
    go_deps: GoDeps | None = None
    needs: dict[Name, Need] = Field(default_factory=dict)
    """Name for {deps.NAME} → what it is."""
    system_liblxc: SystemLiblxc | None = None
    disk_bytes: int = 0
    """Room that the build needs while it runs."""
    epoch: int = EPOCH_S
    """SOURCE_DATE_EPOCH, and the time of every file in the archive."""
    env: dict[str, Template] = Field(default_factory=dict)
    steps: Annotated[tuple[Step, ...], Field(min_length=1, strict=False)]
    result: Inside | None = None
    """The file in {stage} that callers want; without it the result is the archive of the tree."""
    install: Install = Install()
    rpath: dict[Inside, str] = Field(default_factory=dict)
    """Glob → RUNPATH of the ELF files there, as "$ORIGIN/../lib"; those that no glob names get none."""
    libraries: Libraries = Libraries()
    baked: Annotated[tuple[Baked, ...], Field(strict=False)] = ()
    runtime: Runtime = Runtime()
    checks: Checks = Checks()

    @property
    def id(self) -> str:
        """The name of its file: NAME-RELEASE, or NAME where there is no release."""
        return f"{self.name}-{self.release}" if self.release else self.name

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, data: Any) -> Any:  # noqa: ANN401 - what a YAML file holds before it is checked
        if not isinstance(data, dict):
            raise ValueError("a buildspec is a mapping")
        return data

    @model_validator(mode="after")
    def _whole(self) -> Spec:
        for name, source in self.sources.items():
            series = [patch.series for patch in source.patches if patch.series]
            if lost := [one.source for one in series if one.source not in self.sources or one.source == name]:
                raise ValueError(f"sources.{name}: there is no other source {lost[0]!r} to take a series from")
        named = {field for text in self._templates() for field in fields(text) if field.startswith(DEPS)}
        if lost := sorted(named - {DEPS + name for name in self.needs}):
            raise ValueError(f"{{{lost[0]}}} stands for no need; they are: {', '.join(self.needs) or 'none'}")
        if self.system_liblxc and self.system_liblxc.need not in self.needs:
            raise ValueError(f"system_liblxc: there is no need {self.system_liblxc.need!r}")
        if bad := [
            value for value in self.rpath.values() if not all(p.startswith("$ORIGIN") for p in value.split(":"))
        ]:
            raise ValueError(f"rpath: {bad[0]!r} does not begin with $ORIGIN")
        return self

    def _templates(self) -> list[str]:
        steps = [text for step in self.steps for text in (*(step.run or ()), step.cwd, *step.env.values())]
        return [*steps, *self.env.values(), *(t for one in self.install.substitute for t in (one.old, one.new))]


def folder() -> Path:
    """Return the folder that holds the buildspecs."""
    return paths.PROJECT / "buildspecs"


def names() -> list[str]:
    """Return the names of all buildspecs (their files without `.yaml`), sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml") if path.stem not in NO_SPECS)


def load(name: str) -> tuple[Spec, Path]:
    """Read the buildspec called `name`; return it and its file.

    Raises:
        BadInput: there is none of that name, or it is not valid (each fault with file and line).
    """
    path = folder() / f"{name}.yaml"
    if name not in names():
        raise BadInput(f"there is no buildspec {name!r}", f"known are: {', '.join(names())}")
    spec = load_model(path, Spec)
    if spec.id != name:
        raise BadInput(f"{path}: its name is {spec.id!r}", f"name it {name!r}, or rename the file")
    return spec, path


class Defaults(_Strict):
    """What the commands build when nothing else is asked for (buildspecs/defaults.yaml)."""

    releases: dict[Name, Release]
    """Name → the release that `build.NAME` builds."""
    recipe: dict[Name, Release]
    """The pair that `build.recipe` builds."""


def defaults() -> Defaults:
    """Read the default releases.

    Raises:
        BadInput: the file is missing or not valid.
    """
    return load_model(folder() / "defaults.yaml", Defaults)
