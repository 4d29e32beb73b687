"""Earlier commands: the file that keeps them between sessions, and completions from them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from client.console import EXIT_COMMAND, HELP_COMMAND, WHO_COMMANDS

OWN_COMMANDS: Final = tuple(command.decode() for command in (*WHO_COMMANDS, HELP_COMMAND, EXIT_COMMAND))
# Commands can hold secrets, so only the owner may read the file.
OWNER_ONLY: Final = 0o600
# The most completions that are offered: nobody steps through more.
MAX_COMPLETIONS: Final = 50


def matches(begin: str, history: History) -> list[str]:
    """Return completions of ``begin``, without duplicates: earlier commands, the latest first, then our own.

    For a blank ``begin`` there are none: a menu of everything ever typed helps nobody.
    """
    if not begin.strip():
        return []
    found: dict[str, None] = {}  # used as an ordered set
    for text in (*reversed(history.get_strings()), *OWN_COMMANDS):
        if text.startswith(begin) and text != begin:
            found[text] = None
            if len(found) == MAX_COMPLETIONS:
                break
    return list(found)


def load() -> History:
    """Return the history in the XDG state directory, or one in memory if that directory cannot be used."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        path = Path(state).expanduser() / "rankserver" / "history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open(path)
        try:
            os.fchmod(descriptor, OWNER_ONLY)  # it may have been created by something else
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return InMemoryHistory()
    return PrivateHistory(str(path))


class PrivateHistory(FileHistory):
    """A history file that only its owner can read. If it cannot be written, only the history is lost."""

    def store_string(self, string: str) -> None:
        """Append to the file, creating it if it was removed; ignore errors, such as a full disk."""
        with contextlib.suppress(OSError), open(_open(self.filename), "ab") as file:
            file.write(f"\n+{string}\n".encode(errors="replace"))


def _open(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
