"""The life of a client: every transition, allowed or not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Final

import pytest

from rankserver.client.lifecycle import TRANSITIONS, ClientState, Lifecycle
from rankserver.wire.exceptions import DisconnectedError

LOST: Final = DisconnectedError("slow", "too far behind")
# How each state is reached from a new client, and which call leads to it.
STEPS: Final[Mapping[ClientState, Callable[[Lifecycle], None]]] = {
    ClientState.JOINING: Lifecycle.join,
    ClientState.CONNECTED: Lifecycle.connect,
    ClientState.RECONNECTING: lambda life: life.reconnect(LOST),
    ClientState.FAILED: lambda life: life.fail(LOST),
    ClientState.CLOSED: Lifecycle.close,
}
PATHS: Final[Mapping[ClientState, list[ClientState]]] = {
    ClientState.NEW: [],
    ClientState.JOINING: [ClientState.JOINING],
    ClientState.CONNECTED: [ClientState.JOINING, ClientState.CONNECTED],
    ClientState.RECONNECTING: [ClientState.JOINING, ClientState.CONNECTED, ClientState.RECONNECTING],
    ClientState.FAILED: [ClientState.JOINING, ClientState.FAILED],
    ClientState.CLOSED: [ClientState.CLOSED],
}


def reached(state: ClientState) -> Lifecycle:
    life = Lifecycle()
    for step in PATHS[state]:
        STEPS[step](life)
    assert life.state is state
    return life


@pytest.mark.parametrize(("before", "after"), list(itertools.product(ClientState, STEPS)))
def test_only_the_transitions_of_the_table_are_possible(before: ClientState, after: ClientState) -> None:
    life = reached(before)
    if after in TRANSITIONS[before]:
        STEPS[after](life)
        assert life.state is after
    else:
        with pytest.raises(RuntimeError, match=f"is {before.value} cannot become {after.value}"):
            STEPS[after](life)
        assert life.state is before


@pytest.mark.parametrize("state", ClientState)
def test_only_failed_and_closed_are_final(state: ClientState) -> None:
    assert reached(state).is_over == (state in (ClientState.FAILED, ClientState.CLOSED))


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        (ClientState.NEW, "", "the client has not connected yet"),
        (ClientState.RECONNECTING, "slow", "too far behind"),
        (ClientState.FAILED, "slow", "too far behind"),
        (ClientState.CLOSED, "", "the client is closed"),
    ],
)
def test_the_error_says_why_there_is_no_connection(state: ClientState, code: str, text: str) -> None:
    life = reached(state)
    assert (life.error.code, life.error.text) == (code, text)
    assert life.error is not life.error
