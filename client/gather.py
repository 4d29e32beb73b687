"""Equal answers under one head, as ``clush -b`` shows them, and how the others differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from client.words import Describe, Happening, Line, Unfinished, content, outcome, output
from rankserver.client import events
from rankserver.client.display import visible
from rankserver.wire import protocol

LONGEST_DIFF: Final = 2_000  # lines of an output: the time to compare grows with their square
LONGEST_LIST: Final = 1 << 30  # bytes: all ranks in one list
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)")  # the last number


class Gathered:
    """Holds back the answers to each ask until it is done; anything else is described at once.

    Args:
        describe: for all but answers.
        diff: whether to show of each output only how it differs from the most common one.
    """

    def __init__(self, describe: Describe, *, diff: bool) -> None:
        self._describe = describe
        self._diff = diff
        self._answers: dict[int, list[events.Answer]] = {}  # by seq, of the asks that are open

    def __call__(self, happened: Happening) -> list[Line]:
        """Return the lines for what happened; the end of an ask gives all its answers."""
        if isinstance(happened, events.Answer):
            self._answers.setdefault(happened.seq, []).append(happened)
            return []
        lines = []
        if isinstance(happened, events.AskDone | Unfinished):
            lines = gather(self._answers.pop(happened.seq, []), diff=self._diff)
        return lines + self._describe(happened)


def gather(answers: Iterable[events.Answer], *, diff: bool = False) -> list[Line]:
    """Return ``answers``, all to the same ask, grouped by what they say, the most common first.

    Each line of an output is behind a bar, so that none can be taken for the head of a group or a summary.
    """
    groups: dict[tuple[str, str], list[events.Answer]] = {}
    for given in sorted(answers):
        groups.setdefault((_said(given), content(given)), []).append(given)
    lines: list[Line] = []
    common: list[str] = []  # the most common output
    for same in sorted(groups.values(), key=len, reverse=True):
        said, text = _said(same[0]), output(same[0])
        if diff and text and text == common:
            said, text = f"{said or outcome(same[0])}, same output", []
        lines.append(Line("answer", _head(same, said)))
        lines += [Line("out", f"| {line}") for line in (_diff(common, text) if diff else text)]
        common = common or text
    return lines


def _said(given: events.Answer) -> str:
    """Return what became of a command, or nothing if its output says that."""
    is_plain = given.status == "ok" and content(given) and not given.truncated
    return "" if is_plain else outcome(given)


def _diff(common: list[str], text: list[str]) -> list[str]:
    """Return how ``text`` differs, or all of it if there is nothing to compare it with, or too much."""
    if not common or not text or max(len(common), len(text)) > LONGEST_DIFF:
        return text
    return list(difflib.unified_diff(common, text, lineterm="", n=1))[2:]  # without the names of two files


def _head(same: list[events.Answer], said: str) -> str:
    ranks = protocol.rank_lists([given.rank for given in same], LONGEST_LIST)[0].decode()
    names = visible(fold(given.name or "?" for given in same))
    plural = "s" if len(same) > 1 else ""
    return f"#{same[0].seq} rank{plural} {ranks} ({len(same)}) {names}" + (f": {said}" if said else "")


def fold(names: Iterable[str]) -> str:
    """Return names with a comma between them, and those that differ in their last number alone as a range."""
    shapes: dict[tuple[str, ...], list[str]] = {}  # by what is before and after it, the numbers
    for name in names:
        match = _NUMBERED.fullmatch(name)
        shape, number = ((match[1], match[3]), match[2]) if match else ((name,), "")
        shapes.setdefault(shape, []).append(number)
    return ",".join(_folded(shape, numbers) for shape, numbers in shapes.items())


def _folded(shape: tuple[str, ...], numbers: list[str]) -> str:
    if len(shape) == 1 or len(numbers) == 1:
        return ",".join(number.join(shape) for number in numbers)
    before, after = shape
    runs: list[list[str]] = []
    for number in sorted(numbers, key=lambda digits: (int(digits), len(digits))):
        if runs and _follows(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = ",".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{before}[{ranges}]{after}"


def _follows(before: str, number: str) -> bool:
    """Tell whether ``number`` is the next one, written in the same way: 9, 10 or 09, 10, but not 09, 9."""
    is_padded = before.startswith("0") or number.startswith("0")
    return int(number) == int(before) + 1 and (len(number) == len(before) or not is_padded)
