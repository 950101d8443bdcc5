"""Kernel and image side by side: one that fails stops the other, and a bundle builds nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import artifacts, build, log
from lab.errors import HapairError, HostLacks
from lab.providers import bundle, image
from lab.providers.plan import Artifacts

LIMIT_S = 20.0
KERNEL = SimpleNamespace(path=Path("/cache/linux"), sha256="k" * 64)
ROOT = image.Image(Path("/cache/root.ext4"), "i" * 64)
MADE = Artifacts(KERNEL.path, KERNEL.sha256, ROOT.path, ROOT.digest)


class Works:
    """Both builds, as a test wants them."""

    def __init__(self) -> None:
        self.kernel: Callable[[threading.Event], object] = lambda _: KERNEL
        self.image: Callable[[], object] = lambda: ROOT
        self.stopped = False

    def build_kernel(self, _progress: object, *, stop: threading.Event) -> Any:
        made = self.kernel(stop)
        self.stopped = stop.is_set()
        return made

    def until_stopped(self, stop: threading.Event) -> object:
        """Build for long, as a compiler does, unless told to stop."""
        self.stopped = stop.wait(LIMIT_S)
        raise HapairError("stopped" if self.stopped else "nobody stopped the kernel")


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Works:
    made = Works()
    monkeypatch.setattr(build, "kernel", made.build_kernel)
    monkeypatch.setattr(image, "ensure", lambda _: made.image())
    return made


def raising(error: BaseException) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise error

    return fail


def test_both_are_made(works: Works) -> None:
    assert artifacts.ensure(log.silent()) == MADE
    assert not works.stopped


def test_they_are_made_side_by_side(works: Works) -> None:
    both = threading.Barrier(2, timeout=LIMIT_S)

    def kernel(_: threading.Event) -> object:
        both.wait()
        return KERNEL

    def root() -> object:
        both.wait()
        return ROOT

    works.kernel, works.image = kernel, root
    assert artifacts.ensure(log.silent()) == MADE


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143), HostLacks("no mirror")])
def test_an_image_that_ends_early_stops_the_kernel(works: Works, error: BaseException) -> None:
    works.kernel, works.image = works.until_stopped, raising(error)
    with pytest.raises(type(error)) as caught:
        artifacts.ensure(log.silent())
    assert caught.value is error
    assert works.stopped, "nobody stopped the kernel"


def test_a_kernel_that_fails_fails_all(works: Works) -> None:
    works.kernel = raising(HostLacks("gcc is not installed"))
    with pytest.raises(HostLacks, match="gcc is not installed"):
        artifacts.ensure(log.silent())


def test_a_bundle_builds_nothing(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    works.kernel = works.image = raising(AssertionError("something was built"))
    opened: list[str] = []

    def open_bundle(packed: str, _progress: object) -> Artifacts:
        opened.append(packed)
        return MADE

    monkeypatch.setattr(bundle, "open_bundle", open_bundle)
    assert artifacts.ensure(log.silent(), "lab.tar") == MADE
    assert opened == ["lab.tar"]


@pytest.mark.parametrize(("kernel", "root"), [(None, False), (KERNEL, False), (None, True), (KERNEL, True)])
def test_what_the_cache_holds(monkeypatch: pytest.MonkeyPatch, kernel: object, root: bool) -> None:
    monkeypatch.setattr(build, "cached", lambda _: kernel)
    monkeypatch.setattr(image, "cached", lambda: root)
    assert artifacts.cached() == artifacts.Cached(kernel=kernel is not None, image=root)
