"""Which commands may be executed here: those that match a pattern of an *allow file*, all, or none.

An allow file has one pattern on each line; empty lines and lines that begin with ``#`` are ignored. A pattern
is split into words as a shell would split it. Each word is an ``fnmatch`` pattern for the command's word at
the same place, and a last word ``...`` allows any further words:

    uptime
    systemctl status *
    df -h ...
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from rankserver.wire import grammar
from rankserver.wire.exceptions import ConfigError

ANY_FURTHER: Final = "..."


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
        return shlex.split(line)
    except ValueError as error:
        problem = f"{str(error).lower()} in {grammar.shown(line)}"
        raise ConfigError(f"line {number} of the allow file {str(path)!r}: {problem}") from None


def _matches(pattern: tuple[str, ...], argv: Sequence[str]) -> bool:
    if pattern[-1:] == (ANY_FURTHER,):
        pattern = pattern[:-1]
        argv = argv[: len(pattern)]
    return len(argv) == len(pattern) and all(map(fnmatchcase, argv, pattern))
