"""What both command lines share: usage errors in one line, and converters for numbers."""

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


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a converter for whole numbers from ``least`` to ``most``, for ``add_argument(type=...)``."""
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {bounds}")
        return value

    return convert


def seconds(least: float) -> Callable[[str], float]:
    """Return a converter for a number of seconds of at least ``least``, for ``add_argument(type=...)``."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least {least:g}")
        return int(value) if value.is_integer() else value

    return convert
