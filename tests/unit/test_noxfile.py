"""The Nox sessions are what the documents promise."""

import nox
from nox import registry

import noxfile

SESSIONS = registry.get()
DEFAULT = {name for name, session in SESSIONS.items() if session.default}


def test_default_sessions() -> None:
    assert {"lint", "unit", "thorough", "failover"} == DEFAULT


def test_every_session_has_a_docstring() -> None:
    assert [name for name, session in SESSIONS.items() if not (session.func.__doc__ or "").strip()] == []


def test_tags_tell_what_a_session_costs() -> None:
    tags = {name: set(session.tags) for name, session in SESSIONS.items()}
    assert all(tags[name] <= {"fast", "lab", "slow"} for name in tags)
    lab = {"failover", "fencing", "lifecycle", "planted", "split_brain"}
    assert {name for name in tags if "lab" in tags[name]} == lab
    assert all("slow" in tags[name] for name in tags if "lab" in tags[name])


def test_a_version_is_asked_for() -> None:
    assert nox.needs_version and noxfile.TOOLS.is_dir()
