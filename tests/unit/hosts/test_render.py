"""The rendered tree: golden, stable, complete, and saying what the failover rests on."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from hapair.config import load as load_config
from hypothesis import given, settings

from lab import proc
from lab.errors import BadInput, HapairError
from lab.hosts import render as renderer
from lab.hosts.render import HOSTFILES, TEMPLATES, Catalog, catalog, render, render_all, runtime_config, variables
from lab.hosts.site import Site
from lab.hosts.tree import File, Link, Tree
from lab.paths import PROJECT
from lab.yamlio import load_model
from tests.unit.hosts.sites import Data, example, example_site, load, put, valid

GOLDEN = PROJECT / "tests" / "golden" / "hosts"
UPDATE = "HAPAIR_UPDATE_GOLDEN"
# Stands for the archive of the host programs, whose bytes are no matter of the golden tree.
PROGRAMS = b"archive"


def tree(data: Data | None = None, node: str = "n1") -> Tree:
    return render(Site.model_validate(data) if data else example_site(), node, runtime=PROGRAMS)


def text(path: str, data: Data | None = None, node: str = "n1") -> str:
    entry = tree(data, node).entries[path]
    assert isinstance(entry, File)
    return entry.data.decode()


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_golden(node: str) -> None:
    """Byte for byte; HAPAIR_UPDATE_GOLDEN=1 writes the tree anew, and still fails so that nobody overlooks it."""
    rendered = tree(node=node)
    files = {path: it.data for path, it in rendered.entries.items() if isinstance(it, File) and it.data != PROGRAMS}
    folder, manifest = GOLDEN / node, GOLDEN / f"{node}.manifest"
    stored = {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if os.environ.get(UPDATE) == "1":
        for path in stored:
            (folder / path[1:]).unlink()
        for path, data in files.items():
            (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (folder / path[1:]).write_bytes(data)
        manifest.write_text(rendered.manifest())
        pytest.fail(f"{folder} is written anew: read the difference, then run the tests without {UPDATE}")
    assert stored.keys() == files.keys()
    for path, data in files.items():
        assert data.decode() == stored[path].decode(), f"{path} differs; {UPDATE}=1 accepts the new text"
    assert rendered.manifest() == manifest.read_text()


STABLE = """
import os, sys
os.umask(int(sys.argv[1], 8))
from pathlib import Path
from lab.hosts.render import render_all
from lab.hosts.site import load_site
from lab.hosts.tree import write
folder = Path(sys.argv[2])
trees = render_all(load_site(), runtime=b"archive")
write(trees, folder)
for path in sorted(folder.rglob("*")):
    print(path.relative_to(folder), oct(path.lstat().st_mode), path.lstat().st_mtime_ns)
for name, tree in trees.items():
    (folder.parent / (folder.name + name + ".tar")).write_bytes(tree.tar())
