"""Sources: every place is told, what does not match is not kept, a local file is marked."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.build import apt, engine, fetch, spec
from lab.build.spec import AptPackage, Place, Signature, Source
from lab.errors import BadInput, HostLacks
from tests.unit.build.conftest import Shown, Toy
from tests.unit.build.test_signed import FINGERPRINT


def toy_source() -> Source:
    return spec.load("toy")[0].sources["toy"]


def test_every_place_tried_is_listed(toy: Toy, tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    mirrors = [apt.Mirror("http://one.example"), apt.Mirror("http://two.example")]

    def refuse(package: AptPackage, mirror: apt.Mirror, folder: Path, **_: object) -> tuple[Path, str]:
        raise apt.NotThere(f"no {package.suite} for {folder.is_dir()} at {mirror.uri[7:10]}")

    monkeypatch.setattr(apt, "mirrors", lambda: mirrors)
    monkeypatch.setattr(apt, "download", refuse)
    source = Source(
        places=(
            Place(apt=AptPackage(suite="backports", package="linux-source")),
            Place(file="nowhere.tar"),
        )
    )
    with pytest.raises(HostLacks) as caught:
        fetch.fetch("toy", "linux", source, scratch=tmp_path, step=shown)
    assert caught.value.message.splitlines() == [
        "no place has the source 'linux' of toy; tried:",
        "  - apt package linux-source of backports at http://one.example: no backports for True at one",
        "  - apt package linux-source of backports at http://two.example: no backports for True at two",
        "  - file nowhere.tar: no such file",
    ]
    assert "--source linux=FILE" in caught.value.hint
    assert caught.value.exit_code == 3
    assert toy.kept("sources") == []


def test_a_machine_without_archives_says_so(tmp_path: Path, shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", list)
    source = Source(places=(Place(apt=AptPackage(suite="s", package="p")),))
    with pytest.raises(HostLacks, match=r"apt package p of s: (this machine's apt settings|apt-get is not installed)"):
        fetch.fetch("toy", "linux", source, scratch=tmp_path, step=shown)


@pytest.mark.spawns
def test_a_checksum_mismatch_names_both_hashes_and_keeps_nothing(toy: Toy, shown: Shown) -> None:
    wanted = "0" * 64
    toy.edit("strip: 1", f"sha256: '{wanted}'")
    with pytest.raises(HostLacks) as caught:
        engine.ensure("toy", shown)
    assert wanted in caught.value.message
    assert hashlib.sha256(toy.archive.read_bytes()).hexdigest() in caught.value.message
    assert (toy.kept("sources"), toy.kept("artifacts"), toy.kept("scratch")) == ([], [], [])


def test_a_wrong_size_is_named(toy: Toy, tmp_path: Path, shown: Shown) -> None:
    toy.edit("strip: 1", "size_bytes: 7")
    with pytest.raises(HostLacks, match=r"size is \d+ bytes, must be 7"):
        fetch.fetch("toy", "toy", toy_source(), scratch=tmp_path, step=shown)


def test_a_pinned_checksum_vouches_for_a_local_file(toy: Toy, tmp_path: Path) -> None:
    toy.edit("strip: 1", f"sha256: {hashlib.sha256(toy.archive.read_bytes()).hexdigest()}")
    assert fetch.adopt("toy", toy_source(), toy.archive, tmp_path).verified == "sha256"


def test_what_a_source_flag_gave_is_remembered_and_marked(toy: Toy, tmp_path: Path) -> None:
    given = fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    assert given.verified == ""
    assert fetch.recorded("toy", toy_source()) == given
    assert fetch.have("toy", toy_source(), given)


def test_a_kept_source_that_changed_is_fetched_again(toy: Toy, tmp_path: Path) -> None:
    given = fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    kept = fetch.shelf("toy", toy_source()) / given.file
    kept.write_bytes(kept.read_bytes()[::-1])
    assert fetch.have("toy", toy_source(), given) is None


def test_a_damaged_record_counts_as_none(toy: Toy, tmp_path: Path) -> None:
    fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    (fetch.shelf("toy", toy_source()) / fetch.RECORD).write_text('{"name": "toy"')
    assert fetch.recorded("toy", toy_source()) is None


def test_a_source_that_is_not_there_is_bad_input(toy: Toy, shown: Shown) -> None:
    with pytest.raises(BadInput, match="no such file"):
        engine.ensure("toy", shown, sources={"toy": toy.folder / "none.tar"})
    with pytest.raises(BadInput, match="toy has no source 'linux'"):
        engine.ensure("toy", shown, sources={"linux": toy.archive})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder over HTTP; its address, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", folder
        http.shutdown()
        thread.join()


def places(*urls: str) -> tuple[Place, ...]:
    return tuple(Place(url=url) for url in urls)


@pytest.mark.usefixtures("toy")
def test_a_mirror_serves_when_the_first_address_does_not(
    served: tuple[str, Path], tmp_path: Path, shown: Shown
) -> None:
    url, folder = served
    (folder / "a.tar").write_bytes(b"tampered")
    (folder / "b.tar").write_bytes(b"right")
    source = Source(
        places=places(f"{url}/none.tar", f"{url}/a.tar", f"{url}/b.tar"),
        sha256=hashlib.sha256(b"right").hexdigest(),
        sha512=hashlib.sha512(b"right").hexdigest(),
    )
    known = fetch.fetch("toy", "toy", source, scratch=tmp_path, step=shown)
    assert (known.place, known.verified, known.file) == (f"{url}/b.tar", "sha256", "b.tar")
    assert fetch.have("toy", source, known)


def test_an_address_that_lies_is_told_with_both_hashes_and_nothing_stays(
    served: tuple[str, Path], toy: Toy, tmp_path: Path, shown: Shown
) -> None:
    url, folder = served
    (folder / "a.tar").write_bytes(b"tampered")
    wanted, found = hashlib.sha512(b"right").hexdigest(), hashlib.sha512(b"tampered").hexdigest()
    source = Source(places=places(f"{url}/a.tar"), sha512=wanted)
    with pytest.raises(fetch.NoPlace) as caught:
        fetch.fetch("toy", "toy", source, scratch=tmp_path, step=shown, command="invoke build.lxd --release 4.10")
    assert f"  - {url}/a.tar: sha512 is {found}, must be {wanted}" in caught.value.message
    assert caught.value.hint == "with a copy of your own: invoke build.lxd --release 4.10 --source toy=FILE"
    assert list((toy.cache / "hapair" / "sources").rglob("*.tar")) == []
    assert fetch.recorded("toy", source) is None


@pytest.mark.spawns
@pytest.mark.parametrize("good", [True, False])
def test_a_signature_that_the_spec_gives_is_checked(
    served: tuple[str, Path], toy: Toy, tmp_path: Path, shown: Shown, good: bool
) -> None:
    url, folder = served
    signed = Path(__file__).parent / "signed"
    shutil.copyfile(signed / "text.asc", folder / "text.asc")
    (folder / "text").write_bytes((signed / "text").read_bytes() if good else b"other")
    shutil.copyfile(signed / "keys.asc", toy.folder / "keys.asc")
    source = Source(
        places=places(f"{url}/text"),
        signature=Signature(places=places(f"{url}/text.asc"), keyring="keys.asc", fingerprint=FINGERPRINT),
    )
    if good:
        assert fetch.fetch("toy", "toy", source, scratch=tmp_path, step=shown).verified == "signature"
    else:
        with pytest.raises(fetch.NoPlace, match="its signature is not one of"):
            fetch.fetch("toy", "toy", source, scratch=tmp_path, step=shown)
        assert fetch.recorded("toy", source) is None


@pytest.mark.usefixtures("toy")
def test_a_missing_signature_needs_a_checksum_in_its_place(
    served: tuple[str, Path], tmp_path: Path, shown: Shown
) -> None:
    url, folder = served
    (folder / "text").write_bytes(b"text")
    wanted = Signature(places=places(f"{url}/none.asc"), keyring="keys.asc", fingerprint=FINGERPRINT)
    with pytest.raises(fetch.NoPlace, match="its signature is nowhere"):
        fetch.fetch("toy", "toy", Source(places=places(f"{url}/text"), signature=wanted), scratch=tmp_path, step=shown)
    pinned = Source(places=places(f"{url}/text"), sha256=hashlib.sha256(b"text").hexdigest(), signature=wanted)
    assert fetch.fetch("toy", "toy", pinned, scratch=tmp_path, step=shown).verified == "sha256"


def test_a_given_file_other_than_the_pinned_one_is_no_record(toy: Toy, tmp_path: Path) -> None:
    toy.edit("strip: 1", f"sha256: {'a' * 64}")
    given = fetch.adopt("toy", toy_source(), toy.archive, tmp_path)
    assert (given.verified, fetch.recorded("toy", toy_source())) == ("", None)
    assert fetch.have("toy", toy_source(), given)


@pytest.mark.parametrize("content", [{}, {".git/HEAD": "x"}, {"HEAD": "x", "objects/a": "b"}])
def test_a_folder_without_source_is_bad_input(toy: Toy, tmp_path: Path, content: dict[str, str]) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name, text in content.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(BadInput, match="no source in this folder"):
        fetch.adopt("toy", toy_source(), folder, tmp_path)
    assert toy.kept("sources") == []


def test_sources_of_old_specs_keep_their_folders() -> None:
    places = (Place(apt=AptPackage(suite="trixie-backports", package="linux-source-7.2")),)
    place = '{"apt":{"suite":"trixie-backports","package":"linux-source-7.2"},"file":null}'
    old = f'{{"places":[{place}],"sha256":null,"size_bytes":null}}'
    assert fetch.shelf("linux", Source(places=places)).name == f"linux-{hashlib.sha256(old.encode()).hexdigest()[:12]}"
