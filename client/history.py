"""Earlier commands: the file that keeps them for the next time, and how Tab completes from them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from client.console import EXIT_COMMAND, HELP_COMMAND, WHO_COMMANDS

OWN_COMMANDS: Final = tuple(command.decode() for command in (*WHO_COMMANDS, HELP_COMMAND, EXIT_COMMAND))
OWNER_ONLY: Final = 0o600  # commands can hold secrets
MOST_COMPLETIONS: Final = 50  # nobody steps through more


def matches(begin: str, history: History) -> list[str]:
    """Return what goes on after ``begin``, each once: earlier commands, the latest first, then our own.

    Nothing goes on after nothing: a menu of all that was ever typed helps nobody.
    """
    if not begin.strip():
        return []
    found: dict[str, None] = {}  # a set that keeps the order
    for text in (*reversed(history.get_strings()), *OWN_COMMANDS):
        if text.startswith(begin) and text != begin:
            found[text] = None
            if len(found) == MOST_COMPLETIONS:
                break
    return list(found)


def load() -> History:
    """Return the history in the XDG state directory, or one in memory if that cannot be used."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        path = Path(state).expanduser() / "rankserver" / "history"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open(path)
        try:
            os.fchmod(descriptor, OWNER_ONLY)  # it may be older than we are
        finally:
            os.close(descriptor)
    except (OSError, RuntimeError):  # RuntimeError: there is no home directory
        return InMemoryHistory()
    return _Kept(str(path))


class _Kept(FileHistory):
    """A history file that is its owner's alone, and costs nothing but itself when it cannot be written."""

    def store_string(self, string: str) -> None:
        """Append to the file; the disk may be full. Somebody may have removed the file: make it anew."""
        with contextlib.suppress(OSError), open(_open(self.filename), "ab") as file:
            file.write(f"\n+{string}\n".encode(errors="replace"))


def _open(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
