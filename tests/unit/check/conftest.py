"""A small real artifact, compiled and packed here with all of its papers; and ways to spoil it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zstandard

from lab import proc
from lab.build import provenance, sbom
from lab.check import Report, check
from lab.check.policy import Policy, Target, load

EPOCH = 1_577_836_800
TOP = "toy-1.0"
RESULT = f"{TOP}-amd64.tar.zst"
LIBRARY = """
#include <stdio.h>
#include <string.h>
int greet(const char *who) { char text[64]; strcpy(text, "hello, "); strcat(text, who); return printf("%s\\n", text); }
"""
PROGRAM = """
int greet(const char *who);
int main(int argc, char **argv) { return greet(argc > 1 ? argv[1] : "you") < 0; }
"""
COMMON: tuple[str, ...] = (
    "-O2",
    "-fPIC",
    "-fstack-protector-strong",
    "-D_FORTIFY_SOURCE=2",
    "-Wl,-z,relro",
    "-Wl,-z,now",
)
COMMON += ("-Wl,--build-id=sha1", "-Wl,-z,noexecstack", "-w")
Change = Callable[[tarfile.TarInfo], tarfile.TarInfo | None]


@dataclass
class Silent:
    """Progress that nobody watches."""

    titles: list[str] = field(default_factory=list)

    @contextmanager
    def step(self, title: str, *, estimate_s: float | None = None) -> Iterator[None]:  # noqa: ARG002 - the protocol's
        self.titles.append(title)
        yield


def build(
    folder: Path, *, program: Sequence[str] = (), library: Sequence[str] = (), source: str = LIBRARY, strip: str = "-s"
) -> Path:
    """Compile the tree into `folder`: bin/toy, which finds lib/libgreet.so.1 by its RUNPATH."""
    for part in ("bin", "lib", "share"):
        (folder / part).mkdir(parents=True)
    (folder.parent / "greet.c").write_text(source)
    (folder.parent / "toy.c").write_text(PROGRAM)
    made = folder / "lib" / "libgreet.so.1"
    soname = ("-shared", "-Wl,-soname,libgreet.so.1")
    proc.run(["cc", *COMMON, strip, *soname, "-o", made, folder.parent / "greet.c", *library], limit_s=30)
    path = ("-pie", "-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/../lib")
    proc.run(
        ["cc", *COMMON, strip, *path, "-o", folder / "bin" / "toy", folder.parent / "toy.c", made, *program], limit_s=30
    )
    (folder / "share" / "notes").write_text("made for tests\n")
    (folder / "lib" / "libgreet.so").symlink_to("libgreet.so.1")
    return folder


@dataclass
class Artifact:
    """An artifact to be spoilt: its tree, its manifest, and what is done to the archive while packing."""

    tree: Path
    folder: Path
    content: dict[str, Any]
    order: Callable[[list[str]], list[str]] = sorted
    change: Change = lambda entry: entry
    extra: list[tarfile.TarInfo] = field(default_factory=list)
    baked: bytes = b""

    @property
    def archive(self) -> Path:
        return self.folder / RESULT

    def leaves(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(self.tree.rglob("*")):
            name = str(path.relative_to(self.tree))
            if path.is_symlink():
                found[name] = {"link": str(path.readlink())}
            elif path.is_file():
                data = path.read_bytes()
                mode = "0755" if path.stat().st_mode & 0o100 else "0644"
                found[name] = {"mode": mode, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        return found

    def pack(self) -> Artifact:
        """Write archive, papers and manifest."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            names = [".", *(str(path.relative_to(self.tree)) for path in self.tree.rglob("*"))]
            for name in self.order(names):
                entry = tar.gettarinfo(str(self.tree / name), arcname=f"{TOP}/{name}".removesuffix("/."))
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                entry.mtime = EPOCH
                executable = entry.isdir() or entry.mode & 0o100
                entry.mode = 0o777 if entry.issym() else 0o755 if executable else 0o644
                changed = self.change(entry)
                if changed is None:
                    continue
                if changed.isreg():
                    tar.addfile(changed, io.BytesIO((self.tree / name).read_bytes()))
                else:
                    tar.addfile(changed)
            for entry in self.extra:
                tar.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.isreg() else None)
        self.archive.write_bytes(zstandard.ZstdCompressor(level=3).compress(raw.getvalue()))
        self.content["tree"] = self.leaves()
        return self.paper()

    def paper(self) -> Artifact:
        """Write papers and manifest for the archive that is there."""
        self.content["files"] = {RESULT: _described(self.archive)}
        papers = {"sbom.cdx.json": sbom.document, "provenance.intoto.json": provenance.statement}
        texts = {name: write(self.content, {}) for name, write in papers.items()}
        for name, text in texts.items():
            (self.folder / name).write_text(text)
        return self.seal()

    def seal(self) -> Artifact:
        """Write the manifest for the files that are there."""
        files = {path.name: _described(path) for path in sorted(self.folder.iterdir()) if path.name != "manifest.json"}
        self.content["files"] = files
        (self.folder / "manifest.json").write_text(json.dumps(self.content))
        return self

    def check(self, rules: Policy | None = None, *, run: bool = False) -> Report:
        return check(self.folder, Silent(), rules=rules or lenient(), seed=7, run=run)


def _described(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@functools.cache
def lenient() -> Policy:
    """Return the project's policy for a machine with any glibc: what compiles here need not run on the targets."""
    return load().model_copy(update={"targets": {"any": Target(symbols={"GLIBC": "9.0"})}, "protected_from": 1})


def content() -> dict[str, Any]:
    source = {"file": "toy.tar", "place": "file toy.tar", "sha256": "1" * 64, "verified": "sha256"}
    return {
        "name": "toy",
        "release": "1.0",
        "arch": "amd64",
        "key": "0123456789abcdef0123",
        "about": "a toy",
        "license": "MIT",
        "verified": True,
        "liblxc": None,
        "source_date_epoch": EPOCH,
        "result": RESULT,
        "top": TOP,
        "inputs": {
            "engine": 2,
            "spec": {"name": "toy"},
            "files": {"toy.config": "2" * 64},
            "patches": {"patches/toy.patch": "3" * 64},
            "tools": {"cc": "cc 12"},
            "build_deps": {"gcc": "4:12.2.0-3"},
            "go_deps": {
                "golang-toy-dev": {"version": "1.0-1", "sha256": "4" * 64, "size_bytes": 1, "paths": ["a.b/c"]}
            },
            "go_modules": {"example.invalid/mod": "v1.2.3"},
            "sources": {"toy": {"name": "toy", "version": "", "size_bytes": 10, **source}},
            "needs": {},
        },
        "libraries": {"bundled": ["libgreet.so.1"], "system": ["libc.so.6"]},
        "baked": [],
        "checks": {
            "commands": [{"run": ["bin/toy", "there"], "prints": "hello, there"}],
            "needed": {"bin/*": ["libgreet.so.1"]},
            "absent": [],
        },
    }


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("compiled") / "tree")


@pytest.fixture
def artifact(compiled: Path, tmp_path: Path) -> Artifact:
    """Return a sound artifact, not yet packed; the test may spoil its tree, which is its own."""
    tree = tmp_path / "tree"
    proc.run(["cp", "-a", compiled, tree], limit_s=10)
    folder = tmp_path / "toy-1.0-0123456789abcdef0123"
    folder.mkdir()
    return Artifact(tree, folder, content())


@pytest.fixture
def packed(artifact: Artifact) -> Artifact:
    """Return a sound artifact, packed."""
    return artifact.pack()
