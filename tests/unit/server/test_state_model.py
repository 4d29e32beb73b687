"""Inputs determine the state: a state that is fed the inputs of a server ends up in the same state.

Two servers get the same bytes in the same pieces. The first lets the C core log commands as they are read;
the order of the second collects them. The inputs from that order are encoded, decoded, and applied to a
third, separate state. All three must have the same log, ranks and asks, and send the same private frames to
the same members at the same places in the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.channel import ChannelState
from rankserver.clist import Log
from rankserver.inputs import Input, Lines, decode, encode
from rankserver.members import Member
from rankserver.membership import MIN_JOIN_WAIT
from rankserver.server import Server
from rankserver.state import State
from tests.support.draining import drain
from tests.support.turns import SteppedServer, hello, tokens_by_class

MAX_LINE: Final = 256
CLASSES: Final = (0, 1, 2)
# Matches the session in a WELCOME, which is random.
SESSION: Final = re.compile(rb'"session":"[^"]*"')
# The private frames that a state sends to one client.
TOLD: Final = re.compile(rb"^(?:RES [0-9]+ [0-9]+ |ERR no-such-ask |DROPPED ).*\n", re.MULTILINE)
# The most open asks of one member, and asks of members that have left: so few that clients reach them.
MAX_ASKS: Final = 2
MAX_ORPHANS: Final = 3


class Follower:
    """A state that is fed inputs, and the frames that it sends."""

    def __init__(self) -> None:
        self.log = Log(MAX_LINE)
        self.state = State(self.log, MAX_LINE, self)
        self.reader = self.log.retain()
        self.told: list[tuple[int, int, bytes]] = []

    def joined(self, members: Sequence[Member], ranks: Sequence[int]) -> None:
        assert [self.log.rank(member.id) for member in members] == list(ranks)

    def left(self, members: Sequence[Member]) -> None:
        assert not {member.id for member in members} & self.state.roster.by_id.keys()

    def tell(self, member: Member, frame: bytes) -> None:
        self.told.append((self.log.seq, member.id, frame))


class Collecting:
    """An order that hands out inputs on request, to its server and to a follower."""

    def __init__(self, follower: Follower) -> None:
        self.collects = True
        self.proposed: list[bytes] = []
        self.applied: list[Input] = []
        self._follower = follower

    def propose(self, given: Input) -> None:
        self.proposed.append(encode(given))

    def ready(self) -> Iterator[Input]:
        proposed, self.proposed = self.proposed, []
        for data in proposed:
            self._follower.state.apply(decode(data))
            self.applied.append(decode(data))
            yield decode(data)


class Recording(Server):
    """A server that records what its state told each member, and at which place in the log."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.told: list[tuple[int, int, bytes]] = []
        super().__init__(*arguments, **options)

    def tell(self, member: Member, frame: bytes) -> None:
        self.told.append((self.state.log.seq, member.id, frame))
        super().tell(member, frame)


class Twins:
    """Two servers that read the same bytes, and the follower of the second."""

    def __init__(self) -> None:
        self.follower = Follower()
        self.order = Collecting(self.follower)
        tokens = tokens_by_class(*CLASSES)
        self.servers = [
            SteppedServer(64, tokens, Recording, max_line=MAX_LINE),
            SteppedServer(64, tokens, self._collecting, max_line=MAX_LINE),
        ]
        self.readers = [stepped.log.retain() for stepped in self.servers]
        for state in (self.follower.state, *(stepped.state for stepped in self.servers)):
            state.asks.limit, state.asks.orphan_limit = MAX_ASKS, MAX_ORPHANS

    def __enter__(self) -> Twins:
        return self

    def __exit__(self, *_exc: object) -> None:
        for stepped in self.servers:
            stepped.__exit__()
        self.follower.log.check()
        self.follower.log.close()

    def turn(self) -> None:
        for stepped in self.servers:
            stepped.turn()

    def connect(self) -> None:
        for stepped in self.servers:
            stepped.connect()

    def send(self, number: int, data: bytes) -> None:
        """Let a client send, unless the server has closed it."""
        for stepped in self.servers:
            client = stepped.clients[number]
            if client.sock.fileno() >= 0 and client.channel.sock.fileno() >= 0:
                client.send(data)

    def hang_up(self, number: int) -> None:
        for stepped in self.servers:
            stepped.clients[number].sock.close()

    def settle(self) -> None:
        """Take turns until all that was sent has been handled."""
        for _ in range(8):
            self.turn()
        for stepped in self.servers:
            stepped.wait(2 * MIN_JOIN_WAIT)

    def compare(self) -> None:
        """Check that all three states are the same."""
        immediate, collecting = self.servers
        logs = [drain(reader) for reader in self.readers]
        assert logs[0] == logs[1] == drain(self.follower.reader)
        assert state_of(immediate.state) == state_of(collecting.state) == state_of(self.follower.state)
        assert told_by(immediate) == told_by(collecting) == self.follower.told

    def compare_streams(self) -> None:
        """Check that each client has been sent the same bytes by both servers.

        A departed client is sent nothing more, and an order that collects sends later.
        """
        for one, other in zip(self.servers[0].clients, self.servers[1].clients, strict=True):
            assert one.state() is other.state()
            if one.sock.fileno() >= 0:
                streams = [SESSION.sub(b"", client.received()) for client in (one, other)]
                if one.state() is not ChannelState.JOINED:
                    streams = [TOLD.sub(b"", stream) for stream in streams]
                assert streams[0] == streams[1]

    def _collecting(self, *arguments: Any, **options: Any) -> Recording:
        return Recording(*arguments, order=self._make_order, **options)

    def _make_order(self, _: Callable[[Any], None]) -> Collecting:
        return self.order


