"""Fixtures that several test modules use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """Start a server for eight clients."""
    with Server(8) as running:
        yield running
