"""The pair as a whole: from nothing to a container that answers, and back."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import paths
from lab.deadline import Deadline, wait_until
from lab.errors import BadInput, HapairError, HostLacks, TimedOut
from lab.hosts.render import render
from lab.hosts.site import Site
from lab.log import Steps
from lab.proc import CommandFailed
from lab.providers import client, seed
from lab.providers.base import Lab, LabPlan, Node
from lab.providers.plan import make_plan
from lab.providers.provision import ANSWERS

SERVING_S = 60.0
FREE_BYTES = 2 << 30
"""What a lab's overlays and disks may grow to while scenarios run."""


@dataclass(frozen=True)
class Artifacts:
    """What nodes are made of: files named by the SHA-256 of their content."""

    kernel: Path
    kernel_sha256: str
    image: Path
    image_sha256: str


@dataclass(frozen=True)
class Pair:
    """A running lab and the site that it follows."""

    lab: Lab
    site: Site

    def serving(self) -> str | None:
        """Return the node whose container answers the third node just now, or None."""
        return self._serving(within_s=1)

    def wait_serving(self, deadline: Deadline) -> str:
        """Wait until every container answers the third node; return the node that serves the first of them.

        Raises:
            TimedOut: one did not; the text says what the nodes themselves report.
        """
        node = self._serving(within_s=deadline.left_s)
        if node is None:
            raise TimedOut(f"the container does not answer; {self._reports()}", "invoke lab.logs shows the journals")
        return node

    def switchover(self, resource: str, deadline: Deadline) -> str:
        """Move a resource to the other node, as an administrator does; return the node that serves then.

        Raises:
            CommandFailed: the active node refused.
            TimedOut: the other did not take over.
        """
        active = self.wait_serving(deadline)
        self.lab.nodes[active].run([resource, "secondary"], limit_s=deadline.left_s)
        return wait_until("the other node serves", lambda: self._other_than(active), deadline)

    def _other_than(self, node: str) -> str | None:
        found = self.serving()
        return found if found != node else None

    def _serving(self, within_s: float) -> str | None:
        deadline = Deadline.after(within_s)
        boot_id = ""
        for container in self.site.containers.values():
            script = ANSWERS.format(address=container.addresses[0])
            try:
                done = self.lab.nodes["third"].run(["sh", "-c", script], limit_s=max(deadline.left_s, 0.1))
            except (CommandFailed, TimedOut):
                return None
            boot_id = boot_id or done.text.strip()
        return next((name for name in self.site.nodes if self.lab.nodes[name].boot_id() == boot_id), None)

    def reports(self) -> dict[str, Any]:
        """Return what `hapair status --json` says on each node of the pair; a string where it says nothing."""
        return {name: self._report(self.lab.nodes[name]) for name in self.site.nodes}

    def _report(self, node: Node) -> Any:
        if node.state() != "on":
            return f"{node.name} is {node.state()}"
        try:
            return json.loads(node.run(["hapair", "status", "--json"], limit_s=10).stdout)
        except (HapairError, ValueError) as error:
            return str(error).splitlines()[0]

    def _reports(self) -> str:
        return json.dumps(self.reports())
