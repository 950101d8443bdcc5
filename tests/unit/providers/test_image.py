"""The root image: what its key depends on, what goes in, and builds that fail, hang or meet each other."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from lab import log, paths
from lab.errors import HostLacks
from lab.proc import CommandFailed
from lab.providers import bootstrap, image
from lab.providers.image import IMAGE
from tests.fakes.programs import Fakes

Change = Callable[[Path], object]

# The fake mmdebstrap writes where the hooks of the real one would: into the descriptors that its arguments name.
FILL = """
for word in "$@"; do case $word in
*dpkg-query*) echo 'libc6=2.36 systemd=252' | tr ' ' '\\n' > "/proc/self/fd/${word##*/}" ;;
*mke2fs*) printf 'a root' 1<> "/proc/self/fd/${word##*/}" ;;
esac; done
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the image's sources, to be changed at will."""
    return Path(shutil.copytree(image.SOURCE, tmp_path / "source", symlinks=True))


@pytest.fixture
def host(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """A machine whose every program of the build is a fake, and whose cache and temporary folders are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(bootstrap, "SHARED_MEMORY", tmp_path / "shared")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(image, "IMAGE_BYTES", 1 << 20)
    for name in ("mke2fs", "apt-get", "apt-config", "unshare"):
        fakes.add(name)
    fakes.add("unshare", script='[ "$2" = true ] || { shift; exec "$@"; }')
    return fakes


def leftovers() -> list[str]:
    """Everything that builds left in the cache and in the temporary folders, but for lock files."""
    root = paths.cache().parent.parent
    found = [*(paths.cache() / "images").glob("*"), *(root / "shared").glob("*"), *(root / "temporary").glob("*")]
    return [path.name for path in found if path.suffix != ".lock"]


CHANGES: dict[str, Change] = {
    "a package": lambda top: (top / "packages").write_text((top / "packages").read_text() + "strace\n"),
    "a mask": lambda top: (top / "masked").write_text((top / "masked").read_text() + "cron.service\n"),
    "an exclusion": lambda top: (top / "excluded").write_text("path-exclude=/usr/share/perl/*\n"),
    "the last step": lambda top: (top / "finish").write_text("#!/bin/sh\n"),
    "a file": lambda top: (top / "root/etc/fstab").write_text("\n"),
    "a new file": lambda top: (top / "root/etc/new").write_text(""),
    "a removed file": lambda top: (top / "root/etc/fstab").unlink(),
    "a mode": lambda top: (top / "root/usr/lib/hapair-lab/third-init").chmod(0o644),
    "a link": lambda top: relink(top / "root/etc/tmpfiles.d/tmp.conf", "/etc/hosts"),
    "the writer": lambda top: (top / "writer/rootfs/www/cgi-bin/id").write_text("#!/bin/sh\n"),
    "the control agent": lambda top: (top / "control.py").write_text("#!/usr/bin/python3\n"),
    "the proxy": lambda top: (top / "proxy.py").write_text("#!/usr/bin/python3\n"),
}


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_input_changes_the_key(source: Path, change: Change) -> None:
    before = image.key(source)
    change(source)
    assert image.key(source) != before


@pytest.mark.parametrize(
    ("name", "value"), [("SUITE", "trixie"), ("BUILDER", 99), ("MKE2FS", "mke2fs"), ("IMAGE_BYTES", 1), ("EPOCH_S", 1)]
)
def test_every_constant_of_the_builder_changes_the_key(
    source: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = image.key(source)
    monkeypatch.setattr(image, name, value)
    assert image.key(source) != before


def test_what_is_not_in_the_image_leaves_the_key_alone(source: Path) -> None:
    before = image.key(source)
    (source / "client.py").write_text("pushed into the node when it runs\n")
    (source / "packages").write_text((source / "packages").read_text() + "# a remark\n")
    os.utime(source / "root/etc/fstab", (1, 1))
    (source / "root/etc/fstab").chmod(0o600)
    assert image.key(source) == before


def test_the_overlay_depends_on_content_alone(source: Path) -> None:
    first = image.overlay(image.entries(image.SOURCE))
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(0o700 if path.stat().st_mode & 0o100 else 0o600)
            os.utime(path, (1, 1))
    assert image.overlay(image.entries(source)) == first


def test_the_overlay_belongs_to_root_and_stays_inside() -> None:
    with tarfile.open(fileobj=io.BytesIO(image.overlay(image.entries()))) as tar:
        members = tar.getmembers()
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, image.EPOCH_S)}
    assert all(member.mode == (0o777 if member.issym() else member.mode & 0o755) for member in members)
    assert not [member.name for member in members if member.name.startswith("/") or ".." in member.name]
    modes = {member.name: member.mode for member in members}
    assert modes["usr/lib/hapair-lab/third-init"] == modes[image.CONTROL] == 0o755
    assert modes["etc/fstab"] == 0o644
    assert f"/{image.CONTROL.rpartition('/')[0]}/third-init" == image.THIRD_INIT


def test_masks_are_links_to_nothing_where_systemd_looks_for_them() -> None:
    targets = {entry.path: entry.target for entry in image.entries()}
    for unit in ("drbd.service", "lxd.service", "lxd.socket", "systemd-networkd-wait-online.service"):
        assert targets[PurePosixPath("etc/systemd/system", unit)] == "/dev/null"
    assert targets[PurePosixPath("etc/systemd/system-generators/systemd-sysv-generator")] == "/dev/null"
    masked = {path.name for path, target in targets.items() if target == "/dev/null"}
    assert not masked & {"lxcfs.service", "systemd-networkd.service", "hapair-control.service"}


def test_lists_have_one_word_a_line_and_remarks(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# why\n\n  lxd   # because\nudev\n#none\n")
    assert image.words(path) == ["lxd", "udev"]


@pytest.mark.spawns
def test_builds_once_and_keeps(source: Path, host: Fakes) -> None:
    host.add("mmdebstrap", script=FILL)
    first = image.ensure(log.silent(), source)
    assert first.path.read_bytes() == b"a root" + bytes((1 << 20) - 6)
    assert first.path.stat().st_mode & 0o777 == 0o444
    manifest = json.loads((first.path.parent / "manifest.json").read_text())
    assert manifest["packages"] == {"libc6": "2.36", "systemd": "252"}
    assert manifest["inputs"] == image.inputs(source)
    assert manifest["files"][IMAGE]["sha256"] == first.digest
    assert image.ensure(log.silent(), source) == first
    assert len(host.calls("mmdebstrap")) == 1
    assert image.cached(source)
    assert leftovers() == [image.key(source)]


@pytest.mark.spawns
def test_two_at_once_build_one(source: Path, host: Fakes) -> None:
    host.add("mmdebstrap", script=FILL, delay_s=0.3)
    made: list[image.Image] = []
    workers = [threading.Thread(target=lambda: made.append(image.ensure(log.silent(), source))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(made)) == 1
    assert len(made) == 3
    assert len(host.calls("mmdebstrap")) == 1


@pytest.mark.spawns
def test_a_mirror_that_does_not_answer_is_the_hosts_lack(source: Path, host: Fakes) -> None:
    host.add("mmdebstrap", prints="E: Failed to fetch http://mirror.test/InRelease  Could not resolve\n", code=25)
    with pytest.raises(HostLacks, match=r"no Debian mirror answers[\s\S]*mirror\.test") as caught:
        image.ensure(log.silent(), source)
    assert "apt sources" in caught.value.hint
    assert leftovers() == []


@pytest.mark.spawns
@pytest.mark.parametrize(
    "text", ["E: unable to pick chroot mode automatically (use --mode for manual selection)", "E: unshare failed: no"]
)
def test_a_user_without_namespaces_is_told_the_ways_on(
    source: Path, host: Fakes, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    host.add("mmdebstrap", prints=text + "\n", code=25)
    with pytest.raises(HostLacks, match="user namespaces") as caught:
        image.ensure(log.silent(), source)
    assert "--bundle" in caught.value.hint
    assert leftovers() == []


@pytest.mark.spawns
def test_another_failure_shows_the_last_lines(source: Path, host: Fakes) -> None:
    host.add("mmdebstrap", prints="I: extracting archives...\nE: dpkg broke\n", code=3)
    with pytest.raises(CommandFailed, match=r"exit code 3[\s\S]*E: dpkg broke"):
        image.ensure(log.silent(), source)
    assert leftovers() == []


@pytest.mark.spawns
def test_a_build_that_hangs_is_ended(source: Path, host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "BUILD_LIMIT_S", 0.3)
    host.add("mmdebstrap", script="exec sleep 600")
    with pytest.raises(CommandFailed, match=r"no end after 0\.3 s"):
        image.ensure(log.silent(), source)
    assert leftovers() == []


@pytest.mark.spawns
def test_an_interrupted_build_leaves_nothing(
    source: Path, host: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fake removes its tree when it is asked to end, as mmdebstrap does.
    host.add(
        "mmdebstrap",
        script=f'mkdir "$TMPDIR/tree"; trap \'rm -r "$TMPDIR/tree"; echo asked > {tmp_path}/ended; exit 1\' TERM\n'
        'echo "I: installing"; while :; do sleep 0.05; done',
    )

    def interrupt(_step: object, text: str) -> None:
        assert text == "installing"
        raise KeyboardInterrupt

    monkeypatch.setattr("lab.log.Step.note", interrupt)
    with pytest.raises(KeyboardInterrupt):
        image.ensure(log.silent(), source)
    assert (tmp_path / "ended").read_text() == "asked\n"
    assert leftovers() == []


@pytest.mark.spawns
def test_what_a_killed_build_left_is_replaced(source: Path, host: Fakes) -> None:
    host.add("mmdebstrap", script=FILL)
    stale = paths.cache() / "images" / f".making-{image.key(source)}"
    stale.mkdir(parents=True)
    (stale / "root.ext4").write_text("half")
    assert image.ensure(log.silent(), source).path.stat().st_size == 1 << 20
    assert leftovers() == [image.key(source)]


@pytest.mark.spawns
def test_a_full_disk_is_found_before_the_start(source: Path, host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    host.add("mmdebstrap", script=FILL)
    monkeypatch.setattr(image, "TEMPORARY_BYTES", 1 << 60)
    with pytest.raises(HostLacks, match="MiB free"):
        image.ensure(log.silent(), source)
    assert host.calls("mmdebstrap") == []


def test_a_missing_program_is_named(source: Path, host: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    with pytest.raises(HostLacks, match="mmdebstrap is not installed"):
        image.ensure(log.silent(), source)
    assert host.calls() == []
    assert leftovers() == []


@pytest.fixture
def kept(source: Path, host: Fakes) -> Path:
    """The folder of an image that was built."""
    host.add("mmdebstrap", script=FILL)
    return image.ensure(log.silent(), source).path.parent


@pytest.mark.spawns
def test_another_size_is_refused(kept: Path, source: Path) -> None:
    (kept / IMAGE).chmod(0o644)
    os.truncate(kept / IMAGE, 5)
    with pytest.raises(HostLacks, match=r"5 bytes instead of 1048576") as caught:
        image.ensure(log.silent(), source)
    assert f"remove {kept}" in caught.value.hint


@pytest.mark.spawns
def test_another_content_is_refused(kept: Path) -> None:
    (kept / IMAGE).chmod(0o644)
    seen = (kept / IMAGE).stat()
    with (kept / IMAGE).open("r+b") as file:
        file.write(b"X")
    with pytest.raises(HostLacks, match="SHA-256 is"):
        image.load(kept)
    os.utime(kept / IMAGE, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    with pytest.raises(HostLacks, match="SHA-256 is"):
        image.load(kept, full=True)


@pytest.mark.spawns
def test_a_true_copy_is_read_once_and_then_trusted(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(kept, tmp_path / "copy"))
    os.utime(copy / IMAGE, (1, 1))
    assert image.load(copy).digest == image.load(kept).digest
    monkeypatch.setattr("lab.providers.stored.file_digest", lambda _path: "not to be asked for")
    assert image.load(copy).digest == image.load(kept).digest


@pytest.mark.spawns
@pytest.mark.parametrize("text", ["", "{}", "[]", '{"files": {"root.ext4": {}}}', '{"files": {}}'])
def test_a_manifest_that_is_none_is_refused(kept: Path, text: str) -> None:
    (kept / "manifest.json").write_text(text)
    with pytest.raises(HostLacks, match=r"not a manifest|holds no root\.ext4"):
        image.load(kept)


@pytest.mark.spawns
def test_an_image_without_its_file_is_refused(kept: Path) -> None:
    (kept / IMAGE).unlink()
    with pytest.raises(HostLacks, match=r"root\.ext4: No such file"):
        image.load(kept)


ROWS = {
    "this suite, with its updates": (
        "Debian|Debian|bookworm|main|http://a.test/debian/\n"
        "Debian|Debian|bookworm|contrib|http://a.test/debian/\n"
        "Debian|Debian-Security|bookworm-security|main|http://a.test/security/\n"
        "Other|Other|stable|main|http://b.test/\n",
        ["deb http://a.test/debian/ bookworm main", "deb http://a.test/security/ bookworm-security main"],
    ),
    "another suite of Debian": (
        "Debian|Debian-Security|trixie-security|main|http://a.test/security/\n"
        "Debian|Debian|trixie|main|http://a.test/debian/\n",
        ["deb http://a.test/debian/ bookworm main"],
    ),
    "no Debian": ("Ubuntu|Ubuntu|jammy|main|http://c.test/ubuntu/\n", []),
    "nothing": ("", []),
}


@pytest.mark.spawns
@pytest.mark.parametrize(("rows", "mirrors"), ROWS.values(), ids=ROWS)
def test_the_machines_own_mirror_is_used(source: Path, host: Fakes, rows: str, mirrors: list[str]) -> None:
    host.add("apt-get", prints=rows)
    host.add("apt-config", prints='Acquire::http::Proxy "http://proxy.test:3128";\n')
    host.add("mmdebstrap", script=FILL)
    image.ensure(log.silent(), source)
    (call,) = host.calls("mmdebstrap")
    assert call[call.index("-") + 1 :] == mirrors
    assert '--aptopt=Acquire::http::Proxy "http://proxy.test:3128";' in call
