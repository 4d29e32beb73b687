"""What a session reports: one immutable value for each thing that happened, in the order of the log.

``session`` makes them, whoever drives it (``console``, or a program) reads them. Texts and names are as the
server sent them.
"""

from __future__ import annotations

from typing import NamedTuple

from rankserver import frames


class Connected(NamedTuple):
    """The server let us in."""

    name: str
    rank: int
    clients: int


class Sent(NamedTuple):
    """Our command is in the log."""

    seq: int
    text: str
    wants_answer: bool


class Execute(NamedTuple):
    """A higher rank commands; it gets an answer when that is done if ``wants_answer``."""

    seq: int
    rank: int  # of the sender
    text: str
    wants_answer: bool
    own_rank: int  # ours, when it was logged
    own_name: str


class Refused(NamedTuple):
    """A lower rank tried to command; if it wanted an answer, the session has given it."""

    seq: int
    rank: int
    text: str


class RankChanged(NamedTuple):
    """Our rank changed, and with it the number of clients."""

    rank: int
    clients: int


class ClientsChanged(NamedTuple):
    """The number of clients changed, our rank did not."""

    clients: int


class Answered(NamedTuple):
    """The client that now holds ``rank`` answered our ASK ``seq``; ``detail`` is JSON text or empty."""

    seq: int
    rank: int
    name: str
    status: str
    detail: str


class AskDone(NamedTuple):
    """All who could answer our ASK have answered or left; each of them is in one of the counts."""

    seq: int
    text: str
    may_execute: int  # clients that ranked lower when it was logged
    executed: int
    refused: int
    failed: int
    denied: int
    timed_out: int
    gone: int


class RosterReceived(NamedTuple):
    """The answer to ``who``, in the order of ranks."""

    members: tuple[frames.Member, ...]


class Rejected(NamedTuple):
    """The server rejected what we sent; ``command`` is the command that is lost, None if it was none."""

    code: str
    text: str
    command: str | None


class Disconnected(NamedTuple):
    """The last event of a session that we did not leave; ``code`` is that of BYE, empty if there was none."""

    code: str
    text: str


Event = (
    Connected
    | Sent
    | Execute
    | Refused
    | RankChanged
    | ClientsChanged
    | Answered
    | AskDone
    | RosterReceived
    | Rejected
    | Disconnected
)
