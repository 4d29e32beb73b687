"""The exit codes of the program; docs/design.md, "Command line"."""

from __future__ import annotations

import enum

from rankserver.client import events


class Exit(enum.IntEnum):
    """Exit codes. Of several commands, the one with the highest counts."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    DISCONNECTED = 4
    NOBODY = 5
    NOT_ALL = 6
    INTERRUPTED = 130


def exit_code(done: events.AskDone) -> Exit:
    """Return the exit code for what became of one command."""
    if done.nobody:
        return Exit.NOBODY
    return Exit.OK if done.ok else Exit.NOT_ALL
