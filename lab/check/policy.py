"""The ELF policy (buildspecs/abi.yaml) and its judgement over the facts of all files of a tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from lab import paths
from lab.check.elf import Facts
from lab.check.hygiene import Tree, matches, normal
from lab.check.report import Report
from lab.yamlio import load_model

Names = Annotated[tuple[str, ...], Field(strict=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Target(_Strict):
    """A distribution: the newest symbol versions that its own libraries have, by prefix (GLIBC, GCC)."""

    symbols: dict[str, str]
    required: bool = True
    """Whether every artifact must run there; otherwise the report only says whether it does."""


class Except(_Strict):
    """Files that need not obey some rules, with the reason."""

    files: Names
    rules: Names
    reason: str


class Policy(_Strict):
    """What an ELF file of an artifact may be like."""

    machine: str
    interpreter: str
    targets: dict[str, Target]
    system: dict[str, str]
    """Libraries that may come from the system, each with the reason."""
    guarded: Names
    """Functions of libc with a checked twin: a C object that calls many of them and no twin was built without it."""
    protected_from: int
    """A C object that takes this many functions from others is too large to have no array on its stack."""
    exceptions: Annotated[tuple[Except, ...], Field(strict=False)] = ()

    def excused(self, file: str, rule: str) -> bool:
        """Tell whether a file need not obey a rule."""
        return any(
            rule in item.rules and any(matches(file, pattern) for pattern in item.files) for item in self.exceptions
        )


def load(path: Path = paths.PROJECT / "buildspecs" / "abi.yaml") -> Policy:
    """Read the policy.

    Raises:
        BadInput: it is not there or not valid; each fault with file and line.
    """
    return load_model(path, Policy)


def judge(
    tree: Tree, elves: Mapping[str, Facts], policy: Policy, report: Report, *, also_system: Sequence[str] = ()
) -> None:
    """Judge every ELF file of a tree.

    Args:
        also_system: libraries that this artifact may take from the system beyond the policy's (`--liblxc=system`).
    """
    system = {*policy.system, *also_system}
    for path, facts in sorted(elves.items()):
        faults = [*_hardening(facts, policy), *_origin(path, facts), *_needed(path, facts, tree, elves, system)]
        for rule, what in faults:
            if not policy.excused(path, rule):
                report.fault(rule, path, what)
    _build_ids(tree, elves, policy, report)
    _targets(elves, policy, report, system)


def _hardening(facts: Facts, policy: Policy) -> Iterable[tuple[str, str]]:
    if facts.machine != policy.machine:
        yield "machine", f"is for {facts.machine}, not {policy.machine}"
    if facts.kind not in ("program", "library"):
        yield "kind", f"is neither program nor library but {facts.kind}"
    if facts.kind == "program" and not facts.pie:
        yield "pie", "is a program that is not position-independent"
    if facts.interpreter not in ("", policy.interpreter):
        yield "interpreter", f"is started by {facts.interpreter}, not {policy.interpreter}"
    if facts.textrel:
        yield "textrel", "has text relocations"
    if not facts.relro:
        yield "relro", "has no RELRO segment"
    if facts.dynamic and not facts.bind_now:
        yield "relro", "is not bound at start (BIND_NOW), so RELRO is only partial"
    if facts.stack != "ok":
        yield "stack", f"its stack is {'executable' if facts.stack == 'executable' else 'executable by default'}"
    if facts.writable_code:
        yield "stack", "has a segment that is writable and executable"
    if facts.symbols or facts.debug:
        yield "strip", f"is not stripped: it has {'debug sections' if facts.debug else 'a symbol table'}"
    if not facts.build_id:
        yield "build-id", "has no build-id"
    if facts.dynamic and (not facts.go or facts.cgo):
        yield from _compiler_guards(facts, policy)


def _compiler_guards(facts: Facts, policy: Policy) -> Iterable[tuple[str, str]]:
    plain = sorted(facts.imports & set(policy.guarded))
    checked = facts.imports & {f"__{name}_chk" for name in policy.guarded}
    if len(facts.imports) >= policy.protected_from and (plain or checked) and "__stack_chk_fail" not in facts.imports:
        yield "protector", "was built without -fstack-protector-strong"
    if plain and not checked:
        yield "fortify", f"was built without -D_FORTIFY_SOURCE: it calls {', '.join(plain[:3])} and nothing checked"


def _origin(path: str, facts: Facts) -> Iterable[tuple[str, str]]:
    if facts.rpath:
        yield "rpath", f"has RPATH {facts.rpath}; only RUNPATH may be there"
    for part in facts.runpath.split(":") if facts.runpath else ():
        if part != "$ORIGIN" and not part.startswith("$ORIGIN/"):
            yield "runpath", f"its RUNPATH holds {part or 'an empty part'}, which does not begin at $ORIGIN"
        elif _from_origin(path, part) is None:
            yield "runpath", f"its RUNPATH {part} leaves the tree"


def _from_origin(path: str, part: str) -> str | None:
    return normal(str(PurePosixPath(path).parent / part.replace("$ORIGIN", ".", 1)))


def _needed(
    path: str, facts: Facts, tree: Tree, elves: Mapping[str, Facts], system: set[str]
) -> Iterable[tuple[str, str]]:
    bundled = {PurePosixPath(leaf).name for leaf in tree.leaves}
    for name in facts.needed:
        found = _found(path, facts, name, tree)
        if found is not None and found not in elves:
            yield "needed", f"needs {name}, which its RUNPATH finds as {found}, no ELF file"
        elif found is not None:
            if elves[found].soname != name:
                yield "needed", f"needs {name}, but {found} calls itself {elves[found].soname or 'nothing'}"
        elif "/" in name:
            yield "needed", f"needs {name}, a path"
        elif name in bundled:
            yield "needed", f"needs {name}, which is in the tree, but its RUNPATH ({facts.runpath or 'none'}) misses it"
        elif name not in system:
            yield "needed", f"needs {name}, which is neither in the tree nor a system library that the policy allows"


def _found(path: str, facts: Facts, name: str, tree: Tree) -> str | None:
    for part in facts.runpath.split(":") if facts.runpath else ():
        folder = _from_origin(path, part)
        if folder is not None and (found := tree.resolve(f"{folder}/{name}" if folder != "." else name)):
            return found
    return None


def _build_ids(tree: Tree, elves: Mapping[str, Facts], policy: Policy, report: Report) -> None:
    known: dict[str, str] = {}
    for path, facts in sorted(elves.items()):
        other = known.setdefault(facts.build_id, path)
        same = tree.leaves[other].sha256 == tree.leaves[path].sha256
        if facts.build_id and not same and not policy.excused(path, "build-id"):
            report.fault("build-id", path, f"has the build-id of {other}, but is another file")


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _targets(elves: Mapping[str, Facts], policy: Policy, report: Report, system: set[str]) -> None:
    """Say for each target whether its libraries have every symbol version that the tree needs."""
    highest: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for path, facts in sorted(elves.items()):
        for library, version in facts.versions:
            prefix, _, number = version.partition("_")
            if library not in system or not number.replace(".", "").isdigit():
                if version == "GLIBC_PRIVATE" and not policy.excused(path, "glibc"):
                    report.fault("glibc", path, "uses GLIBC_PRIVATE, which changes with every build of glibc")
                continue
            highest[prefix] = max(highest.get(prefix, ((), "", "")), (_number(number), version, path))
    for prefix, (_, version, path) in sorted(highest.items()):
        report.note(f"highest {prefix} symbol version: {version} ({path})")
    for name, target in policy.targets.items():
        lacking = [
            (version, path, limit)
            for prefix, limit in target.symbols.items()
            if prefix in highest
            for number, version, path in [highest[prefix]]
            if number > _number(limit)
        ]
        report.note(f"{name}: {'no' if lacking else 'yes'}")
        for version, path, limit in lacking if target.required else ():
            report.fault("glibc", path, f"needs {version}; {name} has up to {limit}")
