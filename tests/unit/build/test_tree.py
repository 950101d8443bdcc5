"""Trees: a library and a program that needs it, built, merged, relocated and run from wherever they are unpacked."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import paths, proc
from lab.build import archive, manifest, relocate, sandbox, unpack
from lab.build.engine import cached, ensure
from lab.build.manifest import Artifact
from lab.build.runner import Stopped
from lab.build.surroundings import Surroundings
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks
from lab.proc import CommandFailed
from tests.unit.build.conftest import Shown

pytestmark = pytest.mark.spawns

WORDS = """\
name: words
release: "2.1"
about: a word
sources:
  words:
    places:
      - file: {folder}/words-2.1.tar
    sha256: {sha256}
    strip: 1
tools: [gcc]
env: {{CFLAGS: "-g -O2 -ffile-prefix-map={{src}}=."}}
steps:
  - name: compile
    run: [sh, -c, "gcc $CFLAGS -shared -fPIC -Wl,-soname,libwords.so.1 -o {{work}}/libwords.so.1 words.c"]
  - name: install
    run:
      - sh
      - -c
      - |
        mkdir -p {{tree}}/lib {{tree}}/include {{tree}}/share
        cp {{work}}/libwords.so.1 {{tree}}/lib; ln -s {{prefix}}/lib/libwords.so.1 {{tree}}/lib/libwords.so
        cp words.h {{tree}}/include; echo prefix={{prefix}} >{{tree}}/lib/words.pc; echo >{{tree}}/lib/libwords.la
install:
  exclude: ["**/*.la"]
  substitute:
    - {{files: [lib/words.pc], old: "{{prefix}}", new: "${{{{pcfiledir}}}}/.."}}
  strip: ["lib/*.so*"]
rpath: {{}}
libraries: {{system: [libc.so.6]}}
"""
HELLO = """\
name: hello
release: "1.0"
about: a greeting
sources:
  hello:
    places:
      - file: {folder}/hello-1.0.tar
    sha256: {sha256}
    strip: 1
    patches:
      - {{file: patches/louder.patch, sha256: {patch}}}
tools: [gcc]
needs:
  words: {{spec: words-2.1, merge: ["lib/libwords.so*"]}}
steps:
  - name: compile
    run:
      - sh
      - -c
      - >-
        gcc -g -O2 -ffile-prefix-map={{src}}=. -ffile-prefix-map={{deps.words}}=words -I{{deps.words}}/include
        -Wl,-rpath,/nowhere -o {{work}}/hello hello.c -L{{deps.words}}/lib -lwords
  - name: install
    run: [install, -D, "{{work}}/hello", "{{tree}}/bin/hello"]
install:
  symlinks: {{bin/hi: hello}}
  modes: {{bin/hello: "4755"}}
  strip: ["bin/*"]
rpath: {{"bin/*": "$ORIGIN/../lib"}}
libraries: {{bundled: [libwords.so.1], system: [libc.so.6]}}
checks:
  commands:
    - {{run: [bin/hello], prints: HELLO}}
"""
PATCH = """\
--- a/hello.c
+++ b/hello.c
@@ -1,3 +1,3 @@
 #include <stdio.h>
 #include "words.h"
