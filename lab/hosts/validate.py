"""Rendered files, read by the programs that will read them on the nodes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from lab import proc
from lab.errors import HapairError, HostLacks
from lab.hosts.tree import File, Tree, write

LIMIT_S = 20.0
# The nodes run the 8.4 module, whatever this machine has; drbd-utils 9.22 reads another grammar for each series.
DRBD_SERIES = "8.4.11"
# What units of any kind pull in; only their existence counts.
TARGETS = ("sysinit", "basic", "shutdown", "umount", "multi-user", "network", "local-fs")


class Unreadable(HapairError):
    """A rendered file that its program refuses."""


@dataclass(frozen=True)
class Verdict:
    """What one validator said about one node: `note` is empty when all was accepted, else why nothing was checked."""

    node: str
    validator: str
    files: int
    note: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.validator}: {self.note or f'{self.files} files accepted'}"


def validate(trees: Mapping[str, Tree]) -> list[Verdict]:
    """Give each rendered file to its validator; one that is not installed is a verdict that says so.

    Raises:
        Unreadable: at least one file was refused; the message holds every refusal.
    """
    verdicts: list[Verdict] = []
    refusals: list[str] = []
    for node, tree in trees.items():
        with tempfile.TemporaryDirectory(prefix="hapair-validate-") as name:
            write({node: tree}, Path(name) / "rendered")
            root = Path(name) / "rendered" / node
            for validator, check in VALIDATORS.items():
                paths = _paths(tree, validator)
                try:
                    said = check(node, root, paths)
                except HostLacks as error:
                    verdicts.append(Verdict(node, validator, 0, f"not checked: {error.message} ({error.hint})"))
                    continue
                verdicts.append(Verdict(node, validator, len(paths)))
                refusals.extend(f"{node}: {validator}: {line.replace(str(root), '')}" for line in said)
    if refusals:
        raise Unreadable("\n".join(refusals), "mend the site file or the template that made these")
    return verdicts


def _paths(tree: Tree, validator: str) -> list[str]:
    """The rendered paths whose catalog entry names `validator`."""
    return [path for path, entry in tree.entries.items() if isinstance(entry, File) and entry.validator == validator]


def _drbdadm(node: str, root: Path, paths: Sequence[str]) -> list[str]:
    program = proc.which("drbdadm", "drbd-utils")
    done = proc.run(
        [program, "-c", root / "etc/drbd.conf", "dump"],
        limit_s=LIMIT_S,
        env={"DRBD_DRIVER_VERSION_OVERRIDE": DRBD_SERIES, "__DRBD_NODE__": node},
        check=False,
    )
    # It announces __DRBD_NODE__ on standard error, in upper case.
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    refused = [line for line in said if "PRETENDING" not in line and "__DRBD_NODE__" not in line]
    if done.code and not refused:
        refused = [f"exit code {done.code}"]
    # A resource without a section for this node is passed over in silence.
    resources = [Path(path).stem for path in paths if path.endswith(".res")]
    missed = [name for name in resources if f"resource {name} on {node}: not ignored" not in done.text]
    return refused or [f"no resource {name} on this node" for name in missed]


def _systemd(_node: str, root: Path, paths: Sequence[str]) -> list[str]:
    program = proc.which("systemd-analyze", "systemd")
    _stand_ins(root, [root / path[1:] for path in paths])
    done = proc.run(
        [program, "verify", "--man=no", f"--root={root}", *(Path(path).name for path in paths)],
        limit_s=LIMIT_S,
        check=False,
    )
    # Unknown keys and sections are only warned of; here they are faults.
    refused = done.stderr.decode(errors="replace").splitlines()
    return refused or ([f"exit code {done.code}"] if done.code else [])


def _stand_ins(root: Path, units: Sequence[Path]) -> None:
    """Put empty targets and programs where the units expect those of a whole node."""
    folder = root / "usr/lib/systemd/system"
    folder.mkdir(parents=True, exist_ok=True)
    for target in TARGETS:
        (folder / f"{target}.target").write_text("[Unit]\nDescription=stand-in\n", encoding="utf-8")
    for unit in units:
        for line in unit.read_text(encoding="utf-8").splitlines():
            key, _, command = line.partition("=")
            if key.startswith("Exec") and command:
                program = root / command.lstrip("-@:+!").split()[0][1:]
                program.parent.mkdir(parents=True, exist_ok=True)
                program.unlink(missing_ok=True)
                program.write_text("#!/bin/sh\n", encoding="utf-8")
                program.chmod(0o755)


def _sysctl(_node: str, root: Path, paths: Sequence[str]) -> list[str]:
    program = proc.which("sysctl", "procps")
    refused: list[str] = []
    for path in paths:
        # --ignore: this machine has not the interfaces, perhaps not even the keys, of a node.
        done = proc.run([program, "--dry-run", "--ignore", f"--load={root}{path}"], limit_s=LIMIT_S, check=False)
        refused += done.stderr.decode(errors="replace").splitlines()
    return refused


def _json(_node: str, root: Path, paths: Sequence[str]) -> list[str]:
    return [said for path in paths for said in _parsed(root, path, json.loads)]


def _yaml(_node: str, root: Path, paths: Sequence[str]) -> list[str]:
    return [said for path in paths for said in _parsed(root, path, yaml.safe_load)]


def _parsed(root: Path, path: str, parse: Callable[[str], object]) -> list[str]:
    try:
        parse((root / path[1:]).read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        return [f"{path}: {error}"]
    return []


VALIDATORS: dict[str, Callable[[str, Path, Sequence[str]], list[str]]] = {
    "drbdadm": _drbdadm,
    "json": _json,
    "sysctl": _sysctl,
    "systemd": _systemd,
    "yaml": _yaml,
}
