"""The independent verifier of artifacts: shares nothing with their builder but the files' format."""

from __future__ import annotations

from lab.check.checker import check
from lab.check.report import Fault, Report

__all__ = ["Fault", "Report", "check"]