-int main(void) { puts(word(0)); return 0; }
+int main(void) { puts(word(1)); return 0; }
"""
FILES = {
    "words": {
        "words.c": 'const char *word(int loud) { return loud ? "HELLO" : "hello"; }\n',
        "words.h": "const char *word(int loud);\n",
    },
    "hello": {"hello.c": '#include <stdio.h>\n#include "words.h"\nint main(void) { puts(word(0)); return 0; }\n'},
}


@dataclass
class Trees:
    """The specs of both, their sources, and the cache that they are built into."""

    folder: Path
    specs: Path
    cache: Path

    def pack(self, name: str) -> str:
        """Pack a source and return its SHA-256."""
        release = {"words": "2.1", "hello": "1.0"}[name]
        file = self.folder / f"{name}-{release}.tar"
        archive.pack(self.folder / name, file, top=f"{name}-{release}", epoch=0, compress=False)
        return archive.digest(file)

    def write(self) -> None:
        patch = self.specs / "patches" / "louder.patch"
        for name, release, text in (("words", "2.1", WORDS), ("hello", "1.0", HELLO)):
            filled = text.format(folder=self.folder, sha256=self.pack(name), patch=archive.digest(patch))
            (self.specs / f"{name}-{release}.yaml").write_text(filled)

    def edit(self, spec: str, old: str, new: str) -> None:
        path = self.specs / f"{spec}.yaml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def begun(self) -> bool:
        return any((room / "work" / "begun").exists() for room in self.rooms())

    def rooms(self) -> list[Path]:
        return list((self.cache / "hapair" / "scratch").glob("*/*"))


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trees:
    made = Trees(tmp_path / "sources", tmp_path / "buildspecs", tmp_path / "cache")
    (made.specs / "patches").mkdir(parents=True)
    (made.specs / "patches" / "louder.patch").write_text(PATCH)
    for name, files in FILES.items():
        (made.folder / name).mkdir(parents=True)
        for file, text in files.items():
            (made.folder / name / file).write_text(text)
    made.write()
    monkeypatch.setattr("lab.build.spec.folder", lambda: made.specs)
    monkeypatch.setattr("lab.build.fetch.folder", lambda: made.specs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.cache))
    return made


def unpacked(made: Artifact, into: Path) -> Path:
    unpack.unpack(made.path, into)
    return into / str(made.content["top"])


@pytest.mark.usefixtures("trees")
def test_what_was_built_runs_from_any_folder_and_brings_its_library(shown: Shown, tmp_path: Path) -> None:
    made = ensure("hello-1.0", shown)
    tree = unpacked(made, tmp_path / "some where")
    assert proc.run([tree / "bin" / "hi"], limit_s=10).text == "HELLO"
    assert relocate.run_paths(tree / "bin" / "hello") == relocate.Paths("", "$ORIGIN/../lib")
    assert (tree / "lib" / "libwords.so").readlink() == Path("libwords.so.1")
    assert sorted(made.content["tree"]) == ["bin/hello", "bin/hi", "lib/libwords.so", "lib/libwords.so.1"]
    assert made.content["tree"]["bin/hello"]["mode"] == "4755"
    assert sorted(path.name for path in made.folder.iterdir()) == [
        f"hello-1.0-{made.content['arch']}.tar.zst",
        "manifest.json",
        "provenance.intoto.json",
        "sbom.cdx.json",
    ]


def test_a_library_keeps_its_headers_and_loses_its_prefix(trees: Trees, shown: Shown, tmp_path: Path) -> None:
    tree = unpacked(ensure("words-2.1", shown), tmp_path / "words")
    assert (tree / "lib" / "words.pc").read_text() == "prefix=${pcfiledir}/..\n"
    assert (tree / "include" / "words.h").is_file()
    assert not (tree / "lib" / "libwords.la").exists()
    assert b".debug_info" not in (tree / "lib" / "libwords.so.1").read_bytes()
    assert trees.rooms() == []


def test_other_surroundings_make_the_same_bytes(
    shown: Shown, trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ensure("hello-1.0", shown)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    around = Surroundings(root="/elsewhere", prefix="/usr/share/x", umask=0o077, home="/h", uid=1234, jobs=1)
    second = ensure("hello-1.0", shown, surroundings=around)
    assert second.sha256 == first.sha256
    assert (second.folder / "manifest.json").read_bytes() == (first.folder / "manifest.json").read_bytes()
    assert trees.rooms() == []


def test_a_changed_need_changes_the_key_of_what_needs_it(trees: Trees, shown: Shown) -> None:
    first = ensure("hello-1.0", shown)
    trees.edit("words-2.1", "-g -O2", "-g -O1")
    second = ensure("hello-1.0", shown)
    assert second.key != first.key
    assert second.content["inputs"]["needs"]["words"]["key"] != first.content["inputs"]["needs"]["words"]["key"]


def test_each_need_is_built_once_and_an_old_one_serves(trees: Trees, shown: Shown) -> None:
    words = ensure("words-2.1", shown)
    (trees.folder / "words-2.1.tar").unlink()
    shutil.rmtree(trees.cache / "hapair" / "scratch", ignore_errors=True)
    shown.titles.clear()
    ensure("hello-1.0", shown)
    assert not [title for title in shown.titles if title.startswith("words-2.1")]
    assert cached("words-2.1") == words


def test_a_circle_of_needs_is_named(trees: Trees, shown: Shown) -> None:
    trees.edit("words-2.1", "steps:", "needs:\n  hello: {spec: hello-1.0}\nsteps:")
    with pytest.raises(BadInput, match=r"each other: hello-1\.0 → words-2\.1 → hello-1\.0"):
        ensure("hello-1.0", shown)


def test_a_failed_build_goes_on_at_the_failed_step(trees: Trees, shown: Shown) -> None:
    # The same command succeeds the second time: nothing of the inputs changes between the two runs.
    trees.edit(
        "words-2.1",
        '    run: [sh, -c, "gcc',
        '    run: [sh, -c, "test -e {cache}/again || {{ touch {cache}/again; echo so bad; exit 3; }}; gcc',
    )
    trees.edit("words-2.1", "steps:", "steps:\n  - name: first\n    run: [touch, '{work}/first']")
    with pytest.raises(CommandFailed, match="so bad"):
        ensure("words-2.1", shown)
    assert len(trees.rooms()) == 1
    shown.titles.clear()
    ensure("words-2.1", shown)
    assert [title for title in shown.titles if "first" in title or "unpack" in title] == []
    assert trees.rooms() == []


def test_a_killed_build_begins_anew(trees: Trees, shown: Shown) -> None:
    trees.edit("words-2.1", 'run: [sh, -c, "gcc', 'run: [sh, -c, "touch {work}/begun; sleep 1000; gcc')
    stop = threading.Event()

    def build() -> None:
        with pytest.raises(Stopped):
            ensure("words-2.1", shown, stop=stop)

    thread = threading.Thread(target=build)
    thread.start()
    wait_until(
        "the step runs", lambda: [r for r in trees.rooms() if (r / "work" / "begun").exists()], Deadline.after(20)
    )
    stop.set()
    thread.join(20)
    assert trees.rooms() == []


def test_a_patch_that_is_not_the_one_meant_is_refused(trees: Trees, shown: Shown) -> None:
    patch = trees.specs / "patches" / "louder.patch"
    right = archive.digest(patch)
    patch.write_text(PATCH.replace("word(1)", "word(2)"))
    with pytest.raises(BadInput) as caught:
        ensure("hello-1.0", shown)
    assert right in caught.value.message
    assert archive.digest(patch) in caught.value.message


def test_a_patch_that_does_not_apply_is_named(trees: Trees, shown: Shown) -> None:
    (trees.folder / "hello" / "hello.c").write_text('#include "words.h"\nint main(void) { return !word(0); }\n')
    trees.write()
    with pytest.raises(HapairError, match=r"patches/louder\.patch does not apply to hello"):
        ensure("hello-1.0", shown)


def test_the_sandbox_has_no_network_and_sees_none_of_this_machine(trees: Trees, shown: Shown) -> None:
    mark = trees.folder / "mark"
    mark.touch()
    trees.edit(
        "words-2.1",
        "steps:",
        "steps:\n"
        "  - name: look\n"
        f'    run: [sh, -ec, \'! test -e {mark}; test $(grep -c : /proc/net/dev) = 1; test -z "$XDG_CACHE_HOME"; '
        "test $(hostname) = hapair; test $(umask) = 0022; ! touch /usr/x']",
    )
    assert ensure("words-2.1", shown).verified


def test_a_machine_without_sandbox_builds_nothing(
    trees: Trees, shown: Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sandbox.require.cache_clear()
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "bwrap").write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n")
    (fake / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake}:/usr/bin:/bin")
    with pytest.raises(HostLacks, match="uid map: Permission denied") as caught:
        ensure("words-2.1", shown)
    assert "user namespaces" in caught.value.hint
    assert not manifest.shelf().exists()
    assert trees.rooms() == []


def test_a_given_folder_is_packed_and_marked(trees: Trees, shown: Shown) -> None:
    (trees.folder / "words" / ".git").mkdir()
    (trees.folder / "words" / ".git" / "x").touch()
    (trees.folder / "words" / "words.c").write_text('const char *word(int loud) { return loud ? "AYE" : "aye"; }\n')
    made = ensure("hello-1.0", shown, sources={"words": trees.folder / "words"})
    assert not made.verified
    assert made.path.name.endswith("-unverified.tar.zst")
    assert made.folder.name.endswith("-unverified")
    again = ensure("hello-1.0", shown, sources={"words": trees.folder / "words"})
    assert again == made
    # What was given once is not taken unasked later.
    assert ensure("hello-1.0", shown).verified


def test_every_source_that_is_missing_is_told_at_once(trees: Trees, shown: Shown) -> None:
    for name in ("words-2.1", "hello-1.0"):
        (trees.folder / f"{name}.tar").unlink()
    with pytest.raises(HostLacks) as caught:
        ensure("hello-1.0", shown)
    for name in ("words-2.1", "hello-1.0"):
        assert f"file {trees.folder}/{name}.tar: no such file" in caught.value.message
    assert "invoke build.one hello-1.0 --source words=FILE --source hello=FILE" in caught.value.hint


def test_the_manifest_names_no_place_of_this_machine(trees: Trees, shown: Shown) -> None:
    made = ensure("hello-1.0", shown, sources={"hello": trees.folder / "hello-1.0.tar"})
    text = json.dumps(made.content)
    assert str(trees.cache) not in text
    assert made.verified
    assert made.content["inputs"]["patches"] == {
        "patches/louder.patch": archive.digest(trees.specs / "patches" / "louder.patch")
    }


FAULTS = [
    ("words-2.1", 'old: "{prefix}"', 'old: "{prefix}/nowhere"', r"lib/words\.pc does not hold"),
    ("words-2.1", "files: [lib/words.pc]", "files: [lib/*.none]", r"no file matches lib/\*\.none"),
    ("words-2.1", "echo >{tree}/lib/libwords.la", "echo >{stage}/stray", "installed stray outside"),
    ("words-2.1", "ln -s {prefix}/lib/libwords.so.1", "ln -s /etc/passwd", "leads to /etc/passwd"),
    ("hello-1.0", 'merge: ["lib/libwords.so*"]', "merge: [lib/none]", "lib/none matches nothing"),
    ("hello-1.0", 'modes: {bin/hello: "4755"}', 'modes: {bin/none: "4755"}', "no file matches bin/none"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[-1])
def test_a_rule_that_has_nothing_to_work_on_is_an_error(
    trees: Trees, shown: Shown, fault: tuple[str, str, str, str]
) -> None:
    spec, old, new, says = fault
    trees.edit(spec, old, new)
    with pytest.raises(HapairError, match=says):
        ensure(spec, shown)
    assert not list(manifest.shelf().glob(f"{spec}*"))


SYSTEM = """\
system_liblxc: {need: words, build_deps: [], libraries: [libwords.so.1]}
steps:
"""


def test_the_distributions_library_is_used_only_when_asked_and_then_named(trees: Trees, shown: Shown) -> None:
    trees.edit("hello-1.0", "steps:\n", SYSTEM)
    trees.edit("hello-1.0", "hello.c -L{deps.words}/lib -lwords", '-x c -DSYSTEM="{deps.words}" /dev/null -r')
    own = ensure("hello-1.0", shown)
    shown.titles.clear()
    system = ensure("hello-1.0", shown, liblxc="system")
    assert (own.content["liblxc"], system.content["liblxc"]) == ("own", "system")
    assert own.key != system.key
    assert system.folder.name.endswith("-liblxc-system")
    assert system.path.name.endswith("-liblxc-system.tar.zst")
    assert "needs" not in system.content["inputs"]
    assert system.content["libraries"] == {"bundled": [], "system": ["libc.so.6", "libwords.so.1"]}
    assert [title for title in shown.titles if "words" in title] == []
    assert cached("hello-1.0", liblxc="system") == system
    with pytest.raises(BadInput, match=r"words-2\.1 does not link against liblxc"):
        ensure("words-2.1", shown, liblxc="system")


ON_A_SMALL_DISK = """\
import sys
from lab import log
from lab.build import ensure, fetch, spec
from lab.errors import HapairError
from pathlib import Path
spec.folder = fetch.folder = lambda: Path(sys.argv[1])
try:
    ensure("words-2.1", log.silent())
