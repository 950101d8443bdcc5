"""Whatever a buildspec or an archive holds: a clear refusal or a good result, never a traceback or a file elsewhere.

In CI (the variable CI) Hypothesis takes the same examples each time; elsewhere it looks for new ones.
"""

from __future__ import annotations

import gzip
import io
import json
import string
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.build import spec
from lab.build import unpack as built
from lab.check import hygiene
from lab.check.report import Report
from lab.check.tarball import Reader
from lab.errors import BadInput, HostLacks
from lab.yamlio import load_model

EXAMPLE = (Path(__file__).parent / "hello-1.0.yaml").read_text(encoding="utf-8")
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Named, because Hypothesis needs a second to learn all of Unicode.
SIGNS = string.printable + "\0\x85\u2028é\ufeff"
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(SIGNS, max_size=20)
    | st.sampled_from(["..", "{", "/"])
)
DATA = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(SIGNS, max_size=8), inner, max_size=3)
)


def load(text: str, folder: Path) -> spec.Spec | None:
    """Load a text as a buildspec; None when it was refused as it should be."""
    path = folder / "hello-1.0.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        return load_model(path, spec.Spec)
    except BadInput as error:
        assert str(path) in error.message
        assert error.hint
        return None


def test_the_example_itself_is_good(tmp_path: Path) -> None:
    assert load(EXAMPLE, tmp_path)


@given(st.text(SIGNS, max_size=80))
@FEW
def test_any_text_is_a_spec_or_refused(tmp_path: Path, text: str) -> None:
    assert load(text, tmp_path) is None


@given(st.integers(0, len(EXAMPLE) - 1), st.integers(0, 40), st.text("{}[]:,&*!|>'\"%@`#- \n\t~0a", max_size=6))
@FEW
def test_a_spec_with_a_part_replaced_is_a_spec_or_refused(tmp_path: Path, at: int, length: int, new: str) -> None:
    made = load(EXAMPLE[:at] + new + EXAMPLE[at + length :], tmp_path)
    assert made is None or made.steps


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in inner for place in places(value, (*at, key)))]


TREE = yaml.safe_load(EXAMPLE)


@given(st.sampled_from(places(TREE)[1:]), DATA)
@FEW
def test_a_spec_with_a_value_replaced_is_a_spec_or_refused(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(TREE))
    spot = data
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    made = load(yaml.safe_dump(data), tmp_path)
    if made is not None:
        # What was taken for good must be so for the engine too: paths stay inside, placeholders are known.
        assert all(not Path(file).is_absolute() and ".." not in Path(file).parts for file in made.files)
        assert all(
            spec.fields(word) for step in made.steps for word in (step.run or ()) if "{" in word.replace("{{", "")
        )


NAMES = [
    "t",
    "t/a",
    "t/a/b",
    "t/l",
    "../x",
    "/x",
    "t/../../x",
    "t/l/x",
    "t/a/../b",
    ".",
    "",
    "t//a",
    "t/\x01",
    "u",
    "t/é",
]
TARGETS = ["a", "..", "../..", "/etc/passwd", "l", "a/b", "../t/a", "../../x", "", "nothing"]
KINDS = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Return a tar archive of any odd members, perhaps with bytes replaced or cut off."""
    raw = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=raw, mode="w", format=form) as tar:
        for _ in range(draw(st.integers(0, 6))):
            item = tarfile.TarInfo(draw(st.sampled_from(NAMES)))
            item.type, item.linkname = draw(st.sampled_from(KINDS)), draw(st.sampled_from(TARGETS))
            item.size = draw(st.integers(0, 600)) if item.isreg() else 0
            item.mode = draw(st.sampled_from([0o644, 0o755, 0o4755, 0]))
            tar.addfile(item, io.BytesIO(b"x" * item.size))
    # tarfile fills a whole record with zeros; the end mark alone is enough, and quicker to tell.
    data = bytearray(raw.getvalue().rstrip(b"\0"))
    data += bytes(-len(data) % 512 + 1024)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, min(len(data), 4096) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def only_below(outside: Path, inside: str) -> None:
    """Look whether nothing came to be but plain things below one folder."""
    for path in outside.rglob("*"):
        assert path.relative_to(outside).parts[0] in (inside, "archive"), path
        assert path.is_symlink() or path.is_file() or path.is_dir(), path
        assert path.is_symlink() or not path.stat().st_mode & 0o6000, path


@given(archives(), st.booleans())
@FEW
def test_the_checkers_reader_survives_any_archive(data: bytes, broken: bool) -> None:
    packed = zstandard.ZstdCompressor(level=1).compress(data)
    packed = packed[: len(packed) // 2] if broken else packed
    with tempfile.TemporaryDirectory() as scratch:
        into = Path(scratch) / "in"
        into.mkdir()
        report = Report()
        tree = hygiene.unpack(Reader(io.BytesIO(packed)), into, "t", report)
        only_below(Path(scratch), "in")
        assert all(path.relative_to(into).parts[0] == "t" for path in into.rglob("*"))
        assert report.faults or set(tree.folders)
        assert report.faults or not any(leaf.target.startswith("/") for leaf in tree.leaves.values())


@given(archives(), st.sampled_from(["plain", "gzip", "zstd", "half"]))
@FEW
def test_the_builders_reader_survives_any_archive(data: bytes, how: str) -> None:
    packed = {
        "plain": data,
        "gzip": gzip.compress(data, 1, mtime=0),
        "zstd": zstandard.ZstdCompressor(level=1).compress(data),
        "half": gzip.compress(data, 1, mtime=0)[:-20],
    }[how]
    with tempfile.TemporaryDirectory() as scratch:
        archive, into = Path(scratch) / "archive", Path(scratch) / "in"
        archive.write_bytes(packed)
        try:
            built.unpack(archive, into)
        except (BadInput, HostLacks) as error:
            assert error.hint
            assert not into.exists(), "something half unpacked was left"
        only_below(Path(scratch), "in")
        top = into.resolve()
        assert all(path.resolve().is_relative_to(top) for path in into.rglob("*"))


@pytest.mark.parametrize("data", [b"", b"x", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"!<arch>\n", b"\0" * 10_240])
def test_the_builders_reader_refuses_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "archive").write_bytes(data)
    try:
        built.unpack(tmp_path / "archive", tmp_path / "in")
    except BadInput:
        assert not (tmp_path / "in").exists()
    else:
        assert data == b"\0" * 10_240
        assert list((tmp_path / "in").iterdir()) == []
