"""F11: a setting that breaks the protocol is refused by name, and the agent does not serve with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hapair import cli, preflight, proc, settings_check
from hapair.fence.site import fence_of
from hapair.fencing import no_guard

from .conftest import Host
from .fakes import SAMPLES, Machine
from .test_agent import Running

DUMP = (SAMPLES / "dump.xml").read_text()
IN_FORCE = """\
resource r0 {
    options { }
    net {
        cram-hmac-alg   \t"sha256";
        shared-secret   \t"change-me-before-use-7d1f";
    }
    options {
        on-no-data-accessible\tsuspend-io;
    }
    _this_host {
        volume 0 {
            disk {
                on-io-error     \tcall-local-io-error;
                fencing         \tresource-and-stonith;
            }
        }
    }
}
"""


def refused(xml: str) -> list[str]:
    return [one.check for one in settings_check.judge(settings_check.parse(xml, "r0"))]


def test_what_the_templates_make_is_accepted() -> None:
    assert refused(DUMP) == []
    assert settings_check.judge_kernel(IN_FORCE) == []


@pytest.mark.parametrize(
    ("here", "there", "named"),
    [
        ('value="resource-and-stonith"', 'value="resource-only"', "fencing"),
        ('<option name="fencing" value="resource-and-stonith"/>', "", "fencing"),
        ('value="call-local-io-error"', 'value="detach"', "on-io-error"),
        ('value="suspend-io"', 'value="io-error"', "on-no-data-accessible"),
        ('name="protocol" value="C"', 'name="protocol" value="A"', "protocol"),
        ('name="allow-two-primaries" value="no"', 'name="allow-two-primaries"', "allow-two-primaries"),
        ('name="allow-two-primaries" value="no"', 'name="allow-two-primaries" value="yes"', "allow-two-primaries"),
        ('name="rr-conflict" value="disconnect"', 'name="rr-conflict" value="violently"', "rr-conflict"),
        ('value="block"', 'value="pull-ahead"', "on-congestion"),
        ('name="disk-flushes" value="yes"', 'name="disk-flushes" value="no"', "disk-flushes"),
        ('name="md-flushes" value="yes"', 'name="md-flushes" value="no"', "md-flushes"),
        ('<option name="wfc-timeout" value="1"/>', "", "wfc-timeout"),
        ('name="degr-wfc-timeout" value="1"', 'name="degr-wfc-timeout" value="0"', "degr-wfc-timeout"),
        ('<option name="outdated-wfc-timeout" value="1"/>', "", "outdated-wfc-timeout"),
        ('value="/usr/lib/hapair/fence-peer"', 'value="/bin/true"', "handler fence-peer"),
        ('<option name="shared-secret" value="change-me-before-use-7d1f"/>', "", "shared-secret"),
    ],
)
def test_each_setting_is_refused_by_name(here: str, there: str, named: str) -> None:
    assert here in DUMP
    assert refused(DUMP.replace(here, there)) == [named]


def test_the_resources_own_value_wins_over_the_common_one() -> None:
    own = '<section name="disk">\n            <option name="al-extents"'
    changed = DUMP.replace(own, own.replace("<option", '<option name="fencing" value="dont-care"/><option', 1))
    assert changed != DUMP
    assert refused(changed) == ["fencing"]


@pytest.mark.parametrize(
    ("here", "there", "named"),
    [
        ("fencing         \tresource-and-stonith;", "", "fencing"),
        ("call-local-io-error", "detach", "on-io-error"),
        ("cram-hmac-alg", "allow-two-primaries;\n cram-hmac-alg", "allow-two-primaries"),
        ("cram-hmac-alg", "protocol A;\n cram-hmac-alg", "protocol"),
        ("fencing  ", "disk-flushes no;\n fencing  ", "disk-flushes"),
    ],
)
def test_what_the_kernel_has_in_force_is_judged_too(here: str, there: str, named: str) -> None:
    assert here in IN_FORCE
    found = settings_check.judge_kernel(IN_FORCE.replace(here, there))
    assert [one.check for one in found] == [named]
    assert "drbdadm adjust" in found[0].cure


@pytest.mark.parametrize("xml", ["", "<config>", "<config/>", '<config><resource name="r9"/></config>'])
def test_what_is_no_configuration_is_no_leave(xml: str) -> None:
    with pytest.raises(ValueError, match="drbdadm"):
        settings_check.parse(xml, "r0")


class Programs:
    """What each program answers; the first words decide."""

    def __init__(self) -> None:
        self.answers = {
            "drbdadm dump-xml": proc.Completed(0, f"   PRETENDING that I am >>n1<<\n{DUMP}"),
            "drbdsetup show": proc.Completed(0, IN_FORCE),
            "systemctl is-enabled": proc.Completed(1, "masked\n"),
            "systemctl is-active": proc.Completed(3, ""),
            "systemctl show": proc.Completed(0, "{ path=/usr/bin/lxd ; argv[]=/usr/bin/lxd --group lxd }\n"),
            "timedatectl show": proc.Completed(0, "yes\n"),
            "/usr/bin/lxd --version": proc.Completed(0, "5.0.2\n"),
            "ldd /usr/bin/lxd": proc.Completed(1, "not a dynamic executable\n"),
        }

    def run(self, argv: list[str], limit_s: float, env: object = None) -> proc.Completed:
        del limit_s, env
        return self.answers[" ".join(argv[:2])]


@pytest.fixture
def programs(n1: Host, n2: Host, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A node on which nothing is in the way."""
    made = Programs()
    monkeypatch.setattr(proc, "run", made.run)
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    for host in (n1, n2):
        folder = host.paths.root / "usr/lib/hapair"
        folder.mkdir(parents=True)
        for name in ("fence-peer", "local-io-error"):
            (folder / name).write_text("")
            (folder / name).chmod(0o755)
    return made


