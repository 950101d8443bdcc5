"""Plans survive the way through their file; the command line that comes of them; status, too."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from lab.errors import BadInput
from lab.providers import uml
from lab.providers.base import (
    Disk,
    Impairment,
    Interface,
    LabPlan,
    LabStatus,
    LinkStatus,
    NodePlan,
    NodeStatus,
)

NODE = NodePlan(
    name="n1",
    kernel=Path("/cache/linux, with blank"),
    image=Path("/cache/a:b,c d.ext4"),
    memory_mb=900,
    kernel_args=("quiet",),
    disks=(Disk("ubdb", "n1.data", 1 << 20), Disk("ubdc", "n1.meta", 4096, log_slot="ubdd")),
    interfaces=(Interface("lan", "02:00:5e:00:02:11", "vec0"), Interface("crossover", "02:00:5e:00:64:01", "vec1")),
)


def test_a_plan_survives_its_file() -> None:
    plan = LabPlan("example", (NODE, dataclasses.replace(NODE, name="n2", disks=())), seed=7)
    assert LabPlan.load(plan.dump()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "nodes": [{"name": "n1"}]}', '{"nodes": [], "x": 1}'])
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="not a lab plan"):
        LabPlan.load(text)


def test_a_status_survives_the_socket() -> None:
    link = LinkStatus("n1", "lan", True, Impairment(loss=0.5), Impairment(up=False), 1, 2, 3, 4)
    status = LabStatus("example", 42, {"n1": NodeStatus("on", True, 1, "seccomp", "")}, (link,))
    assert LabStatus.from_json(json.loads(json.dumps(dataclasses.asdict(status)))) == status


def test_the_command_line_names_every_file_relative_to_the_lab() -> None:
    words = uml.argv(NODE, 7)
    kernel = words.index("/cache/linux, with blank")
    assert words[kernel - 3 : kernel] == ["--pdeathsig", "KILL", "--"]
    assert "ubd0=n1.cow,n1.base" in words
    assert "ubdbd=n1.data" in words
    assert "ubdcd=n1.meta" in words and "ubddd=n1.meta.log" in words
    assert "ssl0=fd:7" in words
    assert "noreboot" in words
    assert "vec1:transport=bess,dst=net/n1.crossover,mac=02:00:5e:00:64:01,mtu=1500,depth=128" in words
    assert words[-1] == "quiet"
    assert not any("a:b,c d" in word for word in words)
