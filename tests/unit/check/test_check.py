"""A sound artifact passes; every planted defect turns exactly its rule red, and all of them are told at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from copy import copy
from pathlib import Path
from tarfile import TarInfo

import pytest

from lab.check import check
from lab.check.policy import Except, Target
from lab.errors import BadInput, HapairError
from tests.unit.check.conftest import EPOCH, RESULT, Artifact, Silent, build, lenient

pytestmark = [pytest.mark.spawns, pytest.mark.thorough]


def test_a_sound_artifact_passes_as_folder_and_as_archive(artifact: Artifact) -> None:
    report = artifact.pack().check(run=True)
    assert report.faults == []
    report.enforce()
    assert any(note.startswith("highest GLIBC symbol version: GLIBC_2") for note in report.notes)
    assert "any: yes" in report.notes
    assert check(artifact.archive, Silent(), seed=1).rules <= {"glibc"}


@pytest.mark.parametrize("name", ["nothing", "notes.txt"])
def test_what_is_no_artifact_is_bad_input(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="is no artifact"):
        check(tmp_path / name, Silent())


Compile = tuple[dict[str, object], set[str]]
COMPILED: dict[str, Compile] = {
    "rpath": ({"program": ["-Wl,--disable-new-dtags"]}, {"rpath", "needed"}),
    "absolute run path": ({"program": ["-Wl,-rpath,/opt/lib"]}, {"runpath"}),
    "run path out of the tree": ({"program": ["-Wl,-rpath,$ORIGIN/../../lib"]}, {"runpath"}),
    "no pie": ({"program": ["-no-pie"]}, {"pie"}),
    "lazy": ({"library": ["-Wl,-z,lazy"]}, {"relro"}),
    "no relro": ({"library": ["-Wl,-z,norelro"]}, {"relro"}),
    "executable stack": ({"library": ["-Wl,-z,execstack"]}, {"stack"}),
    "no protector": ({"library": ["-fno-stack-protector"]}, {"protector"}),
    "no fortify": ({"library": ["-U_FORTIFY_SOURCE"]}, {"fortify"}),
    "no build-id": ({"program": ["-Wl,--build-id=none"]}, {"build-id"}),
    "another's build-id": ({"program": ["-Wl,--build-id=0x12"], "library": ["-Wl,--build-id=0x12"]}, {"build-id"}),
    "system library": ({"program": ["-Wl,--no-as-needed", "-lcrypt"]}, {"needed"}),
    "soname": ({"library": ["-Wl,-soname,libgreet.so.1", "-Wl,-soname,libother.so.1"]}, {"needed", "loads", "moved"}),
}


@pytest.mark.parametrize("defect", COMPILED)
def test_a_defect_of_the_compiler_is_named(artifact: Artifact, tmp_path: Path, defect: str) -> None:
    flags, rules = COMPILED[defect]
    artifact.tree = build(tmp_path / "bad" / "tree", **flags)  # type: ignore[arg-type] # the table's flags fit
    assert artifact.pack().check(run="moved" in rules).rules == rules


def test_text_relocations_are_named(artifact: Artifact, tmp_path: Path) -> None:
    source = (
        'extern int printf(const char *, ...); __asm__(".text\\n.globl x\\nx: .quad printf");int greet(){return x();}'
    )
    artifact.tree = build(tmp_path / "bad" / "tree", library=["-Wl,-z,notext", "-w"], source=source)
    assert "textrel" in artifact.pack().check().rules


@pytest.mark.parametrize("kept", ["-Wl,-S", "-g"])
def test_symbols_left_behind_are_named(artifact: Artifact, tmp_path: Path, kept: str) -> None:
    artifact.tree = build(tmp_path / "bad" / "tree", strip=kept)
    report = artifact.pack().check()
    assert report.rules - {"leak"} == {"strip"}
    assert ("debug sections" in str(report.faults[0])) == (kept == "-g")


def edit(path: str, *keys: str, value: object) -> Callable[[Artifact], None]:
    """Change one value of a JSON file beside the archive, and digest it anew."""

    def spoil(artifact: Artifact) -> None:
        file = artifact.folder / path
        data = json.loads(file.read_text())
        place = data
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place[key]
        last: int | str = int(keys[-1]) if isinstance(place, list) else keys[-1]
        if value is None:
            del place[last]
        else:
            place[last] = value
        file.write_text(json.dumps(data))
        if path != "manifest.json":
            artifact.seal()

    return spoil


def drop(artifact: Artifact, file: str) -> None:
    """Take what has this name out of the SBOM."""
    path = artifact.folder / "sbom.cdx.json"
    data = json.loads(path.read_text())
    kept = [one for one in data["components"] if one["name"] != file]
    assert len(kept) == len(data["components"]) - 1
    data["components"] = kept
    path.write_text(json.dumps(data))
    artifact.seal()


def remove(name: str, *, seal: bool = False) -> Callable[[Artifact], None]:
    """Remove a file beside the archive; `seal`: the manifest knows."""

    def spoil(artifact: Artifact) -> None:
        (artifact.folder / name).unlink()
        if seal:
            artifact.seal()

    return spoil


def link(artifact: Artifact) -> None:
    (artifact.folder / "more").symlink_to("/etc/passwd")


SBOM, PROVENANCE, MANIFEST = "sbom.cdx.json", "provenance.intoto.json", "manifest.json"
SPOILT: dict[str, tuple[Callable[[Artifact], object], set[str]]] = {
    "changed beside": (lambda a: (a.folder / SBOM).write_text((a.folder / SBOM).read_text() + " "), {"digest"}),
    "not in the manifest": (lambda a: (a.folder / "more").write_text("x"), {"digest"}),
    "gone": (remove(SBOM), {"digest", "sbom"}),
    "a link beside": (link, {"digest"}),
    "size": (edit(MANIFEST, "files", RESULT, "size_bytes", value=1), {"digest"}),
    "leaf": (edit(MANIFEST, "tree", "bin/toy", "sha256", value="0" * 64), {"digest"}),
    "leaf's mode": (edit(MANIFEST, "tree", "bin/toy", "mode", value="0644"), {"digest"}),
    "leaf gone": (edit(MANIFEST, "tree", "bin/toy", value=None), {"digest"}),
    "leaf more": (edit(MANIFEST, "tree", "bin/other", value={"link": "toy"}), {"digest"}),
    "no manifest": (remove(MANIFEST), {"manifest"}),
    "half a manifest": (lambda a: (a.folder / MANIFEST).write_text('{"name":'), {"manifest"}),
    "manifest's form": (edit(MANIFEST, "files", RESULT, "sha256", value="abc"), {"manifest"}),
    "epoch": (edit(MANIFEST, "source_date_epoch", value=EPOCH + 1), {"mtime"}),
    "not verified": (edit(MANIFEST, "inputs", "sources", "toy", "verified", value=""), {"name"}),
    "a better name": (edit(MANIFEST, "verified", value=False), {"name"}),
    "liblxc": (edit(MANIFEST, "liblxc", value="system"), {"name"}),
    "sbom's form": (edit(SBOM, "components", "0", "type", value="thing"), {"sbom"}),
    "sbom's time": (edit(SBOM, "metadata", "timestamp", value="2020-01-01T00:00:00Z"), {"sbom"}),
    "sbom of another": (edit(SBOM, "metadata", "component", "hashes", "0", "content", value="0" * 64), {"sbom"}),
    "sbom is no JSON": (lambda a: ((a.folder / SBOM).write_text("{"), a.seal()), {"sbom"}),
    "sbom without patch": (lambda a: drop(a, "patches/toy.patch"), {"sbom"}),
    "sbom without source": (lambda a: drop(a, "toy"), {"sbom"}),
    "sbom without Go package": (lambda a: drop(a, "golang-toy-dev"), {"sbom"}),
    "sbom without Go module": (lambda a: drop(a, "example.invalid/mod"), {"sbom"}),
    "sbom without build dependency": (lambda a: drop(a, "gcc"), {"sbom"}),
    "sbom without library": (lambda a: drop(a, "lib/libgreet.so.1"), {"sbom"}),
    "subject": (edit(PROVENANCE, "subject", "0", "digest", "sha256", value="0" * 64), {"provenance"}),
    "other subject": (edit(PROVENANCE, "subject", "0", "name", value=SBOM), {"provenance"}),
    "type": (edit(PROVENANCE, "_type", value="https://example.invalid/"), {"provenance"}),
    "predicate": (edit(PROVENANCE, "predicateType", value="https://slsa.dev/provenance/v0.2"), {"provenance"}),
    "other build": (
        edit(PROVENANCE, "predicate", "runDetails", "metadata", "invocationId", value="x"),
        {"provenance"},
    ),
    "a time": (
        edit(PROVENANCE, "predicate", "runDetails", "metadata", "startedOn", value="2020-01-01T00:00:00Z"),
        {"provenance"},
    ),
    "material more": (
        edit(PROVENANCE, "predicate", "buildDefinition", "resolvedDependencies", "0", "name", value="x"),
        {"provenance"},
    ),
    "no provenance": (remove(PROVENANCE, seal=True), {"provenance"}),
    "wrong words": (edit(MANIFEST, "checks", "commands", "0", "prints", value="hello, nobody"), {"moved"}),
    "no command": (edit(MANIFEST, "checks", "commands", value=[]), {"moved"}),
    "wrong program": (edit(MANIFEST, "checks", "commands", "0", "run", value=["bin/other"]), {"moved"}),
    "a needed library": (edit(MANIFEST, "checks", "needed", "bin/*", value=["liblxc.so.1"]), {"needed"}),
    "needed of nothing": (edit(MANIFEST, "checks", "needed", "sbin/*", value=["libc.so.6"]), {"needed"}),
    "not bundled": (edit(MANIFEST, "libraries", "bundled", value=["libuv.so.1"]), {"needed"}),
    "forbidden text": (edit(MANIFEST, "checks", "absent", value=["made for"]), {"leak"}),
    "baked, not there": (edit(MANIFEST, "baked", value=[{"path": "/run/x", "reason": "y"}]), {"baked"}),
}


@pytest.mark.parametrize("defect", SPOILT)
def test_a_planted_defect_turns_its_rule_red(packed: Artifact, defect: str) -> None:
    spoil, rules = SPOILT[defect]
    spoil(packed)
    report = packed.check(run="moved" in rules)
    assert report.rules == rules, report.faults
    with pytest.raises(HapairError, match="faults:"):
        report.enforce()


LEAKS = ["/build/src/lxc.c", "/build/stage/x", "/opt/hapair/lib", "/tmp/go-build12/x", "{home}/x", "{project}/lab"]  # noqa: S108 - texts, not files


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leaked_path_is_named_with_its_file_unless_it_is_listed(
    artifact: Artifact, leak: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    text = leak.format(home="/home/somebody", project=Path(__file__).resolve().parents[3])
    (artifact.tree / "share" / "notes").write_text(f"see {text} there\n")
    report = artifact.pack().check()
    assert [(fault.rule, fault.file) for fault in report.faults] == [("leak", "share/notes")] * len(report.faults)
    assert text in str(report.faults[0])
    artifact.content["baked"] = [{"path": text, "reason": "only a note"}]
    assert artifact.pack().check().faults == []


def test_a_leak_in_a_compressed_page_is_found(artifact: Artifact) -> None:
    (artifact.tree / "share" / "toy.1.gz").write_bytes(gzip.compress(b"x" * 9999 + b" see /build/src/toy.c", mtime=0))
    assert [(fault.rule, fault.file) for fault in artifact.pack().check().faults] == [("leak", "share/toy.1.gz")]


def test_the_hosts_name_is_a_leak(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "buildbox7")
    (artifact.tree / "share" / "notes").write_text("on buildbox7.\n")
    assert [fault.rule for fault in artifact.pack().check().faults] == ["leak"]


def test_a_program_that_only_works_where_it_was_built_is_found_out(artifact: Artifact) -> None:
    script = artifact.tree / "bin" / "script"
    script.write_text('#!/bin/sh\ncase $0 in *" "*) echo lost >&2; exit 3;; esac; echo hello, there\n')
    script.chmod(0o755)
    artifact.content["checks"]["commands"] = [{"run": ["bin/script"], "prints": "hello, there"}]
    (fault, *_) = artifact.pack().check(run=True).faults
    assert (fault.rule, fault.file) == ("moved", "bin/script")
    assert "with blanks" in fault.what
    assert "exit code 3: lost" in fault.what


def test_the_environment_is_empty(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "xx_YY")
    artifact.content["checks"]["commands"] = [{"run": ["bin/script"], "prints": "[][]"}]
    script = artifact.tree / "bin" / "script"
    script.write_text('#!/bin/sh\necho "[$HOME][$LANG]"\n')
    script.chmod(0o755)
    assert artifact.pack().check(run=True).faults == []


def test_a_target_with_an_older_glibc_is_named(packed: Artifact) -> None:
    rules = lenient().model_copy(
        update={"targets": {"old": Target(symbols={"GLIBC": "2.2"}), "dim": Target(symbols={}, required=False)}}
    )
    report = packed.check(rules)
    assert report.rules == {"glibc"}
    assert "old has up to 2.2" in report.faults[0].what
    assert {"old: no", "dim: yes"} <= set(report.notes)


def test_an_exception_of_the_policy_holds_for_its_files_and_rules_alone(artifact: Artifact, tmp_path: Path) -> None:
    artifact.tree = build(tmp_path / "bad" / "tree", program=["-no-pie"], library=["-Wl,-z,norelro"])
    excuse = Except(files=("bin/*",), rules=("pie", "relro"), reason="a test")
    rules = lenient().model_copy(update={"exceptions": (excuse,)})
    assert artifact.pack().check(rules).rules == {"relro"}


def changed(entry: TarInfo, **fields: int) -> TarInfo:
    """As TarInfo.replace, which Debian 12's Python 3.11.2 lacks."""
    made = copy(entry)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_every_fault_is_told_at_once(artifact: Artifact) -> None:
    artifact.change = lambda entry: entry if entry.name.endswith("toy") else changed(entry, mtime=1, uid=7)
    (artifact.tree / "share" / "notes").write_text("/build/src/x")
    artifact.content["checks"]["absent"] = ["hello"]
    artifact.pack()
    (artifact.folder / "more").write_text("x")
    report = artifact.check()
    assert report.rules == {"mtime", "owner", "leak", "digest"}
    with pytest.raises(HapairError) as caught:
        report.enforce()
    assert caught.value.exit_code == 1
    assert all(str(fault) in caught.value.message for fault in report.faults)


