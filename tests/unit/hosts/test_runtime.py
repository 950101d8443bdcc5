"""The archive of the host programs: the same bytes for the same sources, and one program under many names."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from lab import proc
from lab.errors import HapairError
from lab.hosts.runtime import SHEBANG, zipapp

MAIN = "import sys\nfrom hapair.fence import STORE\n\n\ndef main() -> int:\n    print(sys.argv, STORE)\n    return 7\n"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    package = tmp_path / "runtime" / "hapair"
    (package / "fence").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(MAIN)
    (package / "fence" / "__init__.py").write_text("STORE = 'http'\n")
    return package.parent


def test_only_the_sources_count(sources: Path, tmp_path: Path) -> None:
    first = zipapp(sources)
    copy = shutil.copytree(sources, tmp_path / "copy")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    (copy / "hapair" / "__pycache__").mkdir()
    (copy / "hapair" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert zipapp(copy) == first
    (copy / "hapair" / "__init__.py").write_text("# changed\n")
    assert zipapp(copy) != first


def test_a_copy_without_host_programs(tmp_path: Path) -> None:
    with pytest.raises(HapairError, match="holds no host programs"):
        zipapp(tmp_path)


@pytest.mark.spawns
def test_links_tell_it_apart(sources: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hapair.pyz"
    # The nodes have Debian's Python; here the one that runs the tests has to do.
    archive.write_bytes(zipapp(sources).replace(SHEBANG, f"#!{sys.executable} -I\n".encode(), 1))
    archive.chmod(0o755)
    (tmp_path / "hapair.py").write_text("raise SystemExit('not this one')\n")
    for name in ("r0", "fence-peer"):
        (tmp_path / name).symlink_to("hapair.pyz")
        done = proc.run([tmp_path / name, "primary"], limit_s=20, check=False, env={"PYTHONPATH": str(tmp_path)})
        assert done.text == f"['{tmp_path / name}', 'primary'] http"
        assert done.code == 7
