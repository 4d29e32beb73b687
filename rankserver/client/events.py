"""What a client reports: one immutable value for each thing that happened, in the order of the log.

``session`` and ``aio`` make them, whoever iterates over a client reads them. Texts and names are as others
sent them: whoever shows them makes control characters visible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rankserver.wire import frames, protocol

GONE: Final = "gone"  # left before it answered; the statuses of the protocol are the other outcomes
OUTCOMES: Final = (*protocol.STATUSES, GONE)


class Connected(NamedTuple):
    """The server let us in; the first event, and the first after each ``Disconnected``."""

    name: str
    rank: int
    clients: int
    seq: int  # the log frames after this one follow
    rank_class: int = 0  # ours: within one it is first come, first served, and lower ones rank above


class Sent(NamedTuple):
    """Our command is in the log."""

    seq: int
    text: str
    wants_answer: bool
    targets: int  # the clients that were there besides us: if it is an ASK, as many answers follow


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


class Outcome(NamedTuple):
    """What became of a command here: one of ``protocol.STATUSES``, and fields for whoever asked.

    The fields are those of protocol.md (``code``, ``out``, ``ms``, ``truncated``) and ``reason``, one line
    for a person.
    """

    status: str
    detail: Mapping[str, object] | None = None


class Started(NamedTuple):
    """We begin to execute this command."""

    command: Execute


class Finished(NamedTuple):
    """We are done with this command, and whoever asked is told."""

    command: Execute
    outcome: Outcome


class RankChanged(NamedTuple):
    """Our rank changed, and with it the number of clients."""

    rank: int
    clients: int
    seq: int  # of the frame that did it


class ClientsChanged(NamedTuple):
    """The number of clients changed, our rank did not."""

    clients: int
    seq: int


class Answer(NamedTuple):
    """What became of our ASK ``seq`` at one of the clients that were there when it was logged.

    Attributes:
        rank: that it held when the ASK was logged: within one ask this names a client, while ranks move on.
        name: empty if it was gone before we learned it.
        status: one of ``OUTCOMES``.
        code: exit code, if there is one.
        out: what it put out.
        ms: how long it took, in milliseconds, if it says so.
        truncated: whether there was more than ``out``.
        reason: one line for a person that says why, or empty.
    """

    seq: int
    rank: int
    name: str
    status: str
    code: int | None = None
    out: str = ""
    ms: int | None = None
    truncated: bool = False
    reason: str = ""


class Counts(NamedTuple):
    """How many clients an ASK had each outcome at; the sum is all that were there when it was logged."""

    ok: int = 0
    failed: int = 0
    refused: int = 0
    denied: int = 0
    timeout: int = 0
    gone: int = 0


class AskDone(NamedTuple):
    """Our ASK has an ``Answer`` from each of its targets."""

    seq: int
    text: str
    may_execute: int  # clients that ranked lower when it was logged
    counts: Counts

    @property
    def nobody(self) -> bool:
        """Whether there was nobody who may execute it: all ranked higher, or nobody was there."""
        return self.may_execute == 0

    @property
    def ok(self) -> bool:
        """Whether there was somebody who may execute it, and all of them did so."""
        return 0 < self.may_execute == self.counts.ok


class RosterReceived(NamedTuple):
    """The answer to ``who``, in the order of ranks."""

    members: tuple[frames.RosterEntry, ...]


class Rejected(NamedTuple):
    """The server rejected what we sent; ``command`` is the command that is lost, None if it was none."""

    code: str
    text: str
    command: str | None


class Lost(NamedTuple):
    """The connection ended before our command was seen in the log: it may be there, or not."""

    command: str


class Disconnected(NamedTuple):
    """The connection ended, and we did not leave; ``code`` is that of BYE, empty if there was none."""

    code: str
    text: str


class Retrying(NamedTuple):
    """We try to connect again in ``delay`` seconds; ``text`` says why the last try failed, or is empty."""

    text: str
    delay: float


Event = (
    Connected
    | Sent
    | Execute
    | Refused
    | Started
    | Finished
    | RankChanged
    | ClientsChanged
    | Answer
    | AskDone
    | RosterReceived
    | Rejected
    | Lost
    | Disconnected
    | Retrying
)
