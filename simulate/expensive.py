"""Lines that cost as much as a line can: long JSON of every kind, valid or not."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

# How deep JSON in a line may be nested (docs/protocol.md).
MAX_DEPTH: Final = 64


def value(rng: random.Random, size: int) -> tuple[str, bool]:
    """Return a JSON value of ``size`` characters at most, and whether it is a valid part of an object."""
    return rng.choice(_KINDS)(rng, max(size, 4))


def _deep_list(rng: random.Random, size: int) -> tuple[str, bool]:
    depth = rng.choice((MAX_DEPTH - 1, MAX_DEPTH, size // 2))
    depth = min(depth, size // 2)
    return "[" * depth + "]" * depth, depth < MAX_DEPTH


def _deep_object(_: random.Random, size: int) -> tuple[str, bool]:
    depth = (size - 2) // 6
    return '{"a":' * depth + "{}" + "}" * depth, depth + 1 < MAX_DEPTH


def _open_list(_: random.Random, size: int) -> tuple[str, bool]:
    return "[" * size, False


def _wide_list(_: random.Random, size: int) -> tuple[str, bool]:
    return "[" + ",".join(["[]"] * (size // 3 - 1)) + "]", True


def _numbers(_: random.Random, size: int) -> tuple[str, bool]:
    return "[" + ",".join(["0.1"] * (size // 4 - 1)) + "]", True


def _escapes(_: random.Random, size: int) -> tuple[str, bool]:
    return '"' + r"\\" * (size // 2 - 1) + '"', True


def _quotes(_: random.Random, size: int) -> tuple[str, bool]:
    return '"' * ((size - 1) // 2 * 2 + 1), False


def _brackets_in_text(_: random.Random, size: int) -> tuple[str, bool]:
    return '"' + "[" * (size - 2) + '"', True


def _pairs(_: random.Random, size: int) -> tuple[str, bool]:
    return '"' + r"\ud83d\ude00" * (size // 12 - 1) + '"', True


_KINDS: Final[tuple[Callable[[random.Random, int], tuple[str, bool]], ...]] = (
    _deep_list,
    _deep_object,
    _open_list,
    _wide_list,
    _numbers,
    _escapes,
    _quotes,
    _brackets_in_text,
    _pairs,
)
