"""What pytest hides and a person should see."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import cast

import pytest


def uncaptured(config: pytest.Config) -> AbstractContextManager[None]:
    """Let the user see what is printed, and type, while the context lasts: making a kernel takes minutes."""
    manager = config.pluginmanager.getplugin("capturemanager")
    return cast(AbstractContextManager[None], manager.global_and_fixture_disabled())