except HapairError as error:
    print(error)
    sys.exit(int(error.exit_code))
"""


@pytest.mark.parametrize("at", ["fetch", "unpack", "step"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(trees: Trees, at: str) -> None:
    if at != "step":
        (trees.folder / "words" / "large").write_bytes(bytes({"fetch": 9 << 20, "unpack": 3 << 20}[at]))
        trees.write()
    else:
        trees.edit("words-2.1", 'sh, -c, "gcc', 'sh, -c, "head -c 9M /dev/zero >{work}/large || exit 1; gcc')
    trees.cache.mkdir()
    look = f"find {trees.cache}/hapair -path '*artifacts*' -o -path '*scratch/*'"
    mount = f'mount -t tmpfs -o size=4m none {trees.cache} && {{ {sys.executable} -c "$0" {trees.specs}; {look}; }}'
    done = proc.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, ON_A_SMALL_DISK],
        limit_s=50,
        env={"XDG_CACHE_HOME": str(trees.cache), "PYTHONPATH": str(paths.PROJECT)},
        check=False,
    )
    said, _, left = done.text.partition("larger disk")
    says = {"fetch": "fetching source-words: No space", "unpack": "words-2.1.tar: No space", "step": "the disk is full"}
    assert says[at] in said
    assert done.code == 0, "look itself failed"
    assert "scratch/" not in left
    assert "artifacts" not in left


CONFIGURE = """\
steps:
  - name: configure
    run: [sh, -c, "cat words.h >{work}/configured; date +%N >>{work}/configured; touch {work}/ran"]
    reads: [words.h]
  - name: look
    run: [cp, "{work}/configured", "{cache}/"]