def told_by(stepped: SteppedServer) -> list[tuple[int, int, bytes]]:
    assert isinstance(stepped.server, Recording)
    return stepped.server.told


def state_of(state: State) -> tuple[object, ...]:
    """Return the members with their ranks, names and classes, the open asks, and the place in the log."""
    members = [
        (member.id, member.name, member.rank_class, member.token, state.roster.rank(member))
        for member in state.roster
    ]
    return members, state.asks.waiting(), state.changes, state.log.seq, state.log.end


# --- actions of clients -----------------------------------------------------------------------

LINE: Final = st.one_of(
    st.text(max_size=8).map(lambda text: b"CMD " + text.encode()),
    st.sampled_from([b"CMD a", b"CMD b", b"CMD c"]),
    st.sampled_from([b"ASK who", b"ASK " + b"x" * 60, b"ASK", b"CMD", b"CMD ", b"CMD \x00", b"", b"\r"]),
    st.builds(
        lambda seq, status: b"RES %d %s" % (seq, status), st.integers(1, 40), st.sampled_from([b"ok", b"??"])
    ),
    st.sampled_from([b"PING x", b"WHO", b"\xff", b"nonsense", b"CMD " + b"x" * 251, b"CMD " + b"x" * 252]),
    st.sampled_from([b"BYE", b"HELLO"]),
)
LINES: Final = st.lists(
    st.tuples(LINE, st.sampled_from([b"\n", b"\n", b"\r\n"])), min_size=1, max_size=12
).map(lambda lines: b"".join(line + end for line, end in lines))
CLIENT: Final = st.integers(0, 20)
# A client joins and sends lines behind its HELLO, clients send lines that are cut at one place, or turns
# pass.
STEP: Final = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(CLASSES), st.just(b"") | LINES),
    st.tuples(st.just("send"), CLIENT, LINES),
    st.tuples(st.just("send"), CLIENT, LINES),
    st.tuples(st.just("cut"), CLIENT, LINES),
    st.tuples(st.just("hang up"), CLIENT, st.just(b"")),
    st.tuples(st.just("turn"), st.just(0), st.just(b"")),
)


def perform(twins: Twins, steps: Iterable[tuple[str, int, bytes]]) -> None:
    """Let clients do these steps; the rest of a line that was cut is sent after the next turn."""
    rests: list[tuple[int, bytes]] = []
    for what, number, data in steps:
        clients = twins.servers[0].clients
        if what == "join":
            twins.connect()
            twins.send(len(clients) - 1, hello(number) + data)
        elif what == "turn":
            twins.turn()
            for which, rest in rests:
                twins.send(which, rest)
            rests.clear()
        elif clients:
            which = number % len(clients)
            if which in dict(rests):
                continue
            cut = len(data) // 2 + number % 2 if what == "cut" else len(data)
            twins.send(which, data[:cut])
            rests += [(which, data[cut:])] if what == "cut" else []
            if what == "hang up":
                twins.hang_up(which)


@given(steps=st.lists(STEP, min_size=8, max_size=60))
@settings(max_examples=50, deadline=None)
def test_inputs_give_the_same_state_as_the_bytes(steps: list[tuple[str, int, bytes]]) -> None:
    with Twins() as twins:
        perform(twins, [("join", 1, b""), ("join", 0, b""), ("turn", 0, b""), *steps, ("turn", 0, b"")])
        twins.settle()
        twins.compare()
        twins.compare_streams()


def test_commands_are_collected_in_runs() -> None:
    with Twins() as twins:
        perform(twins, [("join", 0, b""), ("join", 1, b""), ("turn", 0, b"")])
        twins.send(1, b"CMD a\nCMD b\r\n\nASK c\nCMD d\nCMD e\nPING\n")
        twins.settle()
        assert [value.batch for value in twins.order.applied if isinstance(value, Lines)] == [
            b"CMD a\nCMD b\r\n",
            b"CMD d\nCMD e\n",
        ]
        assert twins.servers[1].log.seq == 6
        twins.compare()
        twins.compare_streams()


def test_all_states_forget_the_same_asks() -> None:
    with Twins() as twins:
        perform(twins, [("join", 0, b""), ("join", 1, b""), ("join", 1, b""), ("turn", 0, b"")])
        twins.send(2, b"ASK x\n" * (MAX_ASKS + 1) + b"CMD b\nASK y\n")
        twins.settle()
        assert twins.follower.told == [(4, 3, b"DROPPED 2\n"), (6, 3, b"DROPPED 3\n")]
        twins.hang_up(2)
        twins.send(1, b"".join(b"RES %d ok\n" % seq for seq in range(2, 8)))
        twins.settle()
        twins.compare()


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_long_run_of_commands_gives_the_same_log(pieces: int) -> None:
    data = b"".join(b"CMD %d %s\n" % (number, b"x" * (number % 200)) for number in range(20_000))
    with Twins() as twins:
        perform(twins, [("join", 0, b""), ("join", 1, b""), ("turn", 0, b"")])
        size = len(data) // (40 * pieces) + 1
        for at in range(0, len(data), size):
            twins.send(1, data[at : at + size])
            twins.turn()
        twins.settle()
        assert twins.servers[0].log.seq == 20_001
        twins.compare()
