"""Host programs with another text in one place: what is changed runs, what does not fit is refused."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import pytest

from lab.errors import HapairError
from lab.hosts.runtime import SHEBANG, zipapp
from lab.scenario.changed import Change, changed
from lab.scenario.history import History
from lab.scenario.program_faults import ARCHIVE, ProgramFaults
from tests.scenarios.fencing import defects
from tests.unit.scenario.fakes import FakeLab

ARCHIVES = zipapp()


def read(archive: bytes, module: str) -> str:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(f"hapair/{module}").decode()


@pytest.mark.parametrize("name", [name for name, one in vars(defects).items() if isinstance(one, Change)])
def test_every_defect_fits_the_programs_as_they_are(name: str) -> None:
    change: Change = getattr(defects, name)
    archive = changed(ARCHIVES, [change])
    assert archive.startswith(SHEBANG)
    text = read(archive, change.module)
    assert text != read(ARCHIVES, change.module)
    compile(text, change.module, "exec")


def test_nothing_else_changes() -> None:
    change = Change("say.py", read(ARCHIVES, "say.py"), "# other\n")
    archive = changed(changed(ARCHIVES, [change]), [Change("say.py", "other", "another")])
    with zipfile.ZipFile(io.BytesIO(archive)) as new, zipfile.ZipFile(io.BytesIO(ARCHIVES)) as old:
        assert new.namelist() == old.namelist()
        assert [name for name in old.namelist() if old.read(name) != new.read(name)] == ["hapair/say.py"]
    assert read(archive, "say.py") == "# another\n"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (Change("lock.py", "no such text", ""), "lock.py has 0 times"),
        (Change("lock.py", "return", ""), "lock.py has [0-9]+ times"),
        (Change("nowhere.py", "", ""), "no module nowhere.py"),
    ],
)
def test_what_does_not_fit_is_refused(change: Change, complaint: str) -> None:
    with pytest.raises(HapairError) as caught:
        changed(ARCHIVES, [change])
    assert re.search(complaint, caught.value.message)


def test_a_node_gets_the_change_and_a_new_agent(tmp_path: Path) -> None:
    lab = FakeLab(tmp_path)
    node = lab.nodes["n1"]
    node.files[ARCHIVE] = ARCHIVES
    ProgramFaults(lab, History()).change("n1", defects.IGNORES_SOLO)
    assert read(node.files[ARCHIVE], "lock.py") != read(ARCHIVES, "lock.py")
    synced, killed, answers = node.ran
    assert (synced, "--signal=KILL" in killed, "hapair status" in answers) == ("sync", True, True)
    assert "until systemctl kill " in killed, "the agent may be about to start"
    with pytest.raises(HapairError, match=r"lock\.py has 0 times"):
        ProgramFaults(lab, History()).change("n1", defects.IGNORES_SOLO)
