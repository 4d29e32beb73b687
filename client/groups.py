"""Equal answers under one heading, as ``clush -b`` shows them, and how the others differ."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from client.words import DisplayEvent, Line, Renderer, Unfinished, content, outcome, visible_lines
from rankserver.client import events
from rankserver.client.display import visible
from rankserver.wire import protocol

# The maximum number of lines in an output that is compared: the time grows with the square of this number.
MAX_DIFF_LINES: Final = 2_000
# The maximum size of a list of ranks, in bytes: enough to have all ranks in one list.
MAX_LIST_BYTES: Final = 1 << 30
# The part of a name before its last number, the number, and the part after it.
_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)")


class GroupRenderer:
    """Holds back the answers to each command until it is done; anything else is rendered at once.

    Args:
        render: renders everything but answers.
        diff: whether to show only how each output differs from the most common one.
    """

    def __init__(self, render: Renderer, *, diff: bool) -> None:
        self._render = render
        self._diff = diff
        # The answers to each open command, by seq.
        self._answers: dict[int, list[events.Answer]] = {}

    def __call__(self, happened: DisplayEvent) -> list[Line]:
        """Return the lines for what happened; at the end of a command, these include all its answers."""
        if isinstance(happened, events.Answer):
            self._answers.setdefault(happened.seq, []).append(happened)
            return []
        lines = []
        if isinstance(happened, events.AskDone | Unfinished):
            lines = render_groups(self._answers.pop(happened.seq, []), diff=self._diff)
        return lines + self._render(happened)


def render_groups(answers: Iterable[events.Answer], *, diff: bool = False) -> list[Line]:
    """Return the lines for all answers to one command, grouped by what they say, the most common first.

    Each line of output follows a bar, so that it cannot be taken for the heading of a group or a summary.
    """
    groups: dict[tuple[str, str], list[events.Answer]] = {}
    answers = sorted(answers)
    shown = _shown(map(content, answers))
    for given in answers:
        groups.setdefault((_said(given), content(given)), []).append(given)
    lines: list[Line] = []
    common: list[str] = []  # the most common output that is not empty
    for same in sorted(groups.values(), key=len, reverse=True):
        said, text = _said(same[0]), shown[content(same[0])]
        if diff and text and text == common:
            said, text = f"{said or outcome(same[0])}, same output", []
        lines.append(Line("answer", _heading(same, said)))
        lines += [Line("out", f"| {line}") for line in (_diff(common, text) if diff else text)]
        common = common or text
    return lines


def _shown(outputs: Iterable[str]) -> dict[str, list[str]]:
    """Return the lines to show for each output, so that those that differ look different.

    An output may have the text of an escape where another one has the character. Where two would look the
    same for this reason, backslashes that are in the text are doubled.
    """
    different = set(outputs)
    looks = Counter(map(visible, different))
    return {
        text: visible_lines(text if looks[visible(text)] == 1 else text.replace("\\", "\\\\"))
        for text in different
    }


def _said(given: events.Answer) -> str:
    """Return the outcome in words, or an empty string if the output says enough."""
    is_plain_output = given.status == "ok" and content(given) and not given.truncated
    return "" if is_plain_output else outcome(given)


def _diff(common: list[str], text: list[str]) -> list[str]:
    """Return how ``text`` differs, or all of it if there is too little or too much to compare."""
    if not common or not text or max(len(common), len(text)) > MAX_DIFF_LINES:
        return text
    with_file_names = list(difflib.unified_diff(common, text, lineterm="", n=1))
    return with_file_names[2:]


def _heading(same: list[events.Answer], said: str) -> str:
    ranks = protocol.rank_lists([given.rank for given in same], MAX_LIST_BYTES)[0].decode()
    names = visible(fold(given.name or "?" for given in same))
    plural = "s" if len(same) > 1 else ""
    return f"#{same[0].seq} rank{plural} {ranks} ({len(same)}) {names}" + (f": {said}" if said else "")


def fold(names: Iterable[str]) -> str:
    """Join names with commas; names that differ only in their last number become a range."""
    # The last numbers of names, by the parts before and after them.
    shapes: dict[tuple[str, ...], list[str]] = {}
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
    """Tell whether ``number`` is the next one, written the same way: 9, 10 or 09, 10, but not 09, 9."""
    is_padded = before.startswith("0") or number.startswith("0")
    return int(number) == int(before) + 1 and (len(number) == len(before) or not is_padded)