"""


@pytest.mark.spawns
def test_stable_whatever_the_process(tmp_path: Path) -> None:
    """The same bytes, modes and times for another hash seed, time zone, language and umask."""
    seen = []
    for name, umask, extra in (
        ("one", "022", {"PYTHONHASHSEED": "1", "TZ": "UTC"}),
        ("two", "077", {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kathmandu", "LANG": "tr_TR.UTF-8"}),
    ):
        done = proc.run(
            [sys.executable, "-c", STABLE, umask, tmp_path / name],
            limit_s=30,
            cwd=PROJECT,
            env={**extra, "PYTHONPATH": "."},
        )
        files = {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        tars = [(tmp_path / f"{name}{node}.tar").read_bytes() for node in ("n1", "n2")]
        seen.append((done.stdout, files, tars))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) > 30


@given(valid())
@settings(deadline=None, max_examples=30)
def test_random_sites_render(data: Data) -> None:
    site = Site.model_validate(data)
    for node, rendered in render_all(site, runtime=PROGRAMS).items():
        config = rendered.entries["/etc/hapair/hapair.json"]
        assert isinstance(config, File)
        assert json.loads(config.data)["node"] == node
        for name, resource in site.resources.items():
            unit = rendered.entries[f"/etc/systemd/system/{name}lxd.service"]
            assert isinstance(unit, File)
            assert f"\nEnvironment=LXD_DIR={resource.mount}/lxd\n" in unit.data.decode()
            assert resource.mount.startswith("/")
            assert f"/etc/systemd/system/{resource.mount_unit}" in rendered.entries
            assert rendered.entries[f"/usr/sbin/{name}"] == Link("/usr/lib/hapair/hapair.pyz")
        for path, entry in rendered.entries.items():
            if isinstance(entry, File) and entry.data != PROGRAMS:
                assert entry.data.endswith(b"\n"), path
                assert not re.search(rb"None|Undefined|\{\{|\{%|[ \t]\n|\n\n\n", entry.data), path


def test_the_programs_config_is_what_was_agreed() -> None:
    config = json.loads(text("/etc/hapair/hapair.json", node="n2"))
    assert config == {
        "pair": "example",
        "node": "n2",
        "peer": "n1",
        "nodes": {
            "n1": {"uuid": "6f1c7d0e-52a4-4c9b-9a0e-3d5b8f2e1a11", "crossover": "198.51.100.1", "lan": "192.0.2.11"},
            "n2": {"uuid": "c2b8e4f3-0d67-4f15-8b3c-91e6a7d04b22", "crossover": "198.51.100.2", "lan": "192.0.2.12"},
        },
        "store": {
            "kind": "http",
            "url": "http://192.0.2.20:8440",
            "credentials": "",
            "ca": "",
            "timeout_s": 1.0,
        },
        "times": {"selffence_s": 3.0, "grace_s": 7.5, "watch_s": 2.0, "stop_s": 20.0, "start_s": 60.0},
        "watchdog_s": 0.0,
        "resources": {
            "r0": {
                "minor": 0,
                "device": "/dev/drbd0",
                "mount": "/r0",
                "mount_unit": "r0.mount",
                "lxd_dir": "/r0/lxd",
                "pool": "/r0/pools",
                "lxd_unit": "r0lxd.service",
                "preferred": "n1",
                "lan_interface": "lan0",
                "addresses": ["192.0.2.88"],
            }
        },
    }


@pytest.mark.parametrize(
    "setting",
    [
        "fencing resource-and-stonith",
        "on-io-error call-local-io-error",
        "on-no-data-accessible suspend-io",
        "disk-flushes yes",
        "md-flushes yes",
        "protocol C",
        "allow-two-primaries no",
        "rr-conflict disconnect",
        "on-congestion block",  # no pull-ahead
        "wfc-timeout 1",
        "degr-wfc-timeout 1",
        "outdated-wfc-timeout 1",
        *(
            f'{name} "/usr/lib/hapair/{name}"'
            for name in ("fence-peer", "local-io-error", "pri-on-incon-degr", "split-brain")
        ),
    ],
)
def test_what_the_failover_rests_on(setting: str) -> None:
    lines = [line.strip() for line in text("/etc/drbd.d/global_common.conf").splitlines()]
    assert lines.count(f"{setting};") == 1
    assert [line for line in lines if line.startswith(setting.split(maxsplit=1)[0] + " ")] == [f"{setting};"]


def test_after_a_split_brain_a_human_decides_unless_the_site_says_otherwise(tmp_path: Path) -> None:
    def policies(site: Site) -> list[str]:
        entry = render(site, "n1", runtime=PROGRAMS).entries["/etc/drbd.d/r0.res"]
        assert isinstance(entry, File)
        return re.findall(r"after-sb-(.*);", entry.data.decode())

    assert policies(example_site()) == ["0pri disconnect", "1pri disconnect", "2pri disconnect"]
    chosen = {"zero_primaries": "discard-least-changes", "one_primary": "consensus"}
    site = load(tmp_path, put(example(), ("resources", "r0", "after_sb"), chosen))
    assert policies(site) == ["0pri discard-least-changes", "1pri consensus", "2pri disconnect"]
    with pytest.raises(BadInput, match="zero_primaries"):
        chosen = {"zero_primaries": "violently-as0p"}
        load(tmp_path, put(example(), ("resources", "r0", "after_sb"), chosen))


def test_every_handler_is_a_program() -> None:
    entries = tree().entries
    for path in re.findall(r'"(/usr/lib/hapair/[a-z-]+)"', text("/etc/drbd.d/global_common.conf")):
        assert entries[path] == Link("hapair.pyz")
    assert entries["/usr/lib/hapair/hapair.pyz"] == File(PROGRAMS, 0o755)


def test_both_nodes_have_one_drbd_configuration() -> None:
    for path in ("/etc/drbd.conf", "/etc/drbd.d/global_common.conf", "/etc/drbd.d/r0.res"):
        assert text(path, node="n1") == text(path, node="n2")


def test_the_secret_is_roots_alone() -> None:
    secret = example_site().resources["r0"].secret.encode()
    holding = {path: it.mode for path, it in tree().entries.items() if isinstance(it, File) and secret in it.data}
    assert holding == {"/etc/drbd.d/r0.res": 0o600}


def test_a_gateway_is_the_lans() -> None:
    data = put(example(), ("network", "gateway"), "192.0.2.1")
    assert "Gateway=192.0.2.1\n" in text("/etc/systemd/network/10-lan0.network", data)
    assert "Gateway" not in text("/etc/systemd/network/10-xover0.network", data)
    assert "Gateway" not in text("/etc/systemd/network/10-lan0.network")


def test_a_watchdog_is_left_to_the_agent() -> None:
    data = put(put(example(), ("times", "allow_no_watchdog"), False), ("times", "watchdog_s"), 10)
    data = put(data, ("times", "grace_s"), 18)
    assert json.loads(text("/etc/hapair/hapair.json", data))["watchdog_s"] == 10
    assert "RuntimeWatchdogSec=off\n" in text("/etc/systemd/system.conf.d/hapair.conf", data)
    assert "RuntimeWatchdogSec=off\n" in text("/etc/systemd/system.conf.d/hapair.conf")


def test_a_variable_that_there_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An error that names the template, not an empty string on a node."""
    for template in catalog().templates:
        (tmp_path / template.template).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / template.template).write_text("")
    (tmp_path / "etc" / "hosts").write_text("{{ site.nodes.n1.adress }}\n")
    monkeypatch.setattr(renderer, "TEMPLATES", tmp_path)
    with pytest.raises(HapairError, match=r"templates/etc/hosts: .*adress"):
        tree()


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ({"path": "/etc/hosts", "target": "/x"}, "two entries make /etc/hosts"),
        ({"path": "/x/{resource}", "target": "/x"}, "no name 'resource' here, only: none"),
        (
            {"path": "/x/{rsource}", "target": "/x", "each": "resource"},
            "no name 'rsource' here, only: mount_unit, resource",
        ),
    ],
)
def test_a_catalog_that_makes_no_tree(monkeypatch: pytest.MonkeyPatch, link: Data, said: str) -> None:
    faulty = Catalog.model_validate({**catalog().model_dump(), "links": [link]})
    monkeypatch.setattr(renderer, "catalog", lambda: faulty)
    with pytest.raises(HapairError, match=re.escape(said)):
        tree()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('mode: "0600"', "mode: 0600", "mode"),
        ('mode: "0600"', 'mode: "9999"', "mode"),
        ("reload: hostname", "reload: hope", "reload"),
        ("template: etc/hosts,", "template: etc/hosts, colour: red,", "colour: unknown key"),
        ("path: /etc/hosts", "path: etc/hosts", "path"),
    ],
)
def test_the_catalog_is_strict(tmp_path: Path, old: str, new: str, said: str) -> None:
    source = (HOSTFILES / "catalog.yaml").read_text()
    assert old in source
    (tmp_path / "catalog.yaml").write_text(source.replace(old, new, 1))
    with pytest.raises(BadInput, match=said):
        load_model(tmp_path / "catalog.yaml", Catalog)


