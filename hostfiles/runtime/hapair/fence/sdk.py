"""The cloud stores' SDKs: unpacked trees in /usr/lib/hapair/sdk, one for each kind and Python version.

They do not run from the zip archive that the host programs are, and a node has no pip. `invoke hosts.sdk` makes them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hapair.fence.base import BadStore

MARK = "hapair-sdk.json"


def add(kind: str, folder: Path) -> None:
    """Put the tree of `kind` for the running Python in front of the import path.

    Raises:
        BadStore: there is none, or not for this version.
    """
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    tree = folder / f"{kind}-py{version}"
    cure = f"invoke hosts.sdk {kind} FOLDER --python {version} makes it; put it at {tree}"
    try:
        made_for = json.loads((tree / MARK).read_text())["python"]
    except (OSError, ValueError, KeyError, TypeError):
        others = sorted(found.name for found in folder.glob(f"{kind}-py*"))
        there = f"; there is {', '.join(others)}, but this is Python {version}" if others else ""
        raise BadStore(f"no SDK for the store kind {kind} in {tree}{there}; {cure}") from None
    if made_for != version:
        raise BadStore(f"{tree} was made for Python {made_for}, but this is Python {version}; {cure}")
    if str(tree) not in sys.path:
        sys.path.insert(0, str(tree))
