"""What tells which Go modules went in: vendor/modules.txt, _dist/MANIFEST, and the files of Debian's packages."""

from __future__ import annotations

from lab.build import gomodules

VENDOR = """\
# github.com/canonical/go-dqlite v1.11.0
## explicit; go 1.16
github.com/canonical/go-dqlite
github.com/canonical/go-dqlite/client
# github.com/Rican7/retry v0.3.1
# gopkg.in/lxc/go-lxc.v2 v2.0.0-20210205143421-c4b883be4881
# github.com/old/name v1.0.0 => github.com/new/name v1.2.0
# github.com/old/local v1.0.0 => ../local
# github.com/old/any => github.com/new/any v0.1.0
"""
MANIFEST = f"""\
./deps/dqlite: {"a" * 40}
./src/github.com/gorilla/mux: {"b" * 40}
./src/gopkg.in/yaml.v2: {"c" * 40}
nonsense
"""


def test_vendored_modules_are_read_with_their_replacements() -> None:
    assert gomodules.parse(VENDOR) == {
        "github.com/Rican7/retry": "v0.3.1",
        "github.com/canonical/go-dqlite": "v1.11.0",
        "github.com/new/name": "v1.2.0",
        "github.com/old/local": "v1.0.0",
        "gopkg.in/lxc/go-lxc.v2": "v2.0.0-20210205143421-c4b883be4881",
    }


def test_commits_of_a_release_tarball_are_read() -> None:
    assert gomodules.parse(MANIFEST) == {
        "deps/dqlite": "a" * 40,
        "github.com/gorilla/mux": "b" * 40,
        "gopkg.in/yaml.v2": "c" * 40,
    }


def test_a_packages_files_tell_its_repositories() -> None:
    files = [
        "github.com/gorilla/mux/mux.go",
        "github.com/gorilla/mux/deep/x.go",
        "golang.org/x/sys/unix/a.go",
        "golang.org/x/sys/windows/b.go",
        "gopkg.in/yaml.v2/yaml.go",
        "gopkg.in/yaml.v2/sub/z.go",
        "k8s.io/utils/clock/c.go",
        "github.com/gorilla/README",
    ]
    roots = ["github.com/gorilla/mux", "golang.org/x/sys", "gopkg.in/yaml.v2", "k8s.io/utils/clock"]
    assert gomodules.roots(files) == roots