def test_the_catalog_lists_every_template_once() -> None:
    found = sorted(str(path.relative_to(TEMPLATES)) for path in TEMPLATES.rglob("*") if path.is_file())
    assert sorted(it.template for it in catalog().templates) == found


def test_templates_mirror_their_destinations() -> None:
    for it in catalog().templates:
        plain = it.path.replace("{mount_unit}", "RESOURCE.mount")
        assert re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), plain) == f"/{it.template}"


def test_the_readme_is_complete() -> None:
    """One row a template: destination, an existing recipe row, and exactly the variables that it uses."""
    rows = {}
    for line in (HOSTFILES / "README.md").read_text().splitlines():
        if line.startswith("| `etc/"):
            template, destination, recipe, used = (cell.strip() for cell in line.strip("|").split("|"))
            assert re.fullmatch(r"R\d+( R\d+)*", recipe), line
            rows[template.strip("`")] = (destination.strip("`"), frozenset(re.findall(r"`(\w+)`", used)))
    assert rows == {it.template: (it.path, variables(it.template)) for it in catalog().templates}


@pytest.mark.parametrize(
    ("store", "more"),
    [
        ({"kind": "gcs", "bucket": "locks", "credentials": "/etc/hapair/key.json"}, {"prefix": "", "endpoint": ""}),
        (
            {"kind": "s3", "bucket": "locks", "prefix": "p/", "region": "eu-west-1", "credentials": "/etc/k.json"},
            {"endpoint": ""},
        ),
    ],
    ids=["gcs", "s3"],
)
def test_the_programs_read_each_kind_of_store(tmp_path: Path, store: dict[str, str], more: dict[str, str]) -> None:
    data = put(put(example(), ("store",), store), ("store", "timeout_s"), 2.0)
    config = tmp_path / "hapair.json"
    config.write_text(json.dumps(runtime_config(load(tmp_path, data), "n1")))
    read = load_config(config).store
    assert {key: getattr(read, key) for key in ("timeout_s", "ca", *store, *more)} == {
        "timeout_s": 2.0,
        "ca": "",
        **store,
        **more,
    }


