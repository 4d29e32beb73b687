"""Equal answers under one head, as ``clush -b`` shows them, and how the others differ."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

from client import events
from client.words import Describe, Line, outcome, output
from rankserver import protocol

RULE: Final = "-" * 15
LONGEST_LIST: Final = 1 << 30  # bytes: all ranks in one list
_NUMBERED = re.compile(r"(.*?)([0-9]+)")


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

    def __call__(self, happened: events.Event) -> list[Line]:
        """Return the lines for an event; an ask that is done gives all its answers."""
        if isinstance(happened, events.Answer):
            self._answers.setdefault(happened.seq, []).append(happened)
            return []
        lines = []
        if isinstance(happened, events.AskDone):
            lines = gather(self._answers.pop(happened.seq, []), diff=self._diff)
        return lines + self._describe(happened)


def gather(answers: Iterable[events.Answer], *, diff: bool = False) -> list[Line]:
    """Return ``answers``, all to the same ask, grouped by what they say, the most common first."""
    groups: dict[events.Answer, list[events.Answer]] = {}
    for given in sorted(answers):
        groups.setdefault(given._replace(rank=0, name="", ms=None), []).append(given)
    lines: list[Line] = []
    common: list[str] | None = None  # the most common output
    for same in sorted(groups.values(), key=len, reverse=True):
        text = output(same[0])
        lines += [Line("answer", RULE), Line("answer", _head(same)), Line("answer", RULE)]
        if diff and text and common is not None:
            lines += [Line("out", line) for line in difflib.unified_diff(common, text, lineterm="", n=1)][2:]
        else:
            lines += [Line("out", line) for line in text]
        if text and common is None:
            common = text
    return lines


def _head(same: list[events.Answer]) -> str:
    ranks = protocol.rank_lists([given.rank for given in same], LONGEST_LIST)[0].decode()
    names = fold([given.name or "?" for given in same])
    plural = "s" if len(same) > 1 else ""
    said = "" if same[0].status == "ok" and same[0].out and not same[0].truncated else f": {outcome(same[0])}"
    return f"#{same[0].seq} rank{plural} {ranks} ({len(same)}) {names}{said}"


def fold(names: Iterable[str]) -> str:
    """Return names with a comma between them, and those that differ in their last number alone as a range."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        numbers.setdefault(match[1] if match else name, []).append(match[2] if match else "")
    return ",".join(_folded(prefix, found) for prefix, found in numbers.items())


def _folded(prefix: str, found: list[str]) -> str:
    if "" in found or len(found) == 1:
        return ",".join(prefix + number for number in found)
    runs: list[list[str]] = []
    for number in sorted(found, key=lambda digits: (int(digits), len(digits))):
        if runs and _follows(runs[-1][-1], number):
            runs[-1].append(number)
        else:
            runs.append([number])
    return f"{prefix}[{','.join(run[0] if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)}]"


def _follows(before: str, number: str) -> bool:
    """Tell whether ``number`` is the next one, written in the same way: 9, 10 or 09, 10, but not 09, 9."""
    is_padded = before.startswith("0") or number.startswith("0")
    return int(number) == int(before) + 1 and (len(number) == len(before) or not is_padded)
