"""What `hapair status` shows: per resource who is Primary, who holds which epoch, what the policy waits for and why."""

from __future__ import annotations

from typing import Any

from hapair.config import Config
from hapair.lock import LockRecord
from hapair.memory import Memory
from hapair.states import Observation


def resource_status(config: Config, seen: Observation, memory: Memory, now: float) -> dict[str, Any]:
    """Return one resource's state as plain data (JSON)."""
    kernel = seen.kernel
    status: dict[str, Any] = {
        "known": kernel is not None,
        "role": kernel.role.value if kernel else None,
        "connection": kernel.connection.value if kernel else None,
        "peer_role": kernel.peer_role.value if kernel else None,
        "suspended": sorted(kernel.suspended) if kernel else [],
        "volumes": [
            {
                "volume": volume.number,
                "disk": volume.disk.value,
                "peer_disk": volume.peer_disk.value,
                "replication": volume.replication.value,
            }
            for volume in (kernel.volumes if kernel else ())
        ],
        "mounted": seen.mounted,
        "lxd_active": seen.lxd_active,
        "lock": _lock(config, memory, now),
        "solo_confirmed": seen.note.epoch if seen.note else None,
        "tombstone": seen.tombstone,
        "split_brain": seen.split_brain,
        "refused": seen.refused,
        "unjudged": seen.unjudged,
        "held": memory.held,
        "paused": memory.paused,
        "request": memory.wish.value if memory.wish else None,
        "busy": [name for name, busy in (("control", seen.control_busy), ("services", seen.services_busy)) if busy],
        "rule": memory.rule,
        "waiting": memory.waiting,
        "since_s": round(now - memory.waiting_since, 1),
    }
    return status


def _lock(config: Config, memory: Memory, now: float) -> dict[str, Any]:
    if memory.lock is None:
        return {"state": "unknown", "why": "not read yet"}
    read = {"read_s_ago": round(now - memory.lock.at, 1)}
    record = memory.lock.record
    if record is None:
        return {"state": "unknown", "why": memory.lock.text, **read}
    return {**lock_fields(config, record), **read}


def lock_fields(config: Config, record: LockRecord) -> dict[str, Any]:
    """Return a lock with names for the nodes that this site knows."""
    names = {config.me.uuid: config.node, config.other.uuid: config.peer}
    return {
        "state": record.state.value,
        "owner": names.get(record.owner, record.owner),
        "writer": names.get(record.writer, record.writer),
        "epoch": record.epoch,
        "attempt_id": record.attempt_id,
        "time": record.time,
        "reason": record.reason,
    }


def text(status: dict[str, Any]) -> str:
    """Return the status of all resources for people."""
    lines = []
    for name, one in status["resources"].items():
        lines.append(f"{name}: {one['role'] or 'not up'}, {one['connection'] or '-'}, peer {one['peer_role'] or '-'}")
        lines += [
            f"  volume {volume['volume']}: {volume['disk']} here, {volume['peer_disk']} there ({volume['replication']})"
            for volume in one["volumes"]
        ]
        lock = one["lock"]
        if lock["state"] == "unknown":
            lines.append(f"  lock: unknown ({lock['why']})")
        else:
            lines.append(
                f"  lock: {lock['state']} {lock['owner']}, epoch {lock['epoch']} (read {lock['read_s_ago']:g} s ago)"
            )
        services = "running" if one["mounted"] and one["lxd_active"] else "stopped"
        lines.append(
            f"  services: {services}" + (f"; I/O suspended ({', '.join(one['suspended'])})" if one["suspended"] else "")
        )
        if one["refused"] and one["refused"] != one["waiting"]:
            lines.append(f"  refused: {one['refused']}")
        lines += [f"  {mark}" for mark in ("tombstone", "split_brain", "held", "paused") if one[mark]]
        if one["waiting"]:
            # A refusal names its rule itself, for it also stands alone.
            known = one["waiting"].startswith((f"{one['rule']} ", f"{one['rule']}:"))
            lines.append(f"  {'' if known else one['rule'] + ': '}{one['waiting']} (for {one['since_s']:g} s)")
    return "\n".join(lines)
