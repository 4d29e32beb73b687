"""What a turn spends on lines, departures, joins and timeouts is bounded, whatever clients send.

Costs are counted, and no time is measured: a line is said to take as long as the server assumes at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from rankserver import tls
from rankserver.asks import ORPHANS_PER_LINE
from rankserver.channel import Blocker, Channel, ChannelState, Departure, Wait
from rankserver.loop import BYTES_PER_UNIT, DEPARTURE_COST, MAX_COST, MAX_DEPARTURES, MIN_COST
from rankserver.membership import JOIN_COST
from rankserver.wire import protocol
from tests.support.tls_peer import Certificates
from tests.support.turns import SteppedClient, SteppedServer, SteppedTlsClient

# Seconds that a unit of cost takes.
SECONDS_PER_UNIT: Final = 10e-6
LONGEST: Final = protocol.DEFAULT_MAX_LINE // BYTES_PER_UNIT + 1
# Short and long lines, of which the last one may cost more than was left.
MAX_TURN_COST: Final = MAX_COST + MIN_COST + MAX_COST + LONGEST

Clients = Sequence[SteppedClient | SteppedTlsClient]


def long_line(start: bytes, piece: bytes) -> bytes:
    """Return a line of 64 KiB."""
    count = (protocol.DEFAULT_MAX_LINE - len(start) - 1) // len(piece)
    return start + piece * count + b"\n"


EXPENSIVE: Final = {
    "brackets": (b'{"a":', b"["),
    "objects": (b'{"a":', b'{"":'),
    "numbers": (b'{"a":[1', b",1"),
    "text": (b'{"token":"', b"x"),
}


class Costs:
    """Records what the turns of a server cost, and lets its clock run accordingly.

    Attributes:
        spent: what the lines of this turn have cost so far.
        order: the channels whose lines were handled.
    """

    def __init__(self, stepped: SteppedServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stepped = stepped
        self.spent = 0
        self.order: list[Channel] = []
        self._on_line = stepped.server.on_line
        monkeypatch.setattr(stepped.server, "on_line", self._note)
        monkeypatch.setattr(stepped.server, "on_lost_time", self._fail)

    def turn(self) -> int:
        """Take a turn, and return what its lines cost."""
        self.spent = 0
        self.stepped.turn()
        return self.spent

    def _note(self, channel: Channel, line: bytes) -> Blocker:
        cost = 1 + len(line) // BYTES_PER_UNIT
        self.spent += cost
        self.stepped.selector.now += cost * SECONDS_PER_UNIT
        self.order.append(channel)
        return self._on_line(channel, line)

    def _fail(self, seconds: float) -> None:
        raise AssertionError(f"the server says that it was not running for {seconds} seconds")


def connected(stepped: SteppedServer, count: int) -> list[SteppedClient]:
    clients = [stepped.connect() for _ in range(count)]
    stepped.turn()
    return clients


def joined(stepped: SteppedServer, count: int) -> list[SteppedClient]:
    clients = connected(stepped, count)
    for client in clients:
        client.send(b"HELLO\n")
    stepped.until(lambda: stepped.log.count >= count)
    stepped.wait(1)
    return clients


def withstand(stepped: SteppedServer, costs: Costs, attackers: Clients) -> None:
    """Take turns until no attacker has lines left: each is cheap, and others' commands arrive in it."""
    boss, other = stepped.clients[:2]
    other.received()
    turns = 0
    while paused(stepped) or not all(attacker.channel in costs.order for attacker in attackers):
        boss.send(b"CMD %d\nASK %d\n" % (turns, turns))
        assert costs.turn() <= MAX_TURN_COST
        frames = other.received().splitlines()
        assert [frame.split(b" ")[2:] for frame in frames if frame[:4] in (b"CMD ", b"ASK ")] == [
            [b"0", b"%d" % turns]
        ] * 2, f"turn {turns}"
        turns += 1
    assert turns >= len(attackers) * LONGEST // MAX_TURN_COST


