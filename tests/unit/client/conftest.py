"""Fixtures that several test modules of the client use."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from rankserver.client import reconnect
from tests.support.blocking import Later
from tests.support.executing import Tether, tethered
from tests.support.waiting import BOUND


@pytest.fixture
def retries_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the delay before the next try."""
    monkeypatch.setattr(reconnect, "FIRST_DELAY", 0.002)
    monkeypatch.setattr(reconnect, "MAX_DELAY", 0.02)


@pytest.fixture
def later() -> Iterator[Later]:
    """Return a function that runs another one in a thread, and returns a future."""
    with ThreadPoolExecutor(32) as pool:
        yield pool.submit


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Check that a test leaves behind no client thread and no descriptor."""
    before = descriptors()
    yield
    for thread in threading.enumerate():
        if thread.name.startswith(("client", "asyncio")):
            thread.join(BOUND)
            assert not thread.is_alive(), thread
    assert descriptors() == before


@pytest.fixture
def tether(tmp_path: Path) -> Iterator[Tether]:
    """Return a tether, and check at the end that no process holds it."""
    with tethered(tmp_path) as tether:
        yield tether


def descriptors() -> list[str]:
    """Return the descriptors that a loop and its client keep open: sockets, and selectors for them."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself.
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in links if link.startswith(("socket:", "anon_inode:")))