def test_a_plain_file_has_its_digests_checked(packed: Artifact) -> None:
    edit(MANIFEST, "top", value=None)(packed)
    assert packed.check().faults == []
    packed.archive.write_bytes(b"other")
    assert packed.check().rules == {"digest"}


def test_a_folder_keeps_the_programs_link_to_the_tree(artifact: Artifact) -> None:
    (artifact.tree / "bin" / "alias").symlink_to("toy")
    artifact.content["checks"]["commands"] = [{"run": ["bin/alias", "x"], "prints": "hello, x"}]
    assert artifact.pack().check(run=True).faults == []


def test_setuid_needs_the_specs_word(artifact: Artifact) -> None:
    artifact.change = lambda entry: changed(entry, mode=0o4755) if entry.name.endswith("bin/toy") else entry
    artifact.pack()
    artifact.content["tree"]["bin/toy"]["mode"] = "4755"
    assert artifact.paper().check().rules == {"mode"}
    artifact.content["inputs"]["spec"]["install"] = {"modes": {"bin/toy": "4755"}}
    report = artifact.paper().check()
    assert report.faults == []
    assert "the spec asks for mode 4755 of bin/toy" in report.notes


def test_nothing_of_a_tampered_artifact_is_executed(artifact: Artifact, tmp_path: Path) -> None:
    script = artifact.tree / "bin" / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran; echo hello, there\n")
    script.chmod(0o755)
    artifact.content["checks"]["commands"] = [{"run": ["bin/script"], "prints": "hello, there"}]
    artifact.pack()
    edit(MANIFEST, "tree", "bin/script", "sha256", value="0" * 64)(artifact)
    report = artifact.check(run=True)
    assert report.rules == {"digest"}
    assert not (tmp_path / "ran").exists()
    assert artifact.seal().pack().check(run=True).faults == []
    assert (tmp_path / "ran").exists()
