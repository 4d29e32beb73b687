"""Command-line parsing for server and client: usage errors in one line, and converters for numbers."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Reports bad usage in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Print ``message`` on standard error and exit."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def whole(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Return a converter for whole numbers within these bounds, for ``add_argument(type=...)``."""
    bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return convert


def seconds(minimum: float) -> Callable[[str], float]:
    """Return a converter for a number of seconds of at least ``minimum``, for ``add_argument(type=...)``."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least {minimum:g}")
        return int(value) if value.is_integer() else value

    return convert
