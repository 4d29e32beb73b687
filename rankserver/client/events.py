"""What a client reports: one immutable value for each thing that happened, in the order of the log.

``session`` and ``aio`` make them; whoever iterates over a client reads them. Texts and names are as others
sent them: whoever shows them must make control characters visible (``display.visible``).

Events about something that this client sent have a ``handle``, which is not part of their value: the object
that the session was given with it. For the asyncio ``Client.ask`` it is the ``Ask`` that was returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from rankserver.wire import frames, protocol

# The outcome of a client that left before it answered; the others are the statuses of the protocol.
GONE: Final = "gone"
# All outcomes, in the order of the fields of ``Counts``.
OUTCOMES: Final = (*protocol.STATUSES, GONE)


def _handle() -> Any:
    """Return a field for what is no part of an event's value."""
    return field(default=None, compare=False, repr=False)


class Connected(NamedTuple):
    """The server let us in; the first event, and the first after each ``Disconnected``.

    Attributes:
        name: our name.
        rank: our rank.
        clients: the number of clients, us included.
        seq: the number of the last log frame before we joined.
        rank_class: our class; clients of lower classes rank above. Within a class, first come, first served.
    """

    name: str
    rank: int
    clients: int
    seq: int
    rank_class: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """Our command is in the log.

    Attributes:
        seq: its number there.
        text: the command.
        wants_answer: whether it is an ASK.
        targets: how many other clients were there. An ASK gets one ``Answer`` from each of them.
        handle: see the module.
    """

    seq: int
    text: str
    wants_answer: bool
    targets: int
    handle: object = _handle()


class Execute(NamedTuple):
    """A higher rank commands.

    Attributes:
        seq: the command's number in the log.
        rank: the sender's rank.
        text: the command.
        wants_answer: whether the sender is told what becomes of it.
        own_rank: our rank when it was logged.
        own_name: our name.
    """

    seq: int
    rank: int
    text: str
    wants_answer: bool
    own_rank: int
    own_name: str


class Refused(NamedTuple):
    """A lower rank tried to command. If it wanted an answer, the session has given it."""

    seq: int
    rank: int
    text: str


class Outcome(NamedTuple):
    """What became of a command here.

    Attributes:
        status: one of ``protocol.STATUSES``.
        detail: fields for whoever asked: those of protocol.md (``code``, ``out``, ``ms``, ``truncated``) and
            ``reason``, one line for a person.
    """

    status: str
    detail: Mapping[str, object] | None = None


class Started(NamedTuple):
    """We have begun to execute this command."""

    command: Execute


class Finished(NamedTuple):
    """We have finished this command, and whoever asked is told."""

    command: Execute
    outcome: Outcome


class RankChanged(NamedTuple):
    """The log frame ``seq`` changed our rank, and with it the number of clients."""

    rank: int
    clients: int
    seq: int


class ClientsChanged(NamedTuple):
    """The log frame ``seq`` changed the number of clients, but not our rank."""

    clients: int
    seq: int


class Answer(NamedTuple):
    """What became of our ASK ``seq`` at one of the clients that were there when it was logged.

    Attributes:
        seq: the number of the ASK.
        rank: the rank that the client held when the ASK was logged. Within one ASK this identifies a client,
            while ranks change.
        name: its name; empty if it left before we learned it.
        status: one of ``OUTCOMES``.
        code: exit code, if there is one.
        out: its output.
        ms: how long it took, in milliseconds, if it says so.
        truncated: whether there was more output than ``out``.
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
    """At how many clients an ASK had each outcome; the sum is all that were there when it was logged."""

    ok: int = 0
    failed: int = 0
    refused: int = 0
    denied: int = 0
    timeout: int = 0
    gone: int = 0


class AskDone(NamedTuple):
    """Our ASK has an ``Answer`` from each of its targets.

    Attributes:
        seq: the number of the ASK.
        text: the command.
        may_execute: how many clients ranked below us when it was logged.
        counts: how many answers have each outcome.
    """

    seq: int
    text: str
    may_execute: int
    counts: Counts

    @property
    def nobody(self) -> bool:
        """Whether nobody was there who may execute it: all ranked above us, or we were alone."""
        return self.may_execute == 0

    @property
    def ok(self) -> bool:
        """Whether somebody was there who may execute it, and all of them did."""
        return 0 < self.may_execute == self.counts.ok


@dataclass(frozen=True, slots=True)
class RosterReceived:
    """The answer to ``who``, in the order of ranks."""

    members: tuple[frames.RosterEntry, ...]
    handle: object = _handle()


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server rejected what we sent.

    Attributes:
        code: the code of its ERR.
        text: one line for a person.
        command: the command that had no effect; None if it was something else.
        handle: see the module.
    """

    code: str
    text: str
    command: str | None
    handle: object = _handle()


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended before our command was seen in the log: it may be there, or not."""

    command: str
    handle: object = _handle()


class Disconnected(NamedTuple):
    """The connection ended, and we did not leave. ``code`` is that of BYE; empty if there was none."""

    code: str
    text: str


class Retrying(NamedTuple):
    """We will try to connect again in ``delay`` seconds.

    ``text`` says why the last try failed; it is empty before the first one.
    """

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
