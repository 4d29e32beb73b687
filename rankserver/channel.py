"""One connection: its life, its transport, and what its input waits for.

Everything that affects the life of a connection lives in this file:

    HANDSHAKE ──HELLO accepted──> JOINING ──JOIN logged──> JOINED
        │  └─token refused─> PENALIZED │                     │
        │                        │     │                  departs
        │ departs        departs │     │ departs             v
        │                        │     │                  LEAVING
        │                        │     │                     │ LEFT logged
        └────────────────────────┴─────┴───────> CLOSING <───┘
                                                    │ it has taken what it is owed and closed, or has had its
                                                    time v
                                                  CLOSED

A channel departs once, with a ``Departure`` that says why; every way to go begins there. What it sends after
that is thrown away. It loses its rank at the end of the turn, is sent what it is owed and its farewell, and
is then closed.

A channel decides nothing about ranks. The C core reads and writes its socket, or ``tls`` does where that
cannot.
"""

from __future__ import annotations

import contextlib
import enum
import socket
import ssl
from typing import Final, NamedTuple, TypeAlias

from rankserver.clist import Cursor, Log
from rankserver.members import NOBODY
from rankserver.tls import TlsTransport
from rankserver.wire import protocol


class ChannelState(enum.Enum):
    """Where a connection is in its life."""

    HANDSHAKE = "its HELLO has not come"
    PENALIZED = "its token was refused, and it will be told so after a delay"
    JOINING = "its HELLO was accepted, and it joins at the end of this turn"
    JOINED = "it is the channel of a member"
    LEAVING = "it departs, and its member leaves at the end of this turn"
    CLOSING = "it has no rank, and is sent what it is owed"
    CLOSED = "its socket is closed at the end of this turn"


# Which states may follow each.
TRANSITIONS: Final = {
    ChannelState.HANDSHAKE: {ChannelState.PENALIZED, ChannelState.JOINING, ChannelState.CLOSING},
    ChannelState.PENALIZED: {ChannelState.CLOSING},
    ChannelState.JOINING: {ChannelState.JOINED, ChannelState.CLOSING},
    ChannelState.JOINED: {ChannelState.LEAVING},
    ChannelState.LEAVING: {ChannelState.CLOSING},
    ChannelState.CLOSING: {ChannelState.CLOSED},
    ChannelState.CLOSED: set[ChannelState](),
}
# Those that have not joined and do not go.
STRANGERS: Final = frozenset({ChannelState.HANDSHAKE, ChannelState.PENALIZED})
GOING: Final = frozenset({ChannelState.LEAVING, ChannelState.CLOSING, ChannelState.CLOSED})


class Departure(NamedTuple):
    """Why a connection goes.

    Attributes:
        code: that of its BYE (docs/protocol.md, "Codes"); empty if it goes without one.
        text: for the BYE, and for the operator's log.
        is_cut: it is sent no more than the frame that it has begun to get, because what it is owed is too
            much, or has a hole where memory was lacking.
    """

    code: str
    text: str
    is_cut: bool = False

    @property
    def farewell(self) -> bytes:
        """The frame that says so to the client, or nothing."""
        return protocol.bye(self.code, self.text) if self.code else b""

    @property
    def reason(self) -> str:
        """The reason for the operator, code and text."""
        return f"{self.code} {self.text}".lstrip()


NO_MEMORY: Final = Departure("", "out of memory", is_cut=True)


class Wait(enum.Enum):
    """Why a channel's next line waits, if it is not for one other channel."""

    TURN = "it has had its share of this turn"
    BACKLOG = "somebody is too far behind in the log"


# What a line waits for: a reason, or the channel that must read first. None where nothing must.
Blocker: TypeAlias = "Wait | Channel | None"


class Channel:
    """The state of one connection.

    Args:
        sock: its socket, non-blocking.
        peer: its address for the log, such as ``127.0.0.1:40112``.
        log: the shared log.
        context: for TLS; None for a plain connection.

    Raises:
        MemoryError: there is none; the caller closes the socket.

    Attributes:
        cursor: its place in the log, its input and its private frames.
        member: whose channel it is, from the JOIN on; ``NOBODY`` before.
        departure: why it goes, once it does.
        waits_for: what its next line waits for. All that it sent stays where it is meanwhile.
        at_eof: nothing more comes from the peer.
        heard_at: when something last came from it.
        pinged_at: how many bytes it will have been sent before its unanswered PING; 0 without one.
        taken: how many bytes its system had taken when that was last looked at.
        interest: the selector events that it is registered for.
    """

    __slots__ = (
        "at_eof",
        "cursor",
        "departure",
        "heard_at",
        "interest",
        "member",
        "peer",
        "pinged_at",
        "sock",
        "state",
        "taken",
        "tls",
        "waits_for",
    )

    def __init__(
        self, sock: socket.socket, peer: str, log: Log, context: ssl.SSLContext | None = None
    ) -> None:
        self.sock = sock
        self.peer = peer
        self.cursor: Cursor = log.open(sock.fileno(), external=context is not None)
        try:
            self.tls = TlsTransport(sock, context, self.cursor) if context else None
        except (MemoryError, ssl.SSLError):
            self.cursor.discard()
            raise MemoryError from None
        self.state = ChannelState.HANDSHAKE
        self.member = NOBODY
        self.departure: Departure | None = None
        self.waits_for: Blocker = None
        self.at_eof = False
        self.heard_at = 0.0
        self.pinged_at = 0
        self.taken = 0
        self.interest = 0

    def __repr__(self) -> str:
        return f"<Channel {self.peer} {self.state.name}>"

    def move(self, state: ChannelState) -> None:
        """Go on to another state.

        Raises:
            AssertionError: it may not follow; this is a bug of the caller.
        """
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.name}")
        self.state = state

    @property
    def is_going(self) -> bool:
        """Whether nothing that it sends counts any more."""
        return self.state in GOING

    @property
    def host(self) -> str:
        """The peer's address without its port; empty for a Unix socket."""
        return "" if self.peer.startswith("unix:") else self.peer.rpartition(":")[0]

    @property
    def wants_read(self) -> bool:
        """Whether to be told of bytes from the peer. A wait for the next turn is too short to say no."""
        is_waiting = self.waits_for is not None and self.waits_for is not Wait.TURN
        return not (self.at_eof or is_waiting or self.state is ChannelState.JOINING)

    @property
    def wants_write(self) -> bool:
        """Whether something waits until the socket takes more."""
        return self.tls.is_blocked if self.tls else self.cursor.is_blocked()

    @property
    def bytes_taken(self) -> int:
        """How many of the bytes that were sent to it the client's system has taken. A system call."""
        return self.cursor.sent() - self.cursor.in_flight()

    @property
    def bytes_owed(self) -> int:
        """How many bytes it will have been sent when it has been sent all that waits for it now."""
        return self.cursor.sent() + self.cursor.lag()

    def shut_down(self) -> bool:
        """Tell the peer that it was sent all; return whether it could be told: else flush, and try again."""
        if self.tls and not self.tls.shut_down():
            return False
        if not self.at_eof:
            with contextlib.suppress(OSError):  # the connection is gone already
                self.sock.shutdown(socket.SHUT_WR)
        return True
