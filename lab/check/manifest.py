"""The manifest as the checker reads it: what it needs must be there and of the right form, the rest is let be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lab.check.report import Report

MANIFEST = "manifest.json"
MAX_BYTES = 64 << 20

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Words = Annotated[tuple[str, ...], Field(strict=False)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class File(_Part):
    """A file beside the manifest."""

    size_bytes: int
    sha256: Sha256


class Source(_Part):
    """A source and what vouches for it."""

    file: str
    place: str
    sha256: Sha256
    verified: str


class GoPackage(_Part):
    """A Debian package of Go sources."""

    version: str
    sha256: Sha256


class Need(_Part):
    """Another artifact that this one was built with."""

    name: str
    release: str | None = None
    sha256: Sha256


class Inputs(_Part):
    """Everything that went in."""

    engine: int
    spec: dict[str, Any]
    sources: dict[str, Source]
    files: dict[str, Sha256] = Field(default_factory=dict)
    patches: dict[str, Sha256] = Field(default_factory=dict)
    build_deps: dict[str, str] = Field(default_factory=dict)
    go_deps: dict[str, GoPackage] = Field(default_factory=dict)
    go_modules: dict[str, str] = Field(default_factory=dict)
    needs: dict[str, Need] = Field(default_factory=dict)


class Baked(_Part):
    """An absolute path that stays in the files, and why that is harmless."""

    path: str
    reason: str


class Command(_Part):
    """A command of the tree and a text that it prints."""

    run: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    prints: str


class Checks(_Part):
    """What the spec asserts about its artifact."""

    commands: Annotated[tuple[Command, ...], Field(strict=False)] = ()
    needed: dict[str, Words] = Field(default_factory=dict)
    absent: Words = ()


class Libraries(_Part):
    """Where the libraries come from."""

    bundled: Words = ()
    system: Words = ()


class Runtime(_Part):
    """What the artifact asks of its host."""

    environment: dict[str, str] = Field(default_factory=dict)


class Manifest(_Part):
    """What an artifact says about itself. Without `top` it is a plain file (the lab's kernel), no archive."""

    name: str
    release: str | None = None
    arch: str = ""
    key: str
    result: str
    files: dict[str, File]
    inputs: Inputs
    verified: bool = True
    liblxc: str | None = None
    source_date_epoch: int | None = None
    top: str | None = None
    tree: dict[str, dict[str, Any]] = Field(default_factory=dict)
    libraries: Libraries = Libraries()
    baked: Annotated[tuple[Baked, ...], Field(strict=False)] = ()
    checks: Checks = Checks()


def read(folder: Path, report: Report) -> Manifest | None:
    """Read the manifest of an artifact's folder; what is wrong with it goes into the report."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or path.stat().st_size > MAX_BYTES:
            report.fault("manifest", MANIFEST, "is a link, or larger than any manifest")
            return None
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        report.fault("manifest", MANIFEST, f"cannot be read: {error.strerror}")
    except (ValidationError, RecursionError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else []
        for fault in faults:
            report.fault("manifest", MANIFEST, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
        if not faults:
            report.fault("manifest", MANIFEST, "is nested too deeply")
    return None
