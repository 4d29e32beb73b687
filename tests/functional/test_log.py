"""The ordered log of docs/protocol.md, from the real server: commands, ranks, departures, lines."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from rankserver.membership import MIN_JOIN_WAIT
from rankserver.wire import frames, protocol, ranking
from tests.support.rawclient import RawClient, fields_of
from tests.support.servers import ServerProcess

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

COMMANDS = 10_000


def half_close(client: RawClient) -> None:
    client.sock.shutdown(socket.SHUT_WR)


def bye(client: RawClient) -> None:
    client.send(b"BYE\n")


DISCONNECTS = (RawClient.close, RawClient.abort, half_close)
WAYS_TO_LEAVE = (*DISCONNECTS, bye)


def numbered(lines: list[bytes], verb: bytes, rank: int) -> list[bytes]:
    """Return the texts of log frames; check that all have this verb and rank, and consecutive numbers."""
    words = [line.split(b" ", 3) for line in lines]
    first = int(words[0][1])
    expected = [(verb, first + n, rank) for n in range(len(lines))]
    assert [(word[0], int(word[1]), int(word[2])) for word in words] == expected
    return [word[3] for word in words]


# --- commands ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [b"CMD", b"ASK"])
def test_a_command_reaches_everybody_with_its_seq_and_rank(
    anywhere: ServerProcess, join: Join, verb: bytes
) -> None:
    clients = join(anywhere, "a", "b", "c")
    clients[1].send(verb + b" df -h  /tmp \n")
    lines = [client.line() for client in clients]
    assert lines == [verb + b" 4 1 df -h  /tmp "] * 3


def test_10_000_commands_in_one_write_reach_all_in_order(anywhere: ServerProcess, join: Join) -> None:
    clients = join(anywhere, "a", "b", "c")
    texts = [b"%d" % n for n in range(COMMANDS)]
    clients[1].send(b"".join(b"CMD %s\n" % text for text in texts))
    logs = [client.lines(COMMANDS) for client in clients]
    assert numbered(logs[0], b"CMD", 1) == texts
    assert logs[0] == logs[1] == logs[2]


def test_10_000_commands_byte_by_byte_reach_all_in_order(server: ServerProcess, join: Join) -> None:
    clients = join(server, "a", "b")
    texts = [b"%d" % n for n in range(COMMANDS)]
    for byte in b"".join(b"CMD %s\n" % text for text in texts):
        clients[1].send(bytes((byte,)))
    logs = [client.lines(COMMANDS) for client in clients]
    assert numbered(logs[0], b"CMD", 1) == texts
    assert logs[0] == logs[1]


def test_all_get_the_commands_of_many_senders_in_one_order(server: ServerProcess, join: Join) -> None:
    clients = join(server, "a", "b", "c", "d")
    for n in range(500):
        for client in clients:
            client.send(b"CMD %d\n" % n)
    logs = [client.lines(2_000) for client in clients]
    assert logs[0] == logs[1] == logs[2] == logs[3]
    seqs = [int(line.split()[1]) for line in logs[0]]
    assert seqs == list(range(seqs[0], seqs[0] + 2_000))
    for rank in range(4):
        own = [line.split()[3] for line in logs[0] if int(line.split()[2]) == rank]
        assert own == [b"%d" % n for n in range(500)]


def test_mixed_cmds_and_asks_keep_the_order_of_sending(server: ServerProcess, join: Join) -> None:
    sender, other = join(server, "a", "b")
    verbs = [b"ASK" if n % 7 == 3 else b"CMD" for n in range(1_000)]
    sender.send(b"".join(b"%s %d\n" % (verb, n) for n, verb in enumerate(verbs)))
    expected = [b"%s %d 0 %d" % (verb, n + 3, n) for n, verb in enumerate(verbs)]
    assert other.lines(1_000) == expected
    assert sender.lines(1_000) == expected


def test_private_frames_keep_their_place_among_the_others(server: ServerProcess, join: Join) -> None:
    sender, other = join(server, "a", "b")
    sender.send(b"".join(b"CMD %d\nPING %d\n" % (n, n) for n in range(1_000)))
    expected = [line for n in range(1_000) for line in (b"CMD %d 0 %d" % (n + 3, n), b"PONG %d" % n)]
    assert sender.lines(2_000) == expected
    assert other.lines(1_000) == expected[::2]


# --- ranks ------------------------------------------------------------------------------------


def test_a_join_tells_all_others_the_new_rank(anywhere: ServerProcess, connect: Connect) -> None:
    clients: list[RawClient] = []
    for rank in range(4):
        client = connect(anywhere)
        seq = client.hello()["seq"]
        assert [other.line() for other in clients] == [b"JOIN %d %d" % (seq, rank)] * rank
        clients.append(client)


def test_a_left_names_the_old_rank_and_lower_ranks_move_up(anywhere: ServerProcess, join: Join) -> None:
    clients = join(anywhere, *"abcdef")
    seq = 6
    for leave, rank in zip(WAYS_TO_LEAVE, (1, 4, 0, 2), strict=True):
        leave(clients.pop(rank))
        seq += 1
        assert {client.line() for client in clients} == {b"LEFT %d %d" % (seq, rank)}
        for sender, client in enumerate(clients):
            client.send(b"CMD x\n")
            seq += 1
            assert {other.line() for other in clients} == {b"CMD %d %d x" % (seq, sender)}
    assert clients[1].roster() == ["c", "d"]


@pytest.mark.parametrize("leave", [bye, half_close])
def test_a_leaver_gets_the_log_before_its_left_and_then_the_end(
    anywhere: ServerProcess, join: Join, leave: Callable[[RawClient], None]
) -> None:
    leaver, other = join(anywhere, "a", "b")
    other.send(b"CMD x\n" * 1_000)
    other.lines(1_000)
    leaver.send(b"CMD y\n" * 1_000)
    leave(leaver)
    assert other.lines(1_001)[-1].startswith(b"LEFT ")
    assert numbered(leaver.rest()[1_000:], b"CMD", 0) == [b"y"] * 1_000


def test_closing_the_sending_side_after_bye_loses_nothing_owed(server: ServerProcess, join: Join) -> None:
    (leaver,) = join(server, "a")
    leaver.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    # These are more bytes than the sockets hold.
    leaver.send(b"CMD %s\n" % (b"x" * 60_000) * 200 + b"BYE\n")
    half_close(leaver)
    assert len(leaver.rest()) == 200


def test_a_join_is_announced_after_waiting_for_further_joins(
    serve: Serve, connect: Connect, join: Join
) -> None:
    server = serve(3)
    (first,) = join(server, "a")
    client = connect(server)
    start = time.monotonic()
    client.hello("b")
    first.expect(b"JOIN ")
    # The server counts from the beginning of its turn, which may be slightly before our clock was read.
    assert time.monotonic() - start >= 0.9 * MIN_JOIN_WAIT


def test_joins_of_one_moment_share_a_frame_and_keep_their_order(serve: Serve, connect: Connect) -> None:
    server = serve(400)
    witness = connect(server)
    witness.hello()
    clients = [connect(server) for _ in range(100)]
    for client in clients:
        client.expect(b"INFO ")
    with server.paused():
        for client in clients:
            client.send(b"HELLO\n")
    assert witness.line() == b"JOIN 2 1-100"
    welcomes = [fields_of(client.expect(b"WELCOME ")) for client in clients]
    assert [welcome["rank"] for welcome in welcomes] == list(range(1, 101))
    assert {(welcome["clients"], welcome["seq"]) for welcome in welcomes} == {(101, 2)}


def test_departures_of_one_moment_are_split_into_valid_frames(serve: Serve, connect: Connect) -> None:
    server = serve(800, "--max-line", "256")
    clients = [connect(server) for _ in range(601)]
    names = [client.hello(f"n{rank}")["name"] for rank, client in enumerate(clients)]
    stayers, leavers = clients[::2], clients[1::2]
    for stayer in stayers:
        stayer.settle()
    with server.paused():
        for n, leaver in enumerate(leavers):
            (RawClient.close, RawClient.abort, bye)[n % 3](leaver)
    stayers[0].expect(b"LEFT ")
    received = log_until(stayers[150], len(stayers), len(clients))
    assert 1 < len(received) < 20
    for frame in received:
        assert isinstance(frame, frames.LeftFrame)
        for span in reversed(frame.ranks):
            del names[span.start : span.stop]
    assert names == [f"n{rank}" for rank in range(0, 601, 2)] == stayers[300].roster()


def log_until(client: RawClient, wanted: int, n: int) -> list[frames.JoinFrame | frames.LeftFrame]:
    """Return the JOIN and LEFT frames that change the number of clients from ``n`` to ``wanted``."""
    received: list[frames.JoinFrame | frames.LeftFrame] = []
    while n != wanted:
        line = client.line()
        assert len(line) < 256 + protocol.MAX_SERVER_SLACK
        frame = protocol.parse_server_line(line)
        assert isinstance(frame, frames.JoinFrame | frames.LeftFrame), line
        _, n = (ranking.joined if isinstance(frame, frames.JoinFrame) else ranking.left)(0, n, frame.ranks)
        received.append(frame)
    return received


def test_a_join_during_a_departure_gets_the_right_rank(
    server: ServerProcess, join: Join, connect: Connect
) -> None:
    clients = join(server, "a", "b", "c")
    newcomers = [connect(server), connect(server)]
    for newcomer in newcomers:
        newcomer.expect(b"INFO ")
    # The turn in which they came is over, so what comes now becomes ready in order.
    clients[0].settle()
    with server.paused():
        newcomers[0].send(b'HELLO {"name":"d"}\n')
        clients[1].close()
        newcomers[1].send(b'HELLO {"name":"e"}\nCMD first\n')
    welcomes = [fields_of(newcomer.expect(b"WELCOME ")) for newcomer in newcomers]
    assert [(welcome["rank"], welcome["clients"]) for welcome in welcomes] == [(2, 4), (3, 4)]
    assert clients[0].lines(3) == [b"LEFT 4 1", b"JOIN 5 2-3", b"CMD 6 3 first"]
    assert newcomers[0].line() == b"CMD 6 3 first"


# --- departures -------------------------------------------------------------------------------


@pytest.mark.parametrize("paused", [False, True])
def test_commands_right_before_a_disconnect_precede_its_left(
    anywhere: ServerProcess, join: Join, paused: bool
) -> None:
    *leavers, other = join(anywhere, *"abcde")
    texts = [b"%d" % n for n in range(2_000)]
    for leaver, leave in zip(leavers, WAYS_TO_LEAVE, strict=True):
        with anywhere.paused() if paused else nullcontext():
            leaver.send(b"".join(b"CMD %s\n" % text for text in texts))
            leave(leaver)
        assert numbered(other.lines(2_000), b"CMD", 0) == texts
        assert other.expect(b"LEFT ").endswith(b" 0")


def test_commands_count_even_if_their_sender_is_gone(anywhere: ServerProcess, join: Join) -> None:
    *leavers, witness, other = join(anywhere, *"abcdef")
    texts = [b"%d %s" % (n, b"x" * 990) for n in range(40)]
    for leaver, leave in zip(leavers, WAYS_TO_LEAVE, strict=True):
        with anywhere.paused():
            leaver.send(b"".join(b"CMD %s\n" % text for text in texts))
            other.send(b"CMD meanwhile\n" * 3)
            leave(leaver)
        received = []
        while not (line := witness.line()).startswith(b"LEFT "):
            received += [line.split(b" ", 3)[3]] * line.startswith(b"CMD ")
        assert [text for text in received if text != b"meanwhile"] == texts


def test_a_last_line_without_lf_is_dropped(anywhere: ServerProcess, join: Join) -> None:
    *leavers, other = join(anywhere, "a", "b", "c", "d")
    for leaver, leave in zip(leavers, DISCONNECTS, strict=True):
        leaver.send(b"CMD whole\nCMD part")
        leave(leaver)
        assert other.expect(b"CMD ").endswith(b" 0 whole")
        assert other.expect(b"LEFT ").endswith(b" 0")
        assert other.settle() == []


@pytest.mark.parametrize("paused", [False, True])
def test_hello_commands_and_the_end_in_one_moment_all_count(
    anywhere: ServerProcess, join: Join, connect: Connect, paused: bool
) -> None:
    (witness,) = join(anywhere, "w")
    for leave in WAYS_TO_LEAVE:
        # A paused server cannot do a TLS handshake.
        early = connect(anywhere) if anywhere.tls else None
        with anywhere.paused() if paused else nullcontext():
            client = early or connect(anywhere)
            client.send(b"HELLO\nCMD one\nCMD two\n")
            leave(client)
        assert witness.expect(b"JOIN ").endswith(b" 1")
        assert numbered(witness.lines(2), b"CMD", 1) == [b"one", b"two"]
        assert witness.expect(b"LEFT ").endswith(b" 1")
        assert witness.roster() == ["w"]


def test_nothing_after_bye_counts(server: ServerProcess, join: Join) -> None:
    leaver, other = join(server, "a", "b")
    leaver.send(b"CMD x\nBYE\nCMD y\n")
    leaver.send(b"CMD z\n")
    assert other.lines(2) == [b"CMD 3 0 x", b"LEFT 4 0"]
    assert other.settle() == []


# --- lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"CMD cr\r\n", b"cr"),
        (b"ASK cr\r\n", b"cr"),
        (b"\n\r\n\nCMD empty lines before\n", b"empty lines before"),
        (b"CMD a\tb\n", b"a\tb"),
        (b"ASK \ta\n", b"\ta"),
        (b"CMD  \n", b" "),
        (b'CMD {"json": [1, 2]}\n', b'{"json": [1, 2]}'),
        (
            "CMD na\u00efve \u00a0 \u20ac \U0001f600 \U0010ffff\n".encode(),
            "na\u00efve \u00a0 \u20ac \U0001f600 \U0010ffff".encode(),
        ),
        ("ASK \u7d42\u308f\u308a\n".encode(), "\u7d42\u308f\u308a".encode()),
    ],
)
@pytest.mark.parametrize("pieces", ["whole", "bytes"])
def test_a_valid_line_is_broadcast_as_it_is_however_it_arrives(
    shared: ServerProcess, connect: Connect, sent: bytes, text: bytes, pieces: str
) -> None:
    client = connect(shared)
    client.hello()
    for piece in [sent] if pieces == "whole" else [bytes((byte,)) for byte in sent]:
        client.send(piece)
    assert client.expect(sent.strip()[:3]).split(b" ", 3)[3] == text


@pytest.mark.parametrize("verb", [b"CMD ", b"ASK "])
@pytest.mark.parametrize("character", [*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0)])
def test_a_control_character_but_tab_is_rejected(
    shared: ServerProcess, connect: Connect, verb: bytes, character: int
) -> None:
    client = connect(shared)
    client.hello()
    client.send(verb + b"a" + chr(character).encode() + b"b\nCMD next\n")
    client.expect(b"ERR bad-frame ")
    assert client.line().endswith(b" next")


@pytest.mark.parametrize(
    "line",
    [
        b"NONSENSE",
        b"cmd x",
        b"CMDx",
        b"\xef\xbb\xbfCMD x",
        b" CMD x",
        b"JOIN 1 0",
        b"LEFT 1 0",
        b"WELCOME {}",
        b"ERR bad-frame x",
        b"CMD",
        b"CMD ",
        b"ASK",
        b"ASK ",
        b"CMD \r",
        b"CMD a\rb",
        b"CMD \x1b[2J",
        b"CMD \xff",
        b"CMD \xc0\xaf",
        b"CMD \xed\xa0\x80",
        b"CMD \xf4\x90\x80\x80",
        b"CMD cut \xe2\x82",
        b"ASK \x80",
        b"RES",
        b"RES x ok",
        b"RES -1 ok",
        b"RES 1.5 ok",
        b"RES 99999999999999999999 ok",
        b"RES 1",
        b"RES 1 fine",
        b"RES 1 OK",
        b"RES 1 ok [1]",
        b"RES 1 ok {",
        b'RES 1 ok {"ms":NaN}',
        b"RES 1 ok {} {}",
        b"RES 1 ok " + b'{"a":' * 9_000,
    ],
)
def test_a_bad_frame_gets_its_code_and_harms_nobody(
    shared: ServerProcess, connect: Connect, line: bytes
) -> None:
    sender, other = connect(shared), connect(shared)
    sender.hello("a")
    seq = other.hello("b")["seq"]
    sender.expect(b"JOIN ")
    sender.send(b"CMD before\n" + line + b"\nCMD after\n")
    lines = sender.lines(3)
    assert lines[1].startswith(b"ERR bad-frame ")
    assert lines[1].removeprefix(b"ERR bad-frame ").decode("ascii"), "the text says what is wrong"
    assert numbered(lines[::2], b"CMD", 0) == [b"before", b"after"]
    assert lines[0].startswith(b"CMD %d " % (seq + 1))
    assert other.lines(2) == lines[::2]
    assert sender.roster() == other.roster() == ["a", "b"]


def test_bad_lines_among_10_000_commands_cost_only_themselves(server: ServerProcess, join: Join) -> None:
    sender, other = join(server, "a", "b")
    data = b"".join(b"CMD %d\n%s" % (n, b"CMD \x00\n" if n % 100 == 50 else b"") for n in range(COMMANDS))
    sender.send(data)
    assert numbered(other.lines(COMMANDS), b"CMD", 0) == [b"%d" % n for n in range(COMMANDS)]
    lines = sender.lines(COMMANDS + 100)
    assert [n for n, line in enumerate(lines) if line.startswith(b"ERR bad-frame ")] == list(
        range(51, 10_100, 101)
    )


def test_ping_is_answered_with_the_same_text(anywhere: ServerProcess, join: Join) -> None:
    client, other = join(anywhere, "a", "b")
    client.send("PING\nPING 1\nPING  two  words \u20ac\r\nPONG\nPONG unasked\nPING\n".encode())
    assert client.lines(4) == [b"PONG", b"PONG 1", "PONG  two  words \u20ac".encode(), b"PONG"]
    assert other.settle() == []


def test_a_who_is_answered_with_the_roster_by_rank(anywhere: ServerProcess, join: Join) -> None:
    clients = join(anywhere, "a", "b", "c")
    clients[1].send(b"WHO\n")
    assert fields_of(clients[1].expect(b"ROSTER ")) == {
        "total": 3,
        "from": 0,
        "clients": [
            {"rank": 0, "name": "a", "class": 0},
            {"rank": 1, "name": "b", "class": 0},
            {"rank": 2, "name": "c", "class": 0},
        ],
    }
    assert clients[0].settle() == []
