"""LXD of our own build among a node's files."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from lab.errors import HapairError
from lab.hosts.site import Programs
from lab.hosts.tree import File, Link, Tree
from lab.providers.programs import with_programs

PROGRAMS = Programs.model_validate({"artifact": {"spec": "lxd-5.0.2", "liblxc": "system", "prefix": "/srv/Xq7"}})
FILES = Tree({"/etc/hostname": File(b"n1\n"), "/usr/sbin/r0": Link("/usr/lib/hapair/hapair.pyz")}).tar()


def artifact(folder: Path, names: dict[str, bytes]) -> Path:
    """Pack files below the folder lxd-5.0.2, as an artifact is packed."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in names.items():
            info = tarfile.TarInfo(f"lxd-5.0.2/{name}")
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    path = folder / "lxd.tar.zst"
    path.write_bytes(zstandard.compress(plain.getvalue()))
    return path


def members(data: bytes) -> dict[str, str | bytes]:
    """Return what a tar archive holds: path -> content, or target of a link."""
    found: dict[str, str | bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            found[member.name] = content.read() if content else member.linkname
    return found


def test_the_tree_stands_at_the_sites_place_and_its_commands_are_on_path(tmp_path: Path) -> None:
    """Beside the rendered files: the tree below the prefix, and a link for each program, but none for a library."""
    packed = artifact(tmp_path, {"bin/lxd": b"daemon", "bin/lxc": b"client", "lib/liblz4.so.1": b"library"})
    assert members(with_programs(FILES, packed, PROGRAMS)) == {
        "etc/hostname": b"n1\n",
        "usr/sbin/r0": "/usr/lib/hapair/hapair.pyz",
        "srv/Xq7/lxd-5.0.2/bin/lxd": b"daemon",
        "srv/Xq7/lxd-5.0.2/bin/lxc": b"client",
        "srv/Xq7/lxd-5.0.2/lib/liblz4.so.1": b"library",
        "usr/local/bin/lxd": "/srv/Xq7/lxd-5.0.2/bin/lxd",
        "usr/local/bin/lxc": "/srv/Xq7/lxd-5.0.2/bin/lxc",
    }


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """A seed is named by a digest of these bytes."""
    packed = artifact(tmp_path, {"bin/lxd": b"daemon"})
    assert with_programs(FILES, packed, PROGRAMS) == with_programs(FILES, packed, PROGRAMS)


def test_an_artifact_without_programs_is_refused(tmp_path: Path) -> None:
    """Such as one of a library."""
    with pytest.raises(HapairError, match="holds no program"):
        with_programs(FILES, artifact(tmp_path, {"lib/libdqlite.so.0": b""}), PROGRAMS)
