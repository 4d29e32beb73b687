"""The life of a connection: its transitions, its departure, and its waits."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import Final

import pytest

from rankserver.channel import (
    GOING,
    NO_MEMORY,
    TRANSITIONS,
    Channel,
    ChannelState,
    Departure,
    Wait,
)
from rankserver.clist import Flushed, Log
from rankserver.members import NOBODY
from rankserver.wire import codes
from tests.support.memory import no_memory
from tests.support.turns import READ_SIZE

PEER: Final = "127.0.0.1:40112"


class Connected:
    """A channel and its peer."""

    def __init__(self, peer: str = PEER) -> None:
        self.log = Log(256)
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.channel = Channel(self.ours, peer, self.log)

    def close(self) -> None:
        self.log.check()
        self.log.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def connected() -> Iterator[Connected]:
    connected = Connected()
    yield connected
    connected.close()


# --- its life ---------------------------------------------------------------------------------


def test_a_new_channel_shakes_hands_has_no_member_and_reads(connected: Connected) -> None:
    channel = connected.channel
    assert channel.state is ChannelState.HANDSHAKE
    assert channel.member is NOBODY
    assert (channel.departure, channel.waits_for, channel.tls) == (None, None, None)
    assert channel.wants_read
    assert not channel.wants_write
    assert repr(channel) == "<Channel 127.0.0.1:40112 HANDSHAKE>"


@pytest.mark.parametrize(
    ("state", "after"),
    [pair for pair in itertools.product(ChannelState, repeat=2) if pair[1] in TRANSITIONS[pair[0]]],
    ids=lambda state: state.name,
)
def test_allowed_transitions_are_made(state: ChannelState, after: ChannelState, connected: Connected) -> None:
    connected.channel.state = state
    connected.channel.move(after)
    assert connected.channel.state is after


@pytest.mark.parametrize(
    ("state", "after"),
    [pair for pair in itertools.product(ChannelState, repeat=2) if pair[1] not in TRANSITIONS[pair[0]]],
    ids=lambda state: state.name,
)
def test_other_transitions_are_refused(
    state: ChannelState, after: ChannelState, connected: Connected
) -> None:
    connected.channel.state = state
    with pytest.raises(AssertionError, match=f"{state.name}> cannot become {after.name}"):
        connected.channel.move(after)
    assert connected.channel.state is state


def test_states_only_advance_and_end_in_closed() -> None:
    assert TRANSITIONS.keys() == set(ChannelState)
    seen: set[ChannelState] = set()
    ahead = [ChannelState.HANDSHAKE]
    while ahead:
        state = ahead.pop()
        seen.add(state)
        order = list(ChannelState)
        assert all(order.index(after) > order.index(state) for after in TRANSITIONS[state])
        assert TRANSITIONS[state] or state is ChannelState.CLOSED
        ahead += TRANSITIONS[state] - seen
    assert seen == set(ChannelState)


def test_a_channel_that_is_going_never_comes_back(connected: Connected) -> None:
    for state in ChannelState:
        connected.channel.state = state
        assert connected.channel.is_going == (state in GOING)
        assert not connected.channel.is_going or TRANSITIONS[state] <= GOING


# --- departures -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        codes.FULL,
        codes.AUTH,
        codes.PROTO,
        codes.TIMEOUT,
        codes.TOO_LONG,
        codes.SLOW,
        codes.SHUTDOWN,
        codes.RESUME,
    ],
)
def test_a_departure_says_its_code_to_both_sides(code: str) -> None:
    departure = Departure(code, "some words")
    assert departure.farewell == b"BYE %s some words\n" % code.encode()
    assert departure.reason == f"{code} some words"
    assert not departure.is_cut


@pytest.mark.parametrize("departure", [Departure("", "left"), Departure("", "lost"), NO_MEMORY], ids=repr)
def test_a_departure_without_a_code_has_no_farewell(departure: Departure) -> None:
    assert departure.farewell == b""
    assert departure.reason == departure.text


def test_a_departure_without_memory_is_owed_nothing() -> None:
    assert NO_MEMORY.is_cut
    assert NO_MEMORY.text == "out of memory"


# --- its properties ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "host"), [(PEER, "127.0.0.1"), ("[::1]:4711", "[::1]"), ("unix:pid=7", ""), ("unix:", "")]
)
def test_a_host_is_an_address_without_its_port(peer: str, host: str) -> None:
    connected = Connected(peer)
    assert connected.channel.host == host
    connected.close()


def test_without_memory_there_is_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Log(256) as log:
        monkeypatch.setattr(log, "open", no_memory)
        with pytest.raises(MemoryError):
            Channel(ours, PEER, log)


# --- its waits --------------------------------------------------------------------------------


def test_a_peer_that_has_closed_its_side_is_not_read(connected: Connected) -> None:
    connected.channel.at_eof = True
    assert not connected.channel.wants_read


def test_a_joining_channel_is_not_read(connected: Connected) -> None:
    connected.channel.move(ChannelState.JOINING)
    assert not connected.channel.wants_read


def test_a_wait_stops_reading_unless_the_next_turn_ends_it(connected: Connected) -> None:
    channel = connected.channel
    for blocker, wants_read in ((Wait.BACKLOG, False), (channel, False), (Wait.TURN, True), (None, True)):
        channel.waits_for = blocker
        assert channel.wants_read == wants_read


def test_it_waits_to_write_while_a_flush_is_blocked(connected: Connected) -> None:
    connected.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    channel = connected.channel
    for _ in range(100):
        channel.cursor.private(b"PONG %s\n" % (b"x" * 200))
    assert not channel.wants_write
    while channel.cursor.flush() is Flushed.BLOCKED:
        assert channel.wants_write
        connected.theirs.recv(READ_SIZE)
    assert not channel.wants_write


def test_owed_bytes_include_everything_that_waits(connected: Connected) -> None:
    channel, log = connected.channel, connected.log
    log.join(1)
    channel.cursor.attach(1)
    channel.cursor.private(b"PONG\n")
    log.append(b"JOIN", b"0")
    taken = channel.bytes_taken
    assert channel.bytes_owed == taken + len(b"PONG\nJOIN 1 0\n")
    assert channel.cursor.flush() is Flushed.DONE
    assert channel.cursor.sent() == channel.bytes_owed


@pytest.mark.parametrize("size", [5, 3000, 60_000])
def test_bytes_count_as_taken_once_the_peer_has_read_them(connected: Connected, size: int) -> None:
    channel, read = connected.channel, 0
    connected.theirs.setblocking(False)
    for _ in range(600_000 // size):
        channel.cursor.private(b"x" * (size - 1) + b"\n")
        if channel.cursor.flush() is Flushed.BLOCKED:
            assert channel.bytes_taken <= read
            read += len(connected.theirs.recv(20_000))
    while channel.cursor.flush() is Flushed.BLOCKED or read < channel.bytes_sent:
        assert channel.bytes_taken <= read
        read += len(connected.theirs.recv(20_000))
    assert channel.bytes_taken == read == channel.bytes_owed


# --- its end ----------------------------------------------------------------------------------


def test_a_shutdown_ends_our_side_alone(connected: Connected) -> None:
    assert connected.channel.shut_down()
    assert connected.theirs.recv(1) == b""
    connected.theirs.send(b"x")
    assert connected.ours.recv(1) == b"x"


@pytest.mark.parametrize("at_eof", [False, True])
def test_a_shutdown_of_a_connection_that_is_gone_is_no_error(at_eof: bool, connected: Connected) -> None:
    connected.theirs.close()
    connected.channel.at_eof = at_eof
    assert connected.channel.shut_down()
    assert connected.channel.shut_down()
