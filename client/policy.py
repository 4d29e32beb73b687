"""Which commands may be executed here: those that match a pattern of an *allow file*, all, or none.

An allow file has one pattern on each line; empty lines and lines that begin with ``#`` are ignored. A pattern
is split into words as a shell would split it. Each word is an ``fnmatch`` pattern for the command's word at
the same place, and a last word ``...`` allows any further words. As in a shell, what is quoted stands for
itself:

    uptime
    systemctl status *
    df -h ...
    find /srv -name "*.log"
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from rankserver.wire import grammar
from rankserver.wire.exceptions import ConfigError

ANY_FURTHER: Final = "..."
# A stretch of a line that ``shlex.split`` accepts: blanks between words, or a part of a word, which is quoted
# in one of three ways or not at all.
STRETCH: Final = re.compile(
    r"""(?P<blank> [ \t\r\n]+ )
      | ' (?P<single> [^']* ) '
      | " (?P<double> (?: [^"\\] | \\. )* ) "
      | \\ (?P<one> . )
      | (?P<bare> [^ \t\r\n'"\\]+ )""",
    re.DOTALL | re.VERBOSE,
)
# The characters that a backslash protects between double quotes; before any other it stands for itself.
ESCAPED: Final = re.compile(r'\\(["\\])')
# A whole set of characters: a ``]`` at its beginning belongs to it.
SET: Final = re.compile(r"\[!?\]?[^\]]*\]")
# The characters that mean something in a pattern. A set of one character matches only that character.
SPECIAL: Final = re.compile(r"([*?\[.])")


class Policy:
    """What may be executed. Commands are compared word by word, exactly as they were typed.

    Args:
        patterns: each a list of words; a command is allowed if one of them matches.
        allows_all: whether to allow everything, whatever the patterns.
    """

    def __init__(self, patterns: Iterable[Sequence[str]] = (), *, allows_all: bool = False) -> None:
        self._patterns = [tuple(pattern) for pattern in patterns]
        self.allows_all = allows_all

    def allows(self, argv: Sequence[str]) -> bool:
        """Tell whether the command ``argv`` may be executed. O(patterns)."""
        return self.allows_all or any(_matches(pattern, argv) for pattern in self._patterns)


ALL: Final = Policy(allows_all=True)
NOTHING: Final = Policy()


def load(path: str | Path) -> Policy:
    """Read an allow file.

    Raises:
        ConfigError: it cannot be read, or a line cannot be split into words.
    """
    try:
        text = Path(path).read_text("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise ConfigError(f"cannot read the allow file {str(path)!r}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the allow file {str(path)!r} is not UTF-8: {error.reason}") from None
    lines = enumerate(map(str.strip, text.split("\n")), start=1)
    return Policy(_pattern(path, number, line) for number, line in lines if line and line[0] != "#")


def _pattern(path: str | Path, number: int, line: str) -> list[str]:
    try:
        return split(line)
    except ValueError as error:
        problem = f"{str(error).lower()} in {grammar.shown(line)}"
        raise ConfigError(f"line {number} of the allow file {str(path)!r}: {problem}") from None


def split(line: str) -> list[str]:
    """Split a line into words as ``shlex.split`` does; return them as patterns in which quotes protect.

    Raises:
        ValueError: a quotation is not closed, nothing follows a backslash, or something is quoted in a set
            such as ``[a-z]``, which ``fnmatch`` cannot express.
    """
    shlex.split(line)  # raises ValueError for what no stretch matches
    words: list[str] = []
    is_within = False
    for stretch in STRETCH.finditer(line):
        if stretch["blank"] is not None:
            is_within = False
            continue
        if not is_within:
            words.append("")
        words[-1] += _part(stretch, words[-1])
        is_within = True
    return words


def _part(stretch: re.Match[str], before: str) -> str:
    """Return a part of a word as a pattern; ``before`` is the pattern of the word's earlier parts."""
    if stretch["bare"] is not None:
        return stretch["bare"]
    if _opens_set(before):
        raise ValueError("quotes and backslashes cannot be used after an open [")
    double = stretch["double"]
    quoted = ESCAPED.sub(r"\1", double) if double is not None else stretch["single"] or stretch["one"] or ""
    return SPECIAL.sub(r"[\1]", quoted)


def _opens_set(pattern: str) -> bool:
    """Tell whether a ``[`` of ``pattern`` is not closed, so that what follows may belong to a set."""
    return "[" in SET.sub("", pattern)


def _matches(pattern: tuple[str, ...], argv: Sequence[str]) -> bool:
    if pattern[-1:] == (ANY_FURTHER,):
        pattern = pattern[:-1]
        argv = argv[: len(pattern)]
    return len(argv) == len(pattern) and all(map(fnmatchcase, argv, pattern))
