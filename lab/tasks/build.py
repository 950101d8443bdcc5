"""Artifacts from their buildspecs: stand-in until the tasks are here."""
