"""Packages of any suite through a private apt root: the machine's own mirrors and keys, none of its state changed."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

from lab.build import runner
from lab.build.progress import Step
from lab.build.spec import AptPackage, DebSource, GoDeps
from lab.errors import HapairError
from lab.proc import CommandFailed

ETC = Path("/etc/apt")
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
# apt reads its proxies from here too; lab.proc hands on none of them by itself.
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
LIMIT_S = 900.0
HELPER = "/usr/lib/apt/apt-helper"
"""Downloads one file the way apt-get does, with its methods, proxies and checksums."""


@dataclass(frozen=True)
class Mirror:
    """An archive that the machine's settings name; `signed_by` is a keyring, an embedded key or empty."""

    uri: str
    signed_by: str = ""


class NotThere(HapairError):
    """One place does not have a source; the message says why."""


def mirrors(etc: Path = ETC, keyrings: tuple[Path, ...] = KEYRINGS) -> list[Mirror]:
    """Return the archives that may hold another suite: those the machine uses, else mmdebstrap's own default.

    Security archives hold updates of their own suites only, and are left out.
    """
    found = [mirror for mirror in _settings(etc) if "security" not in mirror.uri]
    if not found and (builtin := _builtin()):
        found = [Mirror(builtin)]
    keyring = next((str(path) for path in keyrings if path.exists()), "")
    unique: dict[str, Mirror] = {}
    for mirror in found:
        unique.setdefault(mirror.uri, Mirror(mirror.uri, mirror.signed_by or keyring))
    return list(unique.values())


def _settings(etc: Path) -> Iterator[Mirror]:
    parts = etc / "sources.list.d"
    for path in [etc / "sources.list", *sorted(parts.glob("*.list")), *sorted(parts.glob("*.sources"))]:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        yield from parse_deb822(text) if path.suffix == ".sources" else parse_lines(text)


def parse_lines(text: str) -> Iterator[Mirror]:
    """Read one-line entries, `deb [signed-by=KEYRING …] URI SUITE COMPONENT…` (sources.list(5))."""
    for line in text.splitlines():
        found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+\S+", line)
        if found:
            options = dict(pair.partition("=")[::2] for pair in (found[1] or "").split())
            yield from _archive(found[2], options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Mirror]:
    """Read stanzas with `Types:`, `URIs:`, `Signed-By:` … (sources.list(5), "DEB822-style format")."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields = {
            name.lower(): value.strip()
            for name, value in re.findall(r"^([\w-]+):[ \t]*((?:.*)(?:\n[ \t].*)*)", stanza, flags=re.MULTILINE)
        }
        if "deb" in fields.get("types", "").split() and fields.get("enabled", "yes").lower() not in ("no", "false"):
            for uri in fields.get("uris", "").split():
                yield from _archive(uri, fields.get("signed-by", ""))


def _archive(uri: str, signed_by: str) -> Iterator[Mirror]:
    # cdrom: needs a person; a flat "file:" archive has no suites, but it says so itself.
    if not uri.startswith("cdrom:"):
        yield Mirror(uri.rstrip("/"), signed_by)


def _builtin() -> str:
    """Return the mirror that mmdebstrap uses when it is given none, or nothing."""
    program = shutil.which("mmdebstrap")
    text = Path(program).read_text(encoding="utf-8", errors="replace") if program else ""
    found = re.search(r"\$mirror\s*=\s*'(\w+://[^']+)'", text)
    return found[1] if found else ""


@dataclass(frozen=True)
class Listed:
    """A file that a signed index lists: its address, its name, and the SHA-256 that it must have."""

    uri: str
    file: str
    size_bytes: int
    sha256: str


def download(
    package: AptPackage, mirror: Mirror, folder: Path, *, step: Step, stop: threading.Event | None = None
) -> tuple[Path, str]:
    """Download one package into `folder` and return its file and version; apt checks its signature and checksum.

    Raises:
        NotThere: that archive has no such suite, package or version, or did not answer.
    """
    root = _Root(folder, package.suite, mirror, "deb", step=step, stop=stop)
    root.run("update", "--error-on=any")
    root.run("download", f"{package.package}={package.version}" if package.version else package.package)
    debs = sorted(folder.glob("*.deb"))
    if len(debs) != 1:
        raise NotThere("apt-get download left no package behind")
    return debs[0], version_of(debs[0].name)


def source(
    wanted: DebSource, mirror: Mirror, folder: Path, *, step: Step, stop: threading.Event | None = None
) -> tuple[Path, str]:
    """Download one file of a source package into `folder` and return it and the package's version.

    apt checks the index's signature, and the file against the index.

    Raises:
        NotThere: that archive has no such suite, package, version or file, or did not answer.
    """
    root = _Root(folder, wanted.suite, mirror, "deb-src", step=step, stop=stop)
    root.run("update", "--error-on=any")
    name = f"{wanted.package}={wanted.version}" if wanted.version else wanted.package
    files = parse_uris(root.ask("source", "--print-uris", "--only-source", name))
    found = [one for one in files if (one.file == wanted.file if wanted.file else ".orig.tar." in one.file)]
    # "orig.tar.gz.asc" is a signature.
    found = [one for one in found if wanted.file or not one.file.endswith(".asc")]
    if len(found) != 1:
        raise NotThere(f"its index lists {', '.join(one.file for one in files) or 'nothing'}")
    (one,) = found
    root.run("download-file", one.uri, str(folder / one.file), f"SHA256:{one.sha256}", program=HELPER)
    dsc = next((file.file for file in files if file.file.endswith(".dsc")), "")
    return folder / one.file, version_of(dsc.removesuffix(".dsc") + "_")


def closure(wanted: GoDeps, mirror: Mirror, folder: Path, *, step: Step, stop: threading.Event | None = None) -> None:
    """Download packages, and those that they depend on, into `folder`; apt checks signature and checksums.

    Raises:
        NotThere: that archive has no such suite, lacks one of the packages, or did not answer.
    """
    root = _Root(folder, wanted.suite, mirror, "deb", step=step, stop=stop)
    root.run("update", "--error-on=any")
    listed = parse_uris(root.ask("install", "--print-uris", "--yes", "--no-install-recommends", *wanted.packages))
    parts = [one.file.split("_") for one in listed]
    taken = [part for part in parts if part[0] in wanted.packages or fnmatch(part[0], wanted.only)]
    if not taken:
        raise NotThere(f"none of the packages is called {wanted.only}")
    root.run("download", *(f"{name}={unquote(version)}" for name, version, *_ in taken))


def parse_uris(text: str) -> list[Listed]:
    """Read what `apt-get --print-uris` says: 'URI' FILE SIZE HASH (apt-get(8))."""
    lines = re.findall(r"^'([^']+)' (\S+) (\d+) ?(?:SHA256:([0-9a-f]{64}))?", text, flags=re.MULTILINE)
    return [Listed(uri, file, int(size), sha256) for uri, file, size, sha256 in lines]


def version_of(file: str) -> str:
    """Return the version in the name of a package's file (NAME_VERSION_ARCH.deb), its colon spelled out again."""
    return unquote(file.split("_")[1]) if file.count("_") > 1 else ""


