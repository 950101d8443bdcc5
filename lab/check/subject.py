"""What the checks look at, once it has been read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.check.elf import Facts
from lab.check.hygiene import Tree
from lab.check.manifest import Manifest


@dataclass(frozen=True)
class Subject:
    """An artifact: its folder, what its manifest says, and what was found."""

    folder: Path
    manifest: Manifest
    digests: Mapping[str, str]
    """File beside the manifest → its SHA-256, as found now."""
    tree: Tree
    elves: Mapping[str, Facts]
    """Path in the tree → what that ELF file says about itself."""
