"""The handshake of docs/protocol.md with the real server: INFO, HELLO, WELCOME, and how it fails."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

import pytest

import rankserver
from tests.support.rawclient import RawClient, fields_of
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Serve = Callable[..., ServerProcess]
Join = Callable[..., list[RawClient]]


# --- what works -------------------------------------------------------------------------------


def test_the_banner_has_protocol_version_max_line_and_capacity(serve: Serve, connect: Connect) -> None:
    server = serve(3, "--max-line", "4096")
    assert fields_of(connect(server).expect(b"INFO ")) == {
        "proto": 1,
        "server": f"rankserver/{rankserver.__version__}",
        "max_line": 4096,
        "auth": False,
        "capacity": 3,
    }


def test_welcome_has_rank_clients_seq_name_session_and_heartbeat(serve: Serve, connect: Connect) -> None:
    server = serve(3, "--heartbeat", "7.5")
    first, second = connect(server), connect(server)
    one, two = first.hello("web-1"), second.hello("web-2")
    assert one.keys() == {"rank", "clients", "seq", "name", "session", "heartbeat", "class"}
    assert (one["rank"], one["clients"], one["name"], one["heartbeat"]) == (0, 1, "web-1", 7.5)
    assert (two["rank"], two["clients"], two["name"]) == (1, 2, "web-2")
    assert two["seq"] == one["seq"] + 1
    assert one["session"] != two["session"]
    assert min(len(one["session"]), len(two["session"])) >= 16


def test_clients_are_ranked_first_come_first_served(anywhere: ServerProcess, connect: Connect) -> None:
    clients = [connect(anywhere) for _ in range(5)]
    welcomes = [client.hello(f"n{rank}") for rank, client in enumerate(clients)]
    assert [welcome["rank"] for welcome in welcomes] == [0, 1, 2, 3, 4]
    assert clients[2].roster() == ["n0", "n1", "n2", "n3", "n4"]


def test_the_rank_counts_from_hello_not_from_the_connection(server: ServerProcess, connect: Connect) -> None:
    early, late = connect(server), connect(server)
    early.expect(b"INFO ")
    assert late.hello()["rank"] == 0
    assert early.hello()["rank"] == 1


def test_a_client_does_not_receive_its_own_join(server: ServerProcess, connect: Connect) -> None:
    client = connect(server)
    client.hello()
    assert client.settle() == []


def test_log_frames_go_on_right_after_the_seq_of_welcome(
    server: ServerProcess, connect: Connect, join: Join
) -> None:
    (sender,) = join(server, "a")
    sender.send(b"CMD before\n" * 10)
    sender.settle()
    late = connect(server)
    seq = late.hello()["seq"]
    sender.send(b"CMD after\n")
    assert late.line() == b"CMD %d 0 after" % (seq + 1)


@pytest.mark.parametrize(
    "hello",
    [
        b"HELLO\n",
        b"HELLO\r\n",
        b"HELLO {}\n",
        b"\n\r\n\nHELLO\n",
        b'HELLO {"proto":1}\n',
        b'HELLO {"token":"not needed here"}\n',
        b'HELLO {"proto": 1, "colour": ["unknown", {"fields": null}], "name": null}\n',
    ],
)
def test_fields_of_hello_are_optional_and_unknown_ones_ignored(
    shared: ServerProcess, connect: Connect, hello: bytes
) -> None:
    client = connect(shared)
    client.expect(b"INFO ")
    client.send(hello)
    assert fields_of(client.expect(b"WELCOME "))["name"].startswith("c")


def test_a_client_without_a_name_is_named_by_its_member_number(
    server: ServerProcess, connect: Connect
) -> None:
    assert [connect(server).hello()["name"] for _ in range(3)] == ["c1", "c2", "c3"]


@pytest.mark.parametrize("name", ["x", "a" * 64, "AZaz09._:@-"])
def test_a_name_of_1_to_64_allowed_characters_is_taken(
    shared: ServerProcess, connect: Connect, name: str
) -> None:
    assert connect(shared).hello(name)["name"] == name


def test_lines_behind_hello_are_handled_after_welcome_in_order(
    anywhere: ServerProcess, connect: Connect, join: Join
) -> None:
    (witness,) = join(anywhere, "w")
    client = connect(anywhere)
    client.send(b'HELLO {"name":"p"}\nCMD one\nWHO\nASK two\nPING x\nNONSENSE\nCMD three\nBYE\n')
    client.expect(b"INFO ")
    seq = fields_of(client.expect(b"WELCOME "))["seq"]
    lines = client.rest()
    assert [line.partition(b" ")[0] for line in lines] == [b"CMD", b"ROSTER", b"ASK", b"PONG", b"ERR", b"CMD"]
    assert lines[0] == b"CMD %d 1 one" % (seq + 1)
    assert fields_of(lines[1])["total"] == 2
    assert lines[2] == b"ASK %d 1 two" % (seq + 2)
    assert lines[5] == b"CMD %d 1 three" % (seq + 3)
    assert witness.lines(5) == [b"JOIN %d 1" % seq, lines[0], lines[2], lines[5], b"LEFT %d 1" % (seq + 4)]


def test_a_handshake_byte_by_byte_is_the_same(anywhere: ServerProcess, connect: Connect) -> None:
    client = connect(anywhere)
    client.expect(b"INFO ")
    for byte in b'\r\nHELLO {"name":"slow"}\r\nCMD x\nWH':
        client.send(bytes([byte]))
    welcome = fields_of(client.expect(b"WELCOME "))
    assert welcome["name"] == "slow"
    assert client.line() == b"CMD %d 0 x" % (welcome["seq"] + 1)
    client.send(b"O\n")
    client.expect(b"ROSTER ")


def test_a_full_64_kib_may_be_pipelined_before_welcome(server: ServerProcess, connect: Connect) -> None:
    client = connect(server)
    client.send(b"HELLO\n" + b"CMD 1234567\n" * 20_000)
    client.expect(b"INFO ")
    seq = fields_of(client.expect(b"WELCOME "))["seq"]
    assert client.lines(20_000) == [b"CMD %d 0 1234567" % (seq + n) for n in range(1, 20_001)]


# --- full -------------------------------------------------------------------------------------


def test_a_full_server_says_so_until_somebody_leaves(anywhere: ServerProcess, connect: Connect) -> None:
    members = [connect(anywhere) for _ in range(8)]
    for member in members:
        member.hello()
    for _ in range(2):
        extra = connect(anywhere)
        extra.expect(b"INFO ")
        extra.send(b'HELLO {"name":"extra"}\nCMD must not count\n')
        assert b" 8 " in extra.expect(b"BYE full ")
        extra.eof()
    members[3].send(b"BYE\n")
    assert members[7].expect(b"LEFT ").split()[2] == b"3"
    late = connect(anywhere)
    assert late.hello("late")["rank"] == 7
    assert late.roster()[-1] == "late"


def test_a_place_is_free_again_after_a_disconnect(serve: Serve, connect: Connect) -> None:
    server = serve(1)
    for leave in (RawClient.close, RawClient.abort) * 5:
        watcher = connect(server)
        watcher.hello()
        leave(watcher)
        wait_for_place(server).close()


def wait_for_place(server: ServerProcess) -> RawClient:
    """Retry until the server has noticed that a place is free, and join."""
    deadline = time.monotonic() + BOUND
    while time.monotonic() < deadline:
        client = RawClient(server.address)
        client.expect(b"INFO ")
        client.send(b"HELLO\n")
        if client.line().startswith(b"WELCOME "):
            return client
        client.close()
    raise AssertionError("no place became free")


def test_many_hellos_in_one_moment_share_the_places_exactly(serve: Serve, connect: Connect) -> None:
    server = serve(20)
    clients = [connect(server) for _ in range(50)]
    for client in clients:
        client.expect(b"INFO ")
    for client in clients:
        client.send(b"HELLO\n")
    answers = [
        next(line for line in iter(client.line, b"") if line[:4] in (b"WELC", b"BYE ")) for client in clients
    ]
    ranks = [fields_of(line)["rank"] for line in answers if line.startswith(b"WELCOME")]
    assert sorted(ranks) == list(range(20))
    assert sum(line.startswith(b"BYE full ") for line in answers) == 30


# --- what fails -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        b"CMD x\n",
        b"ASK x\n",
        b"WHO\n",
        b"PING\n",
        b"BYE\n",
        b"RES 1 ok\n",
        b"hello\n",
        b"HELLOO\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"HELLO {\n",
        b"HELLO []\n",
        b'HELLO "name"\n',
        b"HELLO {} {}\n",
        b'HELLO {"proto":2}\n',
        b'HELLO {"proto":"1"}\n',
        b'HELLO {"name":""}\n',
        b'HELLO {"name":7}\n',
        b'HELLO {"name":"two words"}\n',
        b'HELLO {"name":"caf\xc3\xa9"}\n',
        b'HELLO {"name":"%s"}\n' % (b"a" * 65),
        b'HELLO {"name":"line\\n"}\n',
        b'HELLO {"name":"\x07"}\n',
        b'HELLO {"name":"\xff"}\n',
        b"HELLO " + b"[" * 30_000 + b"\n",
    ],
)
def test_a_first_frame_other_than_a_valid_hello_disconnects(
    shared: ServerProcess, connect: Connect, join: Join, first: bytes
) -> None:
    (witness,) = join(shared, "w")
    client = connect(shared)
    client.expect(b"INFO ")
    client.send(first + b"CMD must not count\n")
    client.expect(b"BYE proto ")
    client.eof()
    assert witness.settle() == []
    witness.send(b"BYE\n")
    witness.eof()


def test_an_unknown_version_is_named_in_the_goodbye(shared: ServerProcess, connect: Connect) -> None:
    client = connect(shared)
    client.expect(b"INFO ")
    client.send(b'HELLO {"proto":99}\n')
    assert client.expect(b"BYE proto ") == b"BYE proto this server speaks only protocol 1"


def test_an_unknown_session_cannot_be_resumed(server: ServerProcess, connect: Connect) -> None:
    client = connect(server)
    client.expect(b"INFO ")
    client.send(b'HELLO {"resume":{"session":"Zm9v","seq":0}}\n')
    client.expect(b"BYE resume ")
    client.eof()
    assert connect(server).hello()["rank"] == 0


def test_an_overlong_first_line_is_refused_before_it_ends(serve: Serve, connect: Connect) -> None:
    server = serve(8, "--max-line", "256")
    whole, open_end, longest = connect(server), connect(server), connect(server)
    for client in (whole, open_end, longest):
        client.expect(b"INFO ")
    whole.send(b'HELLO {"name":"a"' + b" " * 238 + b"}\n")
    whole.expect(b"BYE too-long ")
    open_end.send(b"HELLO " + b" " * 250)
    open_end.expect(b"BYE too-long ")
    longest.send(b'HELLO {"name":"a"' + b" " * 237 + b"}\n")
    longest.expect(b"WELCOME ")


def test_silent_and_dripping_connections_time_out_without_a_rank(serve: Serve, connect: Connect) -> None:
    timeout = 1.0
    server = serve(2, "--handshake-timeout", str(timeout))
    started = time.monotonic()
    silent, dripping = connect(server), connect(server)
    silent.expect(b"INFO ")
    dripping.expect(b"INFO ")
    member = connect(server)
    assert member.hello()["rank"] == 0
    drip_until_goodbye(dripping)
    assert time.monotonic() - started >= timeout
    silent.expect(b"BYE timeout ")
    silent.eof()
    assert member.settle() == []
    other = connect(server)
    assert other.hello()["rank"] == 1, "neither has taken a place"


def drip_until_goodbye(client: RawClient) -> None:
    """Send an endless HELLO, a byte every 20 ms, until the server ends the connection."""
    deadline = time.monotonic() + BOUND
    client.send(b"HELLO {")
    while not select.select([client.sock], [], [], 0.02)[0]:
        assert time.monotonic() < deadline, "each byte starts the time anew"
        client.send(b" ")
    client.expect(b"BYE timeout ")


def test_a_connection_closed_before_hello_leaves_no_trace(
    anywhere: ServerProcess, connect: Connect, join: Join
) -> None:
    (witness,) = join(anywhere, "w")
    for data in (b"", b"HEL", b"HELLO", b"\n"):
        client = connect(anywhere)
        client.expect(b"INFO ")
        client.send(data)
        client.sock.shutdown(socket.SHUT_WR)
        client.eof()
    assert witness.settle() == []


def test_a_second_hello_ends_the_membership(server: ServerProcess, join: Join) -> None:
    first, second = join(server, "a", "b")
    first.send(b"CMD before\nHELLO\nCMD after\n")
    first.expect(b"CMD ")
    first.expect(b"BYE proto ")
    first.eof()
    lines = second.lines(2)
    assert lines[0].endswith(b" 0 before")
    assert lines[1].startswith(b"LEFT ")
    assert second.settle() == []