class _Root:
    """A private apt root in a folder: it knows one suite of one archive."""

    def __init__(
        self, folder: Path, suite: str, mirror: Mirror, kind: str, *, step: Step, stop: threading.Event | None
    ) -> None:
        self.folder, self.suite, self.step, self.stop = folder, suite, step, stop
        self.options = _private_root(folder / "apt", suite, mirror, kind)
        self.env = {name: os.environ[name] for name in PROXIES if name in os.environ}
        self.log = folder / "apt.log"

    def _watch(self) -> None:
        done = sum(path.stat().st_size for path in self.folder.iterdir() if path.is_file() and path.suffix != ".log")
        self.step.note(f"{done / 1e6:.0f} MB" if done else f"asking for {self.suite}")

    def run(self, *words: str, program: str = "apt-get", log: Path | None = None) -> None:
        """Run apt in the folder.

        Raises:
            NotThere: it failed; the message is its own.
        """
        argv = [program, *self.options, *words]
        if program == HELPER:
            argv.remove("-q")  # it knows no such option
        log = log or self.log
        try:
            runner.run(argv, cwd=self.folder, env=self.env, log=log, limit_s=LIMIT_S, watch=self._watch, stop=self.stop)
        except CommandFailed:
            raise NotThere(_complaints(log)) from None

    def ask(self, *words: str) -> str:
        """Run apt and return what it says; raises as `run` does."""
        log = self.folder / "uris.log"
        self.run(*words, log=log)
        return log.read_text(encoding="utf-8", errors="replace")


def _private_root(root: Path, suite: str, mirror: Mirror, kind: str) -> list[str]:
    for part in ("state/lists/partial", "cache/archives/partial", "sources.list.d"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    stanza = f"Types: {kind}\nURIs: {mirror.uri}\nSuites: {suite}\nComponents: main\n"
    if mirror.signed_by:
        stanza += f"Signed-By: {mirror.signed_by}\n"
    (root / "sources.list.d" / "private.sources").write_text(stanza, encoding="utf-8")
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(root / "sources.list.d"),
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": str(root / "state"),
        "Dir::State::status": str(root / "status"),
        "Dir::Cache": str(root / "cache"),
        "Acquire::Languages": "none",
        # A place that is silent must not keep the next one waiting for minutes.
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "15",
        "Acquire::https::Timeout": "15",
        "APT::Update::Post-Invoke": "",
        "APT::Update::Post-Invoke-Success": "",
    }
    # Root's apt would switch to its own user, which may not enter the cache folder.
    settings |= {"APT::Sandbox::User": "root"} if os.geteuid() == 0 else {}
    return ["-q", *(word for pair in settings.items() for word in ("-o", "=".join(pair)))]


def _complaints(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    told = [line for line in lines if line.startswith(("E:", "Err:"))]
    return "; ".join(dict.fromkeys(told[-3:])) or "apt-get failed and did not say why"