@pytest.mark.parametrize("count", [60, 900])
@pytest.mark.parametrize("kind", EXPENSIVE)
def test_long_hellos_of_strangers_delay_no_others(
    kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteppedServer(1000) as stepped:
        joined(stepped, 2)
        costs = Costs(stepped, monkeypatch)
        strangers = connected(stepped, count)
        for stranger in strangers:
            stranger.send(long_line(b"HELLO " + EXPENSIVE[kind][0], EXPENSIVE[kind][1]))
        withstand(stepped, costs, strangers)
        for stranger in strangers:
            assert b"\nBYE proto bad JSON: " in stranger.received()


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_long_answers_of_members_delay_no_others(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(1000) as stepped:
        members = joined(stepped, 502)[2:]
        costs = Costs(stepped, monkeypatch)
        for member in members:
            member.received()
            member.send(long_line(b"RES 1 ok " + EXPENSIVE[kind][0], EXPENSIVE[kind][1]))
        withstand(stepped, costs, members)
        for member in members:
            assert b"\nERR bad-frame bad JSON: " in b"\n" + member.received()


@pytest.mark.parametrize("is_member", [False, True])
def test_long_lines_over_tls_delay_no_others(
    is_member: bool, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SteppedServer(100) as stepped:
        context = tls.context(str(certificates.cert), str(certificates.key), None)
        stepped.server.reload(None, context)
        joined(stepped, 2)
        attackers = [SteppedTlsClient(stepped, certificates.client) for _ in range(60)]
        if is_member:
            for attacker in attackers:
                attacker.send(b"HELLO\n")
            stepped.until(lambda: stepped.log.count == 62)
            stepped.wait(1)
        costs = Costs(stepped, monkeypatch)
        for attacker in attackers:
            attacker.send(long_line(b'RES 1 ok {"a":' if is_member else b'HELLO {"a":', b"["))
        withstand(stepped, costs, attackers)
        for attacker in attackers:
            assert b" bad JSON: nested more than 64 deep\n" in attacker.received()


# --- who goes first ---------------------------------------------------------------------------


def paused(stepped: SteppedServer) -> list[Channel]:
    """Return the channels whose next line waits for the next turn."""
    reader = stepped.loop.reader
    return [*reader.long.paused, *reader.short.paused]


def paused_strangers(stepped: SteppedServer, count: int) -> list[SteppedClient]:
    """Return strangers of whom most wait with a long HELLO that has arrived."""
    strangers = connected(stepped, count)
    for stranger in strangers:
        stranger.send(long_line(b'HELLO {"a":', b"["))
    stepped.until(lambda: len(paused(stepped)) > count - 100)
    return strangers


def test_a_newcomer_does_not_wait_for_long_hellos() -> None:
    with SteppedServer(1000) as stepped:
        paused_strangers(stepped, 900)
        newcomer = stepped.connect()
        newcomer.send(b'HELLO {"name":"late"}\n')
        stepped.turn(2)
        assert newcomer.state() is ChannelState.JOINED
        assert len(paused(stepped)) > 700


def test_short_lines_that_pause_do_not_wait_for_long_ones() -> None:
    with SteppedServer(1000) as stepped:
        (member,) = joined(stepped, 1)
        paused_strangers(stepped, 900)
        member.received()
        member.send(b"PING\n" * 3 * MIN_COST)
        stepped.turn()
        assert member.channel.waits_for is Wait.TURN
        stepped.turn(2)
        assert member.received() == b"PONG\n" * 3 * MIN_COST
        assert len(paused(stepped)) > 700


def test_long_lines_do_not_wait_for_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(256) as stepped:
        *busy, member = joined(stepped, 201)
        costs = Costs(stepped, monkeypatch)
        for client in busy:
            client.send(b"PONG\n" * 100)
        for _ in range(3):
            assert MAX_COST <= costs.turn() <= MAX_TURN_COST
        assert all(client.channel.waits_for is Wait.TURN for client in busy)
        member.send(long_line(b'RES 1 ok {"a":', b"["))
        stepped.turn(3)
        assert b"ERR bad-frame " in member.received()
        assert len(paused(stepped)) > 100


def test_long_lines_are_handled_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(256) as stepped:
        costs = Costs(stepped, monkeypatch)
        first = connected(stepped, 20)
        for client in first:
            client.send(long_line(b'HELLO {"a":', b"["))
        stepped.until(lambda: costs.order)
        for client in connected(stepped, 20):
            client.send(long_line(b'HELLO {"a":', b"["))
        stepped.until(lambda: len(costs.order) == 40)
        assert set(costs.order[:20]) == {client.channel for client in first}


def test_a_stranger_that_goes_while_it_is_paused_is_forgotten() -> None:
    with SteppedServer(1000, handshake_timeout=5) as stepped:
        strangers = paused_strangers(stepped, 300)
        gone = next(stranger for stranger in strangers if stranger.channel.waits_for is Wait.TURN)
        stepped.server.on_end(gone.channel, "connection lost")
        gone.sock.close()
        stepped.until(lambda: gone.state() is ChannelState.CLOSED)
        assert gone.channel not in stepped.loop.channels.values()
        stepped.until(lambda: not paused(stepped))


# --- joins, departures and timeouts -----------------------------------------------------------


def test_joins_count_with_the_lines_of_a_turn() -> None:
    with SteppedServer(512) as stepped:
        clients = connected(stepped, 300)
        for client in clients:
            client.send(b"HELLO\n")
        before = 0
        while before < 300:
            stepped.turn()
            assert 0 < stepped.log.count - before <= MAX_COST // (JOIN_COST + 1) + 1
            before = stepped.log.count


@pytest.mark.parametrize("is_member", [False, True])
def test_departures_in_a_turn_are_bounded(is_member: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(512) as stepped:
        boss, other = joined(stepped, 2)
        going = (joined if is_member else connected)(stepped, 300)
        departed: list[Channel] = []
        depart = stepped.server.depart

        def note(channel: Channel, departure: Departure) -> None:
            departed.append(channel)
            depart(channel, departure)

        monkeypatch.setattr(stepped.server, "depart", note)
        for client in going:
            client.sock.close()
        boss.send(b"CMD on\n")
        other.received()
        for turn in range(1, 4):
            stepped.turn()
            assert len(departed) == min(turn * MAX_DEPARTURES, 300)
        stepped.wait(1)
        assert b" 0 on\n" in other.received()


def test_an_asker_that_goes_counts_as_several() -> None:
    with SteppedServer(512) as stepped:
        (boss,) = joined(stepped, 1)
        askers = joined(stepped, 4 * MAX_DEPARTURES // 10)
        for asker in askers:
            asker.send(b"ASK x\n" * (10 * DEPARTURE_COST * ORPHANS_PER_LINE))
        stepped.until(lambda: len(stepped.state.asks) == len(askers) * 10 * DEPARTURE_COST * ORPHANS_PER_LINE)
        for asker in askers:
            asker.sock.close()
        before = len(askers) + 1
        while before > 1:
            stepped.turn()
            assert before - stepped.log.count <= MAX_DEPARTURES // 11 + 1
            before = stepped.log.count
        assert boss.channel.state is ChannelState.JOINED


def test_lines_that_end_connections_cost_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with SteppedServer(512) as stepped:
        costs = Costs(stepped, monkeypatch)
        for stranger in connected(stepped, 300):
            stranger.send(b"NONSENSE\n")
        assert costs.turn() <= MAX_DEPARTURES
        stepped.until(lambda: len(costs.order) == 300)
