"""Faults, acknowledged writes, one history, and the invariants over it."""
