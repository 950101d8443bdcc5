"""What an ELF file says about itself: facts only, no judgement (policy.py judges)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import NoteSection, SymbolTableSection

MAGIC = b"\x7fELF"
# include/elf.h
PF_X, PF_W = 1, 2
DF_TEXTREL, DF_BIND_NOW = 0x4, 0x8
DF_1_NOW, DF_1_PIE = 0x1, 0x08000000


class NotElf(Exception):
    """The file begins like an ELF file and cannot be read as one."""


@dataclass(frozen=True)
class Facts:
    """What one ELF file says about itself."""

    kind: str
    """"program", "library" (a shared object that is no program), "object" or another."""
    machine: str
    dynamic: bool
    pie: bool
    interpreter: str
    needed: tuple[str, ...]
    soname: str
    rpath: str
    runpath: str
    versions: frozenset[tuple[str, str]]
    """(library, symbol version) pairs that must be there when it is loaded."""
    imports: frozenset[str]
    textrel: bool
    relro: bool
    bind_now: bool
    stack: str
    """"ok", "executable", or "unsaid" (then the kernel makes it executable)."""
    writable_code: bool
    symbols: bool
    debug: bool
    build_id: str
    go: bool
    cgo: bool
    packages: frozenset[str]
    """Import paths of the Go packages whose functions it holds, without the standard library."""


def is_elf(path: Path) -> bool:
    """Tell whether a file begins like an ELF file."""
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def read(path: Path) -> Facts:
    """Read one ELF file.

    Raises:
        NotElf: it is damaged.
    """
    try:
        with path.open("rb") as file:
            return _facts(ELFFile(file))
    # pyelftools raises whatever its parser stumbles over in a damaged file.
    except (ELFError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError, OSError) as error:
        raise NotElf(f"cannot be read as ELF: {error or type(error).__name__}") from None


def _facts(elf: Any) -> Facts:  # noqa: ANN401 - pyelftools has no types of use
    dynamic = _dynamic(elf)
    flags, flags_1 = _number(dynamic, "DT_FLAGS"), _number(dynamic, "DT_FLAGS_1")
    interpreter = next((s.get_interp_name() for s in elf.iter_segments("PT_INTERP")), "")
    sections = {section.name: section for section in elf.iter_sections()}
    imports = _imports(sections)
    kind = _kind(elf["e_type"], interpreter, flags_1)
    go = ".gopclntab" in sections or ".go.buildinfo" in sections
    return Facts(
        kind=kind,
        machine=elf["e_machine"],
        dynamic=bool(dynamic),
        pie=elf["e_type"] == "ET_DYN" and kind == "program",
        interpreter=interpreter,
        needed=tuple(tag.needed for tag in dynamic.get("DT_NEEDED", ())),
        soname=next((tag.soname for tag in dynamic.get("DT_SONAME", ())), ""),
        rpath=next((tag.rpath for tag in dynamic.get("DT_RPATH", ())), ""),
        runpath=next((tag.runpath for tag in dynamic.get("DT_RUNPATH", ())), ""),
        versions=_versions(sections),
        imports=imports,
        textrel="DT_TEXTREL" in dynamic or bool(flags & DF_TEXTREL),
        relro=any(True for _ in elf.iter_segments("PT_GNU_RELRO")),
        bind_now="DT_BIND_NOW" in dynamic or bool(flags & DF_BIND_NOW) or bool(flags_1 & DF_1_NOW),
        stack=_stack(elf),
        writable_code=any(s["p_flags"] & PF_X and s["p_flags"] & PF_W for s in elf.iter_segments("PT_LOAD")),
        symbols=".symtab" in sections,
        debug=any(name.startswith((".debug_", ".zdebug_")) for name in sections),
        build_id=_build_id(sections),
        go=go,
        cgo=go and any(name.startswith("_cgo_") or name == "__stack_chk_fail" for name in imports | _exports(sections)),
        packages=go_packages(_data(sections, ".gopclntab") or _data(sections, ".data.rel.ro.gopclntab")),
    )


def _kind(e_type: str, interpreter: str, flags_1: int) -> str:
    if e_type == "ET_EXEC" or interpreter or flags_1 & DF_1_PIE:
        return "program"
    return {"ET_DYN": "library", "ET_REL": "object"}.get(e_type, e_type)


def _dynamic(elf: Any) -> dict[str, list[Any]]:  # noqa: ANN401 - as above
    found: dict[str, list[Any]] = {}
    # The segment is what the loader reads; the section may be missing or say something else.
    for part in [*elf.iter_segments("PT_DYNAMIC")] or [s for s in elf.iter_sections() if isinstance(s, DynamicSection)]:
        for tag in part.iter_tags():
            found.setdefault(tag.entry.d_tag, []).append(tag)
    return found


def _number(dynamic: dict[str, list[Any]], tag: str) -> int:
    return int(dynamic[tag][0]["d_val"]) if tag in dynamic else 0


def _stack(elf: Any) -> str:  # noqa: ANN401 - as above
    for segment in elf.iter_segments("PT_GNU_STACK"):
        return "executable" if segment["p_flags"] & PF_X else "ok"
    return "unsaid"


def _versions(sections: dict[str, Any]) -> frozenset[tuple[str, str]]:
    section = sections.get(".gnu.version_r")
    if not isinstance(section, GNUVerNeedSection):
        return frozenset()
    return frozenset((str(need.name), str(aux.name)) for need, auxes in section.iter_versions() for aux in auxes)


def _imports(sections: dict[str, Any]) -> frozenset[str]:
    return _symbols(sections, defined=False)


def _exports(sections: dict[str, Any]) -> frozenset[str]:
    return _symbols(sections, defined=True)


def _symbols(sections: dict[str, Any], *, defined: bool) -> frozenset[str]:
    section = sections.get(".dynsym")
    if not isinstance(section, SymbolTableSection):
        return frozenset()
    return frozenset(s.name for s in section.iter_symbols() if s.name and (s["st_shndx"] != "SHN_UNDEF") == defined)


def _build_id(sections: dict[str, Any]) -> str:
    section = sections.get(".note.gnu.build-id")
    if not isinstance(section, NoteSection):
        return ""
    return next((str(note["n_desc"]) for note in section.iter_notes() if note["n_type"] == "NT_GNU_BUILD_ID"), "")


def _data(sections: dict[str, Any], name: str) -> bytes:
    return sections[name].data() if name in sections else b""


FUNCTION = re.compile(rb"\x00([a-z0-9-]+(?:\.[a-z0-9-]+)+/[^\x00\x01-\x1f\x7f-\xff]{1,300})(?=\x00)")

SOURCES = (b".go", b".s", b".c")
"""The table holds the names of the source files too."""


def go_packages(pclntab: bytes) -> frozenset[str]:
    """Return the import paths in Go's table of functions, which even a stripped program keeps.

    A function's name is its package's import path, a dot and the rest; dots in the last part of the path are "%2e"
    (cmd/internal/objabi, PathToPrefix). The standard library's paths have no dot in their first part.
    """
    found = set()
    for match in FUNCTION.finditer(pclntab):
        if match[1].endswith(SOURCES):
            continue
        name = re.split(rb"[(\[]", match[1], maxsplit=1)[0]
        folder, slash, last = name.rpartition(b"/")
        package = folder + slash + last.partition(b".")[0]
        if slash and last.partition(b".")[1]:
            found.add(re.sub(rb"%([0-9a-f]{2})", lambda hit: bytes([int(hit[1], 16)]), package).decode())
    return frozenset(found)
