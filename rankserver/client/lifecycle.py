"""The life of a client: its states, and what may follow each.

::

    NEW -----> JOINING -----> CONNECTED <----> RECONNECTING
     |            |               |                 |
     |            +---------------+-----------------+----> FAILED
     |            |               |                 |
     +------------+---------------+-----------------+----> CLOSED

FAILED and CLOSED are final: the connection is lost for good, or the client was closed. Everything that
changes the state is in this module, so that no other part needs a flag of its own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from rankserver.wire.exceptions import DisconnectedError

CLOSED_TEXT: Final = "the client is closed"


class ClientState(enum.Enum):
    """The states of a client."""

    NEW = "new"
    JOINING = "joining"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"
    CLOSED = "closed"


TRANSITIONS: Final[Mapping[ClientState, frozenset[ClientState]]] = {
    ClientState.NEW: frozenset({ClientState.JOINING, ClientState.CLOSED}),
    ClientState.JOINING: frozenset({ClientState.CONNECTED, ClientState.FAILED, ClientState.CLOSED}),
    ClientState.CONNECTED: frozenset({ClientState.RECONNECTING, ClientState.FAILED, ClientState.CLOSED}),
    ClientState.RECONNECTING: frozenset({ClientState.CONNECTED, ClientState.FAILED, ClientState.CLOSED}),
    ClientState.FAILED: frozenset(),
    ClientState.CLOSED: frozenset(),
}


class Lifecycle:
    """The state of one client, and the reason why it has no connection when it has none."""

    def __init__(self) -> None:
        self._state = ClientState.NEW
        self._code = ""
        self._text = "the client has not connected yet"

    @property
    def state(self) -> ClientState:
        """The current state."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether the state is final: there will never be a connection again."""
        return not TRANSITIONS[self._state]

    @property
    def error(self) -> DisconnectedError:
        """Why there is no connection, as a new error: each one that is raised collects a traceback."""
        return DisconnectedError(self._code, self._text)

    def join(self) -> None:
        """Begin to join."""
        self._move(ClientState.JOINING)

    def connect(self) -> None:
        """Note that we have joined."""
        self._move(ClientState.CONNECTED)

    def reconnect(self, reason: DisconnectedError) -> None:
        """Note that the connection is lost, and that we will try to reconnect."""
        self._move(ClientState.RECONNECTING, reason)

    def fail(self, reason: DisconnectedError) -> None:
        """Note that the connection is lost for good."""
        self._move(ClientState.FAILED, reason)

    def close(self) -> None:
        """Note that the program has closed the client."""
        self._move(ClientState.CLOSED, DisconnectedError("", CLOSED_TEXT))

    def _move(self, state: ClientState, reason: DisconnectedError | None = None) -> None:
        if state not in TRANSITIONS[self._state]:
            raise RuntimeError(f"a client that is {self._state.value} cannot become {state.value}")
        self._state = state
        if reason is not None:
            self._code, self._text = reason.code, reason.text
