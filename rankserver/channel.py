"""One connection: its state, its transport, and what its input waits for.

Everything that affects the state of a connection is in this file:

    HANDSHAKE ──HELLO accepted──> JOINING ──JOIN logged──> JOINED
        │  └─token refused─> PENALIZED │                     │
        │                        │     │                  departs
        │ departs        departs │     │ departs             v
        │                        │     │                  LEAVING
        │                        │     │                     │ LEFT logged
        └────────────────────────┴─────┴───────> CLOSING <───┘
                                                    │
                                                    │ all is sent and the peer has closed, or time is up
                                                    v
                                                  CLOSED

A channel departs exactly once, with a ``Departure`` that says why; every disconnection begins there. From
then on its input is discarded. At the end of the turn its member loses its rank. The channel is then sent the
rest of its output and its BYE, and is closed.

A channel decides nothing about ranks. The C core reads and writes its socket; for TLS connections, ``tls``
does.
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
    """The states of a connection."""

    HANDSHAKE = "its HELLO has not arrived"
    PENALIZED = "its token was refused, and the refusal is sent after a delay"
    JOINING = "its HELLO was accepted, and it joins at the end of this turn"
    JOINED = "it is the channel of a member"
    LEAVING = "it has departed, and its member leaves at the end of this turn"
    CLOSING = "it has no rank, and is sent the rest of its output"
    CLOSED = "its socket is closed at the end of this turn"

    # By identity: Enum's own hash is a function in Python, and states are looked up for every line.
    __hash__ = object.__hash__


# The states that may follow each state.
TRANSITIONS: Final = {
    ChannelState.HANDSHAKE: {ChannelState.PENALIZED, ChannelState.JOINING, ChannelState.CLOSING},
    ChannelState.PENALIZED: {ChannelState.CLOSING},
    ChannelState.JOINING: {ChannelState.JOINED, ChannelState.CLOSING},
    ChannelState.JOINED: {ChannelState.LEAVING},
    ChannelState.LEAVING: {ChannelState.CLOSING},
    ChannelState.CLOSING: {ChannelState.CLOSED},
    ChannelState.CLOSED: set[ChannelState](),
}
# The states of a connection whose HELLO was not accepted, and that has not departed.
STRANGERS: Final = frozenset({ChannelState.HANDSHAKE, ChannelState.PENALIZED})
# The states of a connection that has departed.
GOING: Final = frozenset({ChannelState.LEAVING, ChannelState.CLOSING, ChannelState.CLOSED})


class Departure(NamedTuple):
    """Why a connection ends.

    Attributes:
        code: the code of its BYE (docs/protocol.md, "Codes"); empty if it is sent none.
        text: the reason, for the BYE and the operator's log.
        is_cut: drop its output except for the rest of a frame that was sent in part, because there is too
            much output, or a frame is missing from it for lack of memory.
    """

    code: str
    text: str
    is_cut: bool = False

    @property
    def farewell(self) -> bytes:
        """The BYE for the client; empty if it is sent none."""
        return protocol.bye(self.code, self.text) if self.code else b""

    @property
    def reason(self) -> str:
        """Code and text, for the operator's log."""
        return f"{self.code} {self.text}".lstrip()


NO_MEMORY: Final = Departure("", "out of memory", is_cut=True)


class Wait(enum.Enum):
    """Why a channel's next line waits, unless it waits for one particular channel."""

    TURN = "it has had its share of this turn"
    BACKLOG = "a client is too far behind in the log"


# What a line waits for: a reason, or the channel that must read first. None if it need not wait.
Blocker: TypeAlias = "Wait | Channel | None"


class Channel:
    """The state of one connection.

    Args:
        sock: its socket, non-blocking.
        peer: its address for the log, such as ``127.0.0.1:40112``.
        log: the shared log.
        context: for TLS; None for a plain connection.

    Raises:
        MemoryError: there is no memory; the caller must close the socket.

    Attributes:
        cursor: its place in the log, its input and its private frames.
        member: the member whose channel it is, from the JOIN on; ``NOBODY`` before.
        departure: why it ends; None until that is decided.
        waits_for: what its next line waits for. Its input is kept meanwhile, and not handled.
        at_eof: the peer sends nothing more.
        heard_at: when something was last received from it.
        pinged_at: where its unanswered PING begins in the bytes that it is sent; 0 if there is none.
        taken: how many bytes the peer's system had acknowledged at the last check.
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
        """Change to another state.

        Raises:
            AssertionError: ``state`` may not follow the current one; this is a bug in the caller.
        """
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self!r} cannot become {state.name}")
        self.state = state

    @property
    def is_going(self) -> bool:
        """Whether it has departed, and what it sends no longer counts."""
        return self.state in GOING

    @property
    def is_handshaking(self) -> bool:
        """Whether to read it continues a TLS handshake."""
        return self.tls is not None and self.tls.is_handshaking

    @property
    def host(self) -> str:
        """The peer's address without its port; empty for a Unix socket."""
        return "" if self.peer.startswith("unix:") else self.peer.rpartition(":")[0]

    @property
    def can_read(self) -> bool:
        """Whether it may be read now. If not, earlier input is kept that must be handled first."""
        return self.waits_for is None and self.state is not ChannelState.JOINING

    @property
    def wants_read(self) -> bool:
        """Whether to watch for input. A wait for the next turn is too short to stop watching."""
        is_waiting = self.waits_for is not None and self.waits_for is not Wait.TURN
        return not (self.at_eof or is_waiting or self.state is ChannelState.JOINING)

    @property
    def wants_write(self) -> bool:
        """Whether output waits until the socket takes more."""
        return self.tls.is_blocked if self.tls else self.cursor.is_blocked()

    @property
    def bytes_sent(self) -> int:
        """How many bytes our system has taken for it, plus a constant. With TLS, these are encrypted."""
        return self.tls.sent if self.tls else self.cursor.sent()

    @property
    def bytes_taken(self) -> int:
        """How many of these bytes the peer's system has acknowledged. A system call.

        It may go back on a Unix socket, where our system counts its own overhead as not acknowledged.
        """
        return self.bytes_sent - self.cursor.in_flight()

    @property
    def bytes_owed(self) -> int:
        """How many bytes it will have been sent once all its pending output is sent.

        With TLS, this is too low by the overhead of what is not encrypted yet, some 30 bytes in 16 KiB.
        """
        unsent = self.tls.unsent if self.tls else 0
        return self.bytes_sent + unsent + self.cursor.lag()

    def shut_down(self) -> bool:
        """Tell the peer that nothing more comes; if this returns False, flush and call it again."""
        if self.tls and not self.tls.shut_down():
            return False
        if not self.at_eof:
            with contextlib.suppress(OSError):  # the connection is lost already
                self.sock.shutdown(socket.SHUT_WR)
        return True
