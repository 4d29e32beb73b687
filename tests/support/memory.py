"""A lack of memory."""

from __future__ import annotations

from typing import NoReturn


def no_memory(*_: object, **__: object) -> NoReturn:
    """Stand in for a function that allocates."""
    raise MemoryError
