"""The exit codes of the program; see docs/scripts.md, "Exit codes"."""

from __future__ import annotations

import enum

from rankserver.client import events


class Exit(enum.IntEnum):
    """Exit codes. With several commands, the highest code counts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    DISCONNECTED = 4
    NOBODY = 5
    NOT_ALL = 6
    INTERRUPTED = 130


def exit_code(done: events.AskDone) -> Exit:
    """Return the exit code for the outcome of one command."""
    if done.nobody:
        return Exit.NOBODY
    return Exit.OK if done.ok else Exit.NOT_ALL
