"""Buildspecs: what to build, from which sources, in which steps. Strict: an unknown key names its file and line."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from lab import paths
from lab.errors import BadInput
from lab.yamlio import load_model

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
PLACEHOLDERS = frozenset({"src", "files", "stage", "jobs"})


def _inside(text: str) -> str:
    """Refuse a path that is absolute or climbs out of the folder it is relative to."""
    if Path(text).is_absolute() or ".." in Path(text).parts or not text:
        raise ValueError(f"{text!r} must be a relative path without '..'")
    return text


def _template(text: str) -> str:
    """Refuse a placeholder that the engine does not fill in."""
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if unknown := fields - PLACEHOLDERS:
        known = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
        raise ValueError(f"{text!r}: unknown placeholder {{{min(unknown)}}}; known are {known}")
    return text


Inside = Annotated[str, AfterValidator(_inside)]
Template = Annotated[str, AfterValidator(_template)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AptPackage(_Strict):
    """A binary package of a suite, whether or not the machine's own apt set-up knows that suite."""

    suite: Name
    package: Name


class Place(_Strict):
    """One place that may have a source: an apt package, or a local file (relative to the spec's folder)."""

    apt: AptPackage | None = None
    file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Place:
        if (self.apt is None) == (self.file is None):
            raise ValueError("a place is exactly one of 'apt' and 'file'")
        return self

    def __str__(self) -> str:
        return f"apt package {self.apt.package} of {self.apt.suite}" if self.apt else f"file {self.file}"


class Source(_Strict):
    """A source archive: where it may be found, in order, what it must be, and which part of it is unpacked."""

    places: Annotated[tuple[Place, ...], Field(min_length=1, strict=False)]
    sha256: Sha256 | None = None
    size_bytes: int | None = None
    member: Inside | None = None
    """The tar archive inside a .deb, as a glob; without it the .deb's own content is the source."""
    strip: int = 0
    """Leading folders to drop from each path."""
    exclude: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What need not be unpacked: patterns of GNU tar, anchored at the archive's top."""


class Lines(_Strict):
    """A check: every line of one file (but comments and empty ones) must stand in another."""

    of: Template
    inside: Template


class Step(_Strict):
    """One command, run without a shell in the source folder, or one check."""

    name: Name
    run: Annotated[tuple[Template, ...], Field(min_length=1, strict=False)] | None = None
    lines: Lines | None = None
    limit_s: float = 600
    expect_objects: int | None = None
    """How many objects the compiler announces ("  CC", "  AS" lines), for showing what remains."""
    estimate_s: float | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if (self.run is None) == (self.lines is None):
            raise ValueError("a step is exactly one of 'run' and 'lines'")
        return self


class Spec(_Strict):
    """One thing to build."""

    name: Name
    about: str
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    files: Annotated[tuple[Inside, ...], Field(strict=False)] = ()
    """Files beside the spec that the steps read; each is an input of the key."""
    tools: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Programs whose version is an input of the key."""
    packages: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Debian packages that the build needs."""
    disk_bytes: int = 0
    """Room that the build needs while it runs."""
    env: dict[str, Template] = Field(default_factory=dict)
    steps: Annotated[tuple[Step, ...], Field(min_length=1, strict=False)]
    result: Inside
    """The file in {stage} that callers want."""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, data: Any) -> Any:  # noqa: ANN401 - what a YAML file holds before it is checked
        if not isinstance(data, dict):
            raise ValueError("a buildspec is a mapping")
        return data


def folder() -> Path:
    """Return the folder that holds the buildspecs."""
    return paths.PROJECT / "buildspecs"


def names() -> list[str]:
    """Return the names of all buildspecs, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def load(name: str) -> tuple[Spec, Path]:
    """Read the buildspec called `name`; return it and its file.

    Raises:
        BadInput: there is none of that name, or it is not valid (each fault with file and line).
    """
    path = folder() / f"{name}.yaml"
    if name not in names():
        raise BadInput(f"there is no buildspec {name!r}", f"known are: {', '.join(names())}")
    spec = load_model(path, Spec)
    if spec.name != name:
        raise BadInput(f"{path}: its name is {spec.name!r}", f"name it {name!r}, or rename the file")
    return spec, path