LXD_UNIT = "/etc/systemd/system/r0lxd.service"


def test_lxd_of_our_own_build_runs_from_its_own_tree() -> None:
    """With its own liblxc, whose settings are in the tree, and whose mount point is made at the start."""
    chosen = {"spec": "lxd-5.0.2", "prefix": "/srv/Xq7"}
    own = text(LXD_UNIT, put(example(), ("programs",), {"artifact": chosen}))
    for line in (
        "ExecStart=/srv/Xq7/lxd-5.0.2/bin/lxd --group lxd",
        "ExecStop=/srv/Xq7/lxd-5.0.2/bin/lxd shutdown",
        "Environment=LXD_LXC_TEMPLATE_CONFIG=/srv/Xq7/lxd-5.0.2/share/lxc/config",
        "Environment=LXD_LXC_HOOK=/srv/Xq7/lxd-5.0.2/share/lxc/hooks",
        "ExecStartPre=/usr/bin/mkdir -p /run/hapair/lxc/rootfs",
    ):
        assert line in own
    system = text(LXD_UNIT, put(example(), ("programs",), {"artifact": {**chosen, "liblxc": "system"}}))
    assert "ExecStart=/srv/Xq7/lxd-5.0.2/bin/lxd" in system
    assert "LXD_LXC" not in system