"""


def configured(trees: Trees) -> str:
    (file,) = (trees.cache / "hapair" / "warm").glob("words-2.1-*/configured")
    return file.read_text()


def test_a_step_that_reads_nothing_new_is_not_run_again(trees: Trees, shown: Shown) -> None:
    trees.edit("words-2.1", "steps:\n", CONFIGURE)
    source = trees.folder / "words"
    ensure("words-2.1", shown, sources={"words": source})
    first = configured(trees)
    (source / "words.c").write_text('const char *word(int loud) { return loud ? "AYE" : "aye"; }\n')
    again = ensure("words-2.1", shown, sources={"words": source})
    assert configured(trees) == first
    assert not again.verified
    (source / "words.h").write_text("const char *word(int very_loud);\n")
    ensure("words-2.1", shown, sources={"words": source})
    assert configured(trees) != first
    assert "very_loud" in configured(trees)


def test_other_surroundings_run_every_step(trees: Trees, shown: Shown) -> None:
    trees.edit("words-2.1", "steps:\n", CONFIGURE)
    ensure("words-2.1", shown)
    first = configured(trees)
    shutil.rmtree(manifest.shelf())
    ensure("words-2.1", shown, surroundings=Surroundings(prefix="/elsewhere"))
    assert configured(trees) != first


def test_compiler_caches_of_old_specs_go(trees: Trees, shown: Shown) -> None:
    for level in ("-O0", "-O1", "-O2", "-O3"):
        text = (trees.specs / "words-2.1.yaml").read_text()
        (trees.specs / "words-2.1.yaml").write_text(re.sub(r"-O\d", level, text))
        ensure("words-2.1", shown)
    assert len(list((trees.cache / "hapair" / "warm").glob("words-2.1-*"))) == 2
