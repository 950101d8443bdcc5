"""Which Go modules went into a build: read from what release tarballs and Debian's golang-*-dev packages carry."""

from __future__ import annotations

import re
from collections.abc import Iterable

# "# github.com/gorilla/mux v1.8.0 => ../mux v1.8.1" of vendor/modules.txt (Go Modules Reference, "Vendoring").
VENDORED = re.compile(r"^# (\S+) (v\S+)(?: => (\S+)(?: (v\S+))?)?$")
# "./src/github.com/gorilla/mux: COMMIT" of the _dist/MANIFEST in LXD's release tarballs up to 4.17 and 4.0.7.
CHECKED_OUT = re.compile(r"^\./(?:src/)?(\S+): ([0-9a-f]{40})\b")
# Hosts whose repositories are two names deep, and so is the root of what they hold.
DEEP = frozenset({"bitbucket.org", "github.com", "gitlab.com", "golang.org", "salsa.debian.org"})


def parse(text: str) -> dict[str, str]:
    """Return the modules in a `vendor/modules.txt` or `_dist/MANIFEST`: import path → version or commit."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if vendored := VENDORED.match(line):
            name, version, other, other_version = vendored.groups()
            replaced = other is not None and not other.startswith((".", "/"))
            found[other if replaced else name] = other_version or version
        elif checked_out := CHECKED_OUT.match(line):
            found[checked_out[1]] = checked_out[2]
    return dict(sorted(found.items()))


def roots(files: Iterable[str]) -> list[str]:
    """Return the import paths of the repositories whose Go files these are (paths below GOPATH/src)."""
    folders = {file.rpartition("/")[0] for file in files if file.endswith(".go")}
    found: list[str] = []
    for folder in sorted(folders, key=lambda path: path.split("/")):
        parts = folder.split("/")
        root = "/".join(parts[:3]) if parts[0] in DEEP else folder
        if not any(root == known or root.startswith(f"{known}/") for known in found):
            found.append(root)
    return sorted(found)
