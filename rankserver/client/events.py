"""The events of a client: one immutable value for each thing that happens, in the order of the log.

Iterating over a client yields them. Texts and names are exactly as others sent them: before you show them,
make control characters visible (``display.visible``).

Events about something that this client sent have a ``handle``: the object that was passed to the session with
it. For ``aio.Client.ask``, that is the returned ``Ask``. It is not part of the event's value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from rankserver.wire import codes, frames

# The outcome of a client whose answer can no longer come: it left before it answered, the server has
# forgotten the ASK, or the connection was lost. All other outcomes are statuses of the protocol.
GONE: Final = "gone"
# All outcomes, in the order of the fields of ``Counts``.
OUTCOMES: Final = (*codes.STATUSES, GONE)


def _handle() -> Any:
    """Return a dataclass field that is not part of an event's value."""
    return field(default=None, compare=False, repr=False)


class Connected(NamedTuple):
    """We have joined. At first and after each ``Disconnected``, only ``Retrying`` can come before it.

    Attributes:
        name: our name.
        rank: our rank.
        clients: the number of clients, including us.
        seq: the number of the last log frame before we joined.
        rank_class: our class. Clients of lower classes rank above us; within a class, rank is first come,
            first served.
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
        handle: see the module docstring.
    """

    seq: int
    text: str
    wants_answer: bool
    targets: int
    handle: object = _handle()


class Execute(NamedTuple):
    """A client of higher rank sent a command.

    Attributes:
        seq: the command's number in the log.
        rank: the sender's rank.
        text: the command.
        wants_answer: whether the sender wants to know the outcome.
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
    """A client of lower rank sent a command. If it wants an answer, the session has sent it."""

    seq: int
    rank: int
    text: str


class Outcome(NamedTuple):
    """The outcome of a command at this client.

    Attributes:
        status: one of ``codes.STATUSES``.
        detail: fields for the sender: those of protocol.md (``code``, ``out``, ``ms``, ``truncated``) and
            ``reason``, one line for a person.
    """

    status: str
    detail: Mapping[str, object] | None = None


class Started(NamedTuple):
    """We have begun to execute this command."""

    command: Execute


class Finished(NamedTuple):
    """We have finished this command, and have answered if the sender wants an answer."""

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
    """The outcome of our ASK ``seq`` at one of the clients that were there when it was logged.

    Attributes:
        seq: the number of the ASK.
        rank: the rank that the client held when the ASK was logged. It identifies the client within this ASK,
            even if ranks change later.
        name: the client's name; empty if it left before we learned it.
        status: one of ``OUTCOMES``.
        code: the exit code, if the client sent one.
        out: the output.
        ms: how long the command took, in milliseconds, if the client sent that.
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
    """The number of clients with each outcome of an ASK; the sum is the number of its targets."""

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
        may_execute: how many clients ranked below us when it was logged, and so may execute it.
        counts: the number of answers with each outcome.
    """

    seq: int
    text: str
    may_execute: int
    counts: Counts

    @property
    def nobody(self) -> bool:
        """Whether no client may execute it: all others ranked above us, or we were alone."""
        return self.may_execute == 0

    @property
    def ok(self) -> bool:
        """Whether at least one client may execute it, and all that may did."""
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
        command: the rejected command; None if the server rejected something else.
        handle: see the module docstring.
    """

    code: str
    text: str
    command: str | None
    handle: object = _handle()


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection ended before we saw our command in the log, so it may be there or not."""

    command: str
    handle: object = _handle()


class Disconnected(NamedTuple):
    """The connection ended, but we did not leave. ``code`` is that of BYE; empty if there was none."""

    code: str
    text: str


class Retrying(NamedTuple):
    """We will try to connect again in ``delay`` seconds.

    ``text`` says why the last try failed; it is empty if the connection was lost and there was no try yet.
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
