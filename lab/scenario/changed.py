"""The host programs with another text in one place, as a defect of theirs would have it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import HapairError


@dataclass(frozen=True)
class Change:
    """In `module` (its path below the package) the text `old`, which stands there once, becomes `new`."""

    module: str
    old: str
    new: str

    def __call__(self, text: str) -> str:
        """Return the module's text with the change.

        Raises:
            HapairError: the text is not there, or more than once: the programs have changed since this was written.
        """
        if text.count(self.old) != 1:
            raise HapairError(
                f"{self.module} has {text.count(self.old)} times what is to be changed: {self.old.strip()!r}",
                "adapt the change to the programs as they are now",
            )
        return text.replace(self.old, self.new)


def changed(archive: bytes, changes: Sequence[Change]) -> bytes:
    """Return a zipapp with these changes; what stands before the archive proper stays.

    A node runs them at once: bytecode that it keeps is only used for the very file it was made from.

    Raises:
        HapairError: a module or a text is not there.
    """
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        members = {info.filename: (info, source.read(info)) for info in source.infolist()}
        start = min(info.header_offset for info in source.infolist())
    for change in changes:
        name = f"hapair/{change.module}"
        if name not in members:
            raise HapairError(f"the host programs have no module {change.module}", "name one of hostfiles/runtime")
        info, data = members[name]
        members[name] = info, change(data.decode()).encode()
    buffer = io.BytesIO(archive[:start])
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as target:
        for info, data in members.values():
            target.writestr(info, data)
    return buffer.getvalue()
