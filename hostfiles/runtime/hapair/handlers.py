"""What DRBD's kernel module calls: fence-peer, local-io-error, pri-on-incon-degr, split-brain.

I/O is frozen while fence-peer starts, so this module imports next to nothing: it asks the agent, whose store client is
warm, and loads `direct` only when no agent answers. The others run in DRBD's own threads and must return at once.
"""

from __future__ import annotations

import os
import socket
import time

SOCKET = "/run/hapair/agent.sock"
CONNECT_LIMIT_S = 0.3
AGENT_LIMIT_S = 1.5
"""How long the agent may take; then the handler goes on by itself, as long as T_selffence leaves it time (F2)."""
NAMES = ("fence-peer", "local-io-error", "pri-on-incon-degr", "split-brain")


def main(name: str, agent_socket: str = SOCKET) -> int:
    """Run the handler `name` for the resource in DRBD_RESOURCE; return its exit code."""
    began = time.monotonic()
    resource = os.environ.get("DRBD_RESOURCE", "")
    if name == "fence-peer":
        code = ask_agent(resource, agent_socket)
        if code is not None:
            return code
    from hapair import direct  # noqa: PLC0415 - see the module's text

    return direct.run(name, resource, began)


def ask_agent(resource: str, agent_socket: str) -> int | None:
    """Return the agent's exit code for fence-peer, or None when no agent answers as it should."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as agent:
            agent.settimeout(CONNECT_LIMIT_S)
            agent.connect(agent_socket)
            agent.sendall(b'{"op": "fence-peer", "resource": "%s"}\n' % resource.encode())
            agent.settimeout(AGENT_LIMIT_S)
            reply = agent.makefile("rb").readline(4096)
    except OSError:
        return None
    for code in (b"4", b"6", b"1"):
        # No JSON parser: the agent writes this key first, and its import costs milliseconds of frozen I/O.
        if reply.startswith(b'{"exit": ' + code + b","):
            return int(code)
    return None
