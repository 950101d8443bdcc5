"""Packages of any suite through a private apt root: the machine's own mirrors and keys, none of its state changed."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.build import runner
from lab.build.progress import Step
from lab.build.spec import AptPackage
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


def download(
    package: AptPackage, mirror: Mirror, folder: Path, *, step: Step, stop: threading.Event | None = None
) -> tuple[Path, str]:
    """Download one package into `folder` and return its file and version; apt checks its signature and checksum.

    Raises:
        NotThere: that archive has no such suite or package, or did not answer.
    """
    root = folder / "apt"
    options = _private_root(root, package.suite, mirror)
    env = {name: os.environ[name] for name in PROXIES if name in os.environ}
    log = folder / "apt.log"

    def apt(*words: str, cwd: Path) -> None:
        def watch() -> None:
            done = sum(path.stat().st_size for path in folder.glob("*.deb*"))
            step.note(f"{package.package}: {done / 1e6:.0f} MB" if done else f"asking for {package.suite}")

        argv = ["apt-get", *options, *words]
        runner.run(argv, cwd=cwd, env=env, log=log, limit_s=LIMIT_S, watch=watch, stop=stop)

    try:
        apt("update", "--error-on=any", cwd=root)
        apt("download", package.package, cwd=folder)
    except CommandFailed:
        raise NotThere(_complaints(log)) from None
    debs = sorted(folder.glob("*.deb"))
    if len(debs) != 1:
        raise NotThere("apt-get download left no package behind")
    return debs[0], debs[0].name.split("_")[1].replace("%3a", ":")


def _private_root(root: Path, suite: str, mirror: Mirror) -> list[str]:
    for part in ("state/lists/partial", "cache/archives/partial", "sources.list.d"):
        (root / part).mkdir(parents=True, exist_ok=True)
    (root / "status").touch()
    stanza = f"Types: deb\nURIs: {mirror.uri}\nSuites: {suite}\nComponents: main\n"
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