@pytest.mark.usefixtures("programs")
def test_nothing_is_in_the_way(n1: Host, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preflight"], n1.paths) == 0
    assert capsys.readouterr().out == "r0: nothing is in the way\n"
    assert cli.main(["preflight", "r0", "--json"], n1.paths) == 0
    assert json.loads(capsys.readouterr().out)["resources"]["r0"]["refused"] == []
    assert cli.main(["preflight", "r9"], n1.paths) == 2


@pytest.mark.parametrize(
    ("program", "answer", "named"),
    [
        ("systemctl is-enabled", proc.Completed(0, "enabled\n"), "F11 drbd.service: is enabled"),
        ("timedatectl show", proc.Completed(0, "no\n"), "F11 clock: is not synchronised"),
        (
            "drbdadm dump-xml",
            proc.Completed(10, "line 7: no such option\n"),
            "F11 not checked: drbdadm dump-xml: line 7",
        ),
        ("drbdsetup show", proc.Completed(10, "r0: No such resource\n"), "F11 kernel: DRBD does not know r0"),
        ("systemctl is-active", proc.Completed(0, ""), "F11 multipathd: may open"),
    ],
)
def test_each_check_has_its_refusal(
    n1: Host, programs: Programs, program: str, answer: proc.Completed, named: str
) -> None:
    programs.answers[program] = answer
    found = preflight.full(n1.config, "r0", n1.paths)
    assert [one.line().startswith(named) for one in found] == [True], found


def test_files_that_are_refused(n1: Host, programs: Programs, tmp_path: Path) -> None:
    programs.answers["systemctl is-active"] = proc.Completed(0, "")
    (n1.paths.root / "etc/multipath.conf").write_text('blacklist { devnode "^drbd" }')
    (n1.paths.proc / "sys/kernel/hostname").write_text("n2\n")
    (n1.paths.root / "usr/lib/hapair/fence-peer").chmod(0o644)
    (tmp_path / "store/locks/example-r0").write_text("<html>login</html>")
    n1.paths.config.write_text(json.dumps({**json.loads(n1.paths.config.read_text()), "watchdog_s": 5.0}))
    found = preflight.full(n1.config, "r0", n1.paths)
    assert [one.check for one in found] == ["host name", "lock", "handlers", "watchdog"]
    assert not os.access(n1.paths.root / "usr/lib/hapair/fence-peer", os.X_OK)


def test_the_other_nodes_report_is_compared(
    n1: Host, n2: Host, programs: Programs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "n2.json"
    assert cli.main(["preflight", "--json"], n2.paths) == 0
    report.write_text(capsys.readouterr().out)
    assert "change-me" not in report.read_text(), "a secret never leaves the node"
    assert cli.main(["preflight", "--compare", str(report)], n1.paths) == 0
    (n1.paths.root / "etc/subuid").write_text("root:100000:65536\n")
    programs.answers["drbdadm dump-xml"] = proc.Completed(0, DUMP.replace("change-me-before", "changed-it-before"))
    programs.answers["/usr/bin/lxd --version"] = proc.Completed(0, "5.21\n")
    capsys.readouterr()
    assert cli.main(["preflight", "--compare", str(report)], n1.paths) == 1
    said = capsys.readouterr().out
    assert [f"F11 {name}: differs" in said for name in ("secret", "id maps", "lxd", "store")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    "text", ["{}", '{"resources":{"r0":[]}}', '{"resources":{"r0":{"fingerprints":7}}}', "[]", "[" * 9000, "half"]
)
def test_what_is_no_report_of_the_other_node(
    n1: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "n2.json").write_text(text)
    assert cli.main(["preflight", "--compare", str(tmp_path / "n2.json")], n1.paths) == 2
    assert "it is what `hapair preflight --json` prints there" in capsys.readouterr().err


@pytest.mark.spawns
def test_the_agent_touches_nothing_that_is_refused_and_goes_on_when_it_is_mended(
    n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{machine.bin}:/usr/bin:/bin")
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    dump = machine.state / "dump.xml"
    dump.write_text(DUMP.replace("resource-and-stonith", "dont-care"))
    running = Running(n1, machine)
    try:
        running.until("the socket is there", n1.paths.socket.exists)
        running.until("it refuses", lambda: "F11 fencing: must be" in str(running.status()["waiting"]))
        assert running.status()["refused"] == running.status()["waiting"]
        assert machine.told("drbdadm") == []
        dump.write_text(DUMP)
        running.until_serving()
        assert running.status()["refused"] == ""
    finally:
        running.stop()


@pytest.mark.spawns
def test_a_node_that_serves_is_not_stopped_by_a_refusal(
    n1: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(n1, tmp_path)
    monkeypatch.setattr(proc, "PATH", f"{machine.bin}:/usr/bin:/bin")
    fence_of(n1.config, "r0", n1.paths).create(no_guard)
    running = Running(n1, machine)
    try:
        running.until_serving()
        (machine.state / "dump.xml").write_text(DUMP.replace('value="C"', 'value="A"'))
        (n1.paths.root / "etc/drbd.d").mkdir()
        (n1.paths.root / "etc/drbd.d/r0.res").write_text("changed")
        running.until("it noticed", lambda: "F11 protocol" in str(running.status()["refused"]))
        assert running.status()["role"] == "Primary"
        assert running.status()["lxd_active"] is True
    finally:
        running.stop()
