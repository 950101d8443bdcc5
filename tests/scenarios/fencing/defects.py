"""Defects of the host programs, each one a believable mistake: what a scenario of the fencing exists to find."""

from __future__ import annotations

from lab.scenario.changed import Change

YES_WITHOUT_ANSWER = Change(
    "handlers.py", "    except OSError:\n        return None\n", "    except OSError:\n        return 4\n"
)
"""An agent that has not answered in time is taken for one that has nothing against it."""

NEVER_SUSPENDS = Change(
    "rules.py",
    "    if tried and not look.kernel.suspended:\n        steps = ((Kind.SUSPEND_IO, DRBD_LIMIT_S), *steps)\n",
    "",
)
"""A Primary that gets no lock lets its I/O go on, as far as the kernel does."""

IGNORES_SOLO = Change(
    "lock.py",
    "return record.state is LockState.STEALING or (record.state is LockState.SOLO and record.owner != node)",
    "return record.state is LockState.STEALING",
)
"""The lock of the other node keeps nobody away."""

TOMBSTONE_IN_RUN = Change(
    "paths.py", 'return self.state / f"{resource}.tombstone"', 'return self.run / f"{resource}.tombstone"'
)
"""The mark of a failed disk ends with the boot."""

CLAIMS_WITH_ANY_DISK = Change(
    "states.py",
    """            volume.disk in (Disk.UP_TO_DATE, Disk.CONSISTENT)
            and volume.replication not in (Replication.SYNC_TARGET, Replication.PAUSED_SYNC_T)
""",
    "            volume.disk is not Disk.DISKLESS\n",
)
"""A replica need not be whole to ask for the lock."""

OVERWRITES = Change(
    "fence/http.py",
    "        return Writing(Written.CONFLICT if answer.status in CONFLICTS else Written.UNCLEAR, answer.text)\n",
    """        if answer.status in CONFLICTS and tag is not None:
            return self.write(name, body, self.read(name, limit_s).tag, limit_s)
        return Writing(Written.CONFLICT if answer.status in CONFLICTS else Written.UNCLEAR, answer.text)
""",
)
"""A write that came too late is sent again, over the version that came first."""

BELIEVES_A_YES = Change(
    "fence/http.py",
    "            return confirmed(self, name, body, due - time.monotonic())\n",
    "            return Writing(Written.YES)\n",
)
"""A store that says yes is believed, though it proves nothing."""

GRACE_IN_MINUTES = Change(
    "rules.py",
    "else look.memory.lost_at) + look.site.times.grace_s\n",
    "else look.memory.lost_at) + 60 * look.site.times.grace_s\n",
)
"""A node that is alone waits far too long before it asks for the lock."""

SENDS_AGAIN = Change(
    "fencing.py",
    "        if seen.record is not None and seen.record.attempt_id == wanted.attempt_id:\n",
    """        if wrote.written is Written.UNCLEAR and tag:
            wrote = self._backend.write(self.name, wanted.to_bytes(), tag, self._limit(until))
        if wrote.written is Written.YES:
""",
)
"""A write that was not answered is sent again, without a look whether it has landed."""

NEVER_RELEASES = Change(
    "rules.py",
    '        why, step = "Connected, every volume UpToDate on both sides", (Kind.RELEASE, LOCK_LIMIT_S)\n',
    "        return None\n",
)
"""A lock that is no longer needed stays."""

NEVER_STAYS = Change("rules.py", "    stay,\n    release,\n", "    release,\n")
"""A node that is back after its hand-over does not say so."""

STARTS_ONLY_AFTER_ITS_OWN_PROMOTION = Change(
    "memory.py",
    "    return replace(memory, role=kernel.role, peer_role=kernel.peer_role)\n",
    "    paused = memory.paused or (memory.role is Role.UNKNOWN and kernel.role is Role.PRIMARY)\n"
    "    return replace(memory, role=kernel.role, peer_role=kernel.peer_role, paused=paused)\n",
)
"""An agent that finds itself on a Primary takes it that all runs there."""

RELEASES_WHATEVER_CAME = Change(
    "fencing.py",
    """"released: both are current")

        attempt = _nonce()
        return self._change(change, guard)
""",
    """"released: both are current")

        attempt = _nonce()
        objection = guard()
        if objection:
            return Answer(Held.UNAVAILABLE, text=objection)
        time.sleep(3.5)  # a link that flaps should not cost a write each time
        return self._change_locked(change, no_guard, math.inf, NO_CLAIM, ATTEMPTS)
""",
)
"""A release looks at the replicas first, then waits, and gives back whatever lock it finds then."""

HANDS_OVER_TO_ANYONE = Change("server.py", "if wish is Wish.SECONDARY and moves and not anyway:", "if False:")
"""A switchover asks nobody whether the other node can go on with the service."""

TAKES_OVER_FROM_NEWER = Change(
    "lock.py", "return not self.anyway and ahead(record.schema, self.schema)", "return False"
)
"""An LXD that is too old for the databases does not keep a node away."""

ATTACHES_WHATEVER_IS_THERE = Change(
    "incarnation.py", "return any(not one.fresh and one.number < stored for one in replica)", "return False"
)
"""A replica that was put back from a snapshot is attached like any other."""
