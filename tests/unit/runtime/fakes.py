"""Stand-ins for drbdadm, drbdmeta, drbdsetup and systemctl: small shell programs that keep a node's state in a folder.

As with the real ones, /proc/drbd shows a change before the event stream tells it: whoever waited for the event may read
or replace the file.
"""

from __future__ import annotations

from pathlib import Path

from .conftest import PROC_TOGETHER, Host

SAMPLES = Path(__file__).parent / "samples"
DRBDSETUP = """\
#!/bin/sh
exec tail -n +1 -F {state}/events 2>/dev/null
"""

DRBDADM = """\
#!/bin/sh
[ "$1" = dump-xml ] && exec cat {state}/dump.xml
[ "$1" = -d ] && {{ echo "drbdmeta 0 v08 {state}/meta flex-external dump-md"; exit; }}
echo "$*" >> {state}/drbdadm.log
[ -e {state}/fail-$1 ] && {{ echo "$1 fails on demand"; exit 11; }}
say() {{ echo "$*" >> {state}/events; }}
case "$1" in
adjust)
    say create resource name:r0 role:Secondary suspended:no
    say create device name:r0 volume:0 minor:0 disk:UpToDate
    say create connection name:r0 peer-node-id:0 conn-name:peer connection:Connected role:Secondary
    say create peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate
    ;;
primary) sed -i s,ro:Secondary/,ro:Primary/, {proc}; say change resource name:r0 role:Primary ;;
secondary) sed -i s,ro:Primary/,ro:Secondary/, {proc}; say change resource name:r0 role:Secondary ;;
disconnect) say change connection name:r0 peer-node-id:0 conn-name:peer connection:StandAlone role:Unknown ;;
resume-io) say change resource name:r0 suspended:no ;;
down) say destroy resource name:r0 ;;
create-md) echo 0123456789abcdef > {state}/meta; echo 4 >> {state}/meta ;;
esac
exit 0
"""

DRBDMETA = """\
#!/bin/sh
# Like the real one of 9.22 on a device, and as talkative: a file has two lines, device uuid and data generation.
echo "ioctl(md_fd, BLKSSZGET) returned -1, assuming hard_sect_size is 512 Byte" >&2
[ -e "$3" ] || {{ echo "open($3) failed: No such file or directory" >&2; exit 20; }}
{{ read uuid; read generation; }} < $3
case "$5" in
read-dev-uuid) echo $uuid ;;
get-gi) printf '%016x:%016x:%016x:%016x:1:1:0:0:0:0:0\\n' $((0x$generation)) 0 0 0 ;;
write-dev-uuid) echo "$6" >> {state}/drbdmeta.log; echo "$6" > $3; echo $generation >> $3 ;;
esac
"""

SYSTEMCTL = """\
#!/bin/sh
echo "$*" >> {state}/systemctl.log
for unit; do :; done
case "$1" in
is-active) [ -e {state}/active-$unit ]; exit ;;
start)
    [ -e {state}/fail-$unit ] && {{ echo "$unit fails on demand"; exit 1; }}
    : > {state}/active-$unit
    [ $unit = r0.mount ] && echo "50 1 0:40 / /r0 rw - btrfs /dev/drbd0 rw" > {mountinfo}
    exit 0
    ;;
stop)
    [ -e {state}/hangs-$unit ] && exit 1
    rm -f {state}/active-$unit
    [ $unit = r0.mount ] && : > {mountinfo}
    exit 0
    ;;
kill) rm -f {state}/hangs-$unit {state}/active-$unit ;;
show) echo "{{ path={bin}/lxd ; argv[]={bin}/lxd --group lxd ; }}" ;;
esac
exit 0
"""

LXD = """\
#!/bin/sh
# Like LXD's program, it holds the texts that make its databases.
: 'CREATE TABLE raft_nodes (); INSERT INTO schema (version, updated_at) VALUES ({local}, strftime("%s"))'
{filler}
: 'INSERT INTO schema (version, updated_at) VALUES (14, strftime("%s"))'
: 'CREATE TABLE warnings (); INSERT INTO schema (version, updated_at) VALUES ({world}, strftime("%s"))'
[ "$1" = --version ] && echo 5.0.2
"""

UMOUNT = """\
#!/bin/sh
: > {mountinfo}
"""

CUT = """\
change resource name:r0 suspended:fencing
change connection name:r0 peer-node-id:0 conn-name:peer connection:NetworkFailure role:Unknown
change peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Off peer-disk:DUnknown
"""

RECONNECTED = """\
change connection name:r0 peer-node-id:0 conn-name:peer connection:Connected role:Secondary
change peer-device name:r0 peer-node-id:0 conn-name:peer volume:0 replication:Established peer-disk:UpToDate
"""


class Machine:
    """The programs in `bin`, and what they were told."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.state, self.bin = host, folder / "state", folder / "bin"
        self.state.mkdir()
        self.bin.mkdir()
        self.events = self.state / "events"
        self.events.write_text("exists -\n")
        (self.state / "dump.xml").write_text((SAMPLES / "dump.xml").read_text())
        self.meta(0x0123456789ABCDEF)
        places = {
            "state": self.state,
            "proc": host.paths.proc_drbd,
            "mountinfo": host.paths.proc / "self/mountinfo",
            "bin": self.bin,
        }
        programs = {
            "drbdsetup": DRBDSETUP,
            "drbdadm": DRBDADM,
            "drbdmeta": DRBDMETA,
            "systemctl": SYSTEMCTL,
            "umount": UMOUNT,
        }
        for name, text in programs.items():
            self.program(name, text.format(**places))
        self.lxd()
        host.paths.proc_drbd.write_text(PROC_TOGETHER.format(role="Secondary"))

    def lxd(self, local: int = 42, world: int = 60) -> None:
        """Install an LXD that makes databases of these versions."""
        self.program("lxd", LXD.format(local=local, world=world, filler="#\n" * 2000))

    def meta(self, uuid: int, generation: int = 0x55) -> None:
        """Let the meta-data have this device uuid and data generation."""
        fresh = self.state / ".meta"
        fresh.write_text(f"{uuid:016x}\n{generation:x}\n")
        # At once: the agent may be reading it.
        fresh.replace(self.state / "meta")

    def program(self, name: str, text: str) -> None:
        """Install a program, or replace it."""
        fresh = self.bin / f".{name}"
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(self.bin / name)

    def say(self, text: str) -> None:
        """Have the kernel report something."""
        with self.events.open("a") as events:
            events.write(text)

    def cut(self) -> None:
        """The Primary loses its peer."""
        self.host.alone("Primary")
        self.say(CUT)

    def told(self, program: str) -> list[str]:
        """Return the arguments of every call so far."""
        log = self.state / f"{program}.log"
        return log.read_text().splitlines() if log.exists() else []
