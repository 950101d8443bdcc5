"""Writing a tree: in one step, never over what is not ours, the same bytes each time."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from lab.errors import BadInput, HapairError
from lab.hosts import tree
from lab.hosts.tree import MARKER, MTIME_S, File, Link, Tree, write

TREE = Tree({"/etc/b": File(b"two\n", 0o600), "/etc/a": File(b"one\n"), "/etc/x/off": Link("/dev/null")})


def content(folder: Path) -> dict[str, bytes | str]:
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_writes_files_modes_and_links(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    assert write({"n1": TREE}, folder) == [folder / "n1/etc/a", folder / "n1/etc/b", folder / "n1/etc/x/off"]
    assert content(folder / "n1") == {"etc/a": b"one\n", "etc/b": b"two\n", "etc/x/off": "/dev/null"}
    assert (folder / "n1/etc/b").stat().st_mode & 0o7777 == 0o600
    assert (folder / "n1/etc").stat().st_mode & 0o7777 == 0o755
    assert {path.lstat().st_mtime for path in folder.rglob("*")} == {float(MTIME_S)}


def test_replaces_what_it_wrote(tmp_path: Path) -> None:
    write({"n1": TREE, "n2": TREE}, tmp_path / "out")
    write({"n1": Tree({"/etc/a": File(b"new\n")})}, tmp_path / "out")
    assert content(tmp_path / "out") == {"n1/etc/a": b"new\n", MARKER: b"n1/etc/a\n"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing is left beside it


def test_replaces_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_RENAME_EXCHANGE", 1 << 20)  # no such flag: EINVAL, as some file systems say
    test_replaces_what_it_wrote(tmp_path)


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write({"n1": TREE}, tmp_path / "out")
    assert (tmp_path / "out/n1/etc/a").read_bytes() == b"one\n"


@pytest.mark.parametrize("foreign", ["mine", "n1/etc/mine", "n1/etc/deep/mine"])
@pytest.mark.parametrize("rendered", [True, False])
def test_refuses_a_folder_with_anything_else(tmp_path: Path, foreign: str, rendered: bool) -> None:
    folder = tmp_path / "out"
    if rendered:
        write({"n1": TREE}, folder)
    (folder / foreign).parent.mkdir(parents=True, exist_ok=True)
    (folder / foreign).write_text("precious")
    before = content(folder)
    with pytest.raises(BadInput, match=foreign):
        write({"n1": TREE}, folder)
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_refuses_an_empty_folder_of_somebody_else_inside(tmp_path: Path) -> None:
    (tmp_path / "out/n1/etc").mkdir(parents=True)
    with pytest.raises(BadInput, match="n1/etc"):
        write({"n1": TREE}, tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "link"])
def test_refuses_what_is_no_folder(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    if kind == "file":
        place.write_text("precious")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to("elsewhere")
    with pytest.raises(BadInput, match="not a folder"):
        write({"n1": TREE}, place)
    assert place.is_symlink() or place.read_text() == "precious"


def test_a_parent_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"out: Not a directory|out: File exists"):
        write({"n1": TREE}, tmp_path / "file" / "out")


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"n1": TREE}, tmp_path / "out")
    before = content(tmp_path / "out")

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write({"n1": Tree({"/etc/new": File(b"")})}, tmp_path / "out")
    assert content(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_tar_holds_the_same(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(TREE.tar())) as archive:
        members = {it.name: (it.mode, it.uid, it.gid, it.mtime, it.linkname) for it in archive}
        assert members == {
            "etc/a": (0o644, 0, 0, MTIME_S, ""),
            "etc/b": (0o600, 0, 0, MTIME_S, ""),
            "etc/x/off": (0o777, 0, 0, MTIME_S, "/dev/null"),
        }
        # Not as an argument: Debian 12's Python 3.11.2 has no filters, and newer ones want to be told.
        archive.extraction_filter = lambda member, _: member
        archive.extractall(tmp_path / "root")  # noqa: S202 - an archive of our own
    assert content(tmp_path / "root") == {"etc/a": b"one\n", "etc/b": b"two\n", "etc/x/off": "/dev/null"}


def test_tar_is_the_same_for_any_order() -> None:
    assert Tree(dict(reversed(list(TREE.entries.items())))).tar() == TREE.tar()


@pytest.mark.parametrize("path", ["etc/a", "/etc/../a", "/etc//a", "/etc/"])
def test_only_plain_absolute_paths(path: str) -> None:
    with pytest.raises(HapairError, match="plain absolute path"):
        Tree({path: File(b"")})


def test_umask_does_not_count(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write({"n1": TREE}, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out/n1/etc/a").stat().st_mode & 0o7777 == 0o644
    assert (tmp_path / "out").stat().st_mode & 0o7777 == 0o755
