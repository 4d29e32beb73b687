"""Limits of docs/protocol.md with the real server: long lines, silence, slow clients, shutdown."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver.wire import frames, protocol
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

MIB = 1024 * 1024


# --- long lines -------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [b"CMD ", b"ASK "])
@pytest.mark.parametrize("max_line", [256, protocol.DEFAULT_MAX_LINE])
def test_a_line_may_have_max_line_bytes_and_no_more(
    serve: Serve, join: Join, verb: bytes, max_line: int
) -> None:
    sender, other = join(serve(4, "--max-line", str(max_line)), "a", "b")
    text = b"x" * (max_line - 5)
    sender.send(verb + text + b"\n")
    assert sender.line() == other.line() == verb + b"3 0 " + text
    sender.send(b"CMD before\n" + verb + text + b"x\nCMD after\n")
    assert sender.line() == other.line() == b"CMD 4 0 before"
    assert str(max_line).encode() in sender.expect(b"BYE too-long ")
    sender.eof()
    assert other.line() == b"LEFT 5 0"
    assert other.settle() == []


def test_an_endless_line_is_refused_before_it_ends(anywhere: ServerProcess, join: Join) -> None:
    sender, other = join(anywhere, "a", "b")
    for _ in range(16):
        sender.send(b"x" * 4_096)
    sender.expect(b"BYE too-long ")
    other.expect(b"LEFT ")


def test_a_long_line_byte_by_byte_is_measured_the_same(serve: Serve, join: Join) -> None:
    sender, other = join(serve(4, "--max-line", "256"), "a", "b")
    for byte in b"CMD %s\n" % (b"y" * 251) + b"CMD %s" % (b"z" * 252):
        sender.send(bytes((byte,)))
    assert other.line() == b"CMD 3 0 " + b"y" * 251
    sender.expect(b"CMD ")
    sender.expect(b"BYE too-long ")


def test_no_line_of_the_server_is_longer_than_max_line_and_256(serve: Serve, connect: Connect) -> None:
    server = serve(64, "--max-line", "256")
    clients = [connect(server) for _ in range(64)]
    for n, client in enumerate(clients):
        client.hello(f"{n:064}")
    asker, executor = clients[0], clients[63]
    asker.send(b"ASK %s\n" % (b"a" * 251))
    seq = int(executor.expect(b"ASK ").split()[1])
    answer = b'RES %d refused {"out":"' % seq
    executor.send(answer + b"o" * (256 - len(answer) - 3) + b'"}\n')
    for n in range(1, 60, 2):
        clients[n].close()
    # The longest text that an error message may quote.
    wide = "😀".encode()
    bad = [b"\xff" * 255, b"x" * 255, b"RES %s ok" % (b"9" * 240), b'RES 1 ok {"%s' % (b"j" * 240)]
    bad += [wide * 60, b"RES 1 " + wide * 60, b"RES %s ok" % (wide * 60)]
    bad += [b'HELLO {"name":"%s"}' % (wide * 58), b"HELLO"]
    executor.send(b"PING %s\nWHO\n" % (b"p" * 250) + b"".join(line + b"\n" for line in bad))
    lines = executor.rest() + asker.settle()
    assert {line.partition(b" ")[0] for line in lines} >= {
        b"PONG",
        b"ROSTER",
        b"ERR",
        b"BYE",
        b"LEFT",
        b"RES",
    }
    assert max(len(line) + 1 for line in lines) <= 256 + 256


def test_the_error_for_an_overlong_hello_names_the_limit(serve: Serve, connect: Connect) -> None:
    client = connect(serve(4, "--max-line", "200000"))
    client.expect(b"INFO ")
    client.send(b'HELLO {"more":"%s"}\n' % (b"x" * 70_000))
    (goodbye,) = client.rest()
    assert goodbye.startswith(b"BYE too-long ")
    assert b"65536" in goodbye
    assert b"200000" not in goodbye


def test_a_long_roster_is_split_into_frames_in_a_row(serve: Serve, connect: Connect) -> None:
    server = serve(300, "--max-line", "256")
    clients = [connect(server) for _ in range(300)]
    names = [client.hello(f"client-{n}" + "x" * (n % 50))["name"] for n, client in enumerate(clients)]
    clients[299].send(b"WHO\n")
    received = [protocol.parse_server_line(clients[299].line())]
    assert isinstance(received[0], frames.RosterFrame)
    assert len(received[0].members) < 20
    assert clients[299].settle()[-1].startswith(b"ROSTER ")
    assert clients[0].roster() == names, "each goes on where the one before has ended"


# --- silence ----------------------------------------------------------------------------------


def test_silence_is_answered_by_ping_and_then_by_goodbye(serve: Serve, connect: Connect) -> None:
    heartbeat = 1.0
    server = serve(4, "--heartbeat", str(heartbeat))
    witness, silent = connect(server), connect(server)
    witness.hello()
    started = time.monotonic()
    silent.hello()
    assert silent.line() == b"PING"
    assert time.monotonic() - started >= heartbeat
    witness.send(b"PONG\n")
    silent.expect(b"BYE timeout ")
    assert time.monotonic() - started >= 2 * heartbeat
    silent.eof()
    assert [line for line in witness.settle() if line.startswith(b"LEFT ")] == [b"LEFT 3 1"]


def test_any_traffic_keeps_a_client_alive(serve: Serve, connect: Connect) -> None:
    server = serve(8, "--heartbeat", "0.8")
    traffic = (b"PONG\n", b"PING\n", b"CMD x\n", b"\n", b"NONSENSE\n", b"C")
    clients = [connect(server) for _ in traffic]
    for client in clients:
        client.hello()
    # Without traffic, a goodbye would come instead of the second PING.
    for _ in range(2):
        for client, data in zip(clients, traffic, strict=True):
            while client.line() != b"PING":
                pass
            client.send(data)
    for client in clients:
        client.send(b"\n")
        client.settle()


def test_a_late_answer_to_a_ping_starts_a_new_silence(serve: Serve, connect: Connect) -> None:
    client = connect(serve(4, "--heartbeat", "0.9"))
    client.hello()
    assert client.line() == b"PING"
    assert not select.select([client.sock], [], [], 0.3)[0], "there is as much time again to answer"
    client.send(b"PONG\n")
    assert client.line() == b"PING"


def test_a_client_that_talks_is_not_pinged(serve: Serve, connect: Connect) -> None:
    heartbeat, pause = 0.8, 0.05
    client = connect(serve(4, "--heartbeat", str(heartbeat)))
    client.hello()
    for _ in range(round(2 * heartbeat / pause)):
        client.send(b"PONG\n")
        assert not select.select([client.sock], [], [], pause)[0], client.line()


def test_without_a_heartbeat_nobody_is_pinged(serve: Serve, connect: Connect) -> None:
    client = connect(serve(4, "--heartbeat", "0", "--handshake-timeout", "1"))
    assert client.hello()["heartbeat"] == 0
    assert not select.select([client.sock], [], [], 1.2)[0], client.line()


@pytest.mark.parametrize("option", ["--heartbeat", "--handshake-timeout"])
@pytest.mark.parametrize("seconds", ["3000000", "1e300"])
def test_an_immensely_long_timeout_works_like_any_other(
    serve: Serve, connect: Connect, option: str, seconds: str
) -> None:
    server = serve(4, option, seconds)
    client, other = connect(server), connect(server)
    # The server has had a turn in which only handshakes could time out.
    client.expect(b"INFO ")
    assert client.hello()["heartbeat"] == (float(seconds) if option == "--heartbeat" else 30)
    other.hello()
    client.expect(b"JOIN ")
    for _ in range(3):
        assert client.settle() == other.settle() == []
    client.close()
    other.close()
    assert server.stop() == 0
    assert "Traceback" not in server.log()


# --- slowness ---------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_slow_client_is_dropped_after_a_whole_frame(
    serve: Serve, connect: Connect, tmp_path: Path, transport: str
) -> None:
    unix = tmp_path / "socket" if transport == "unix" else None
    server = serve(4, "--max-backlog", str(MIB), "--slow-timeout", "0.3", unix=unix)
    sender, slow, other = connect(server), connect(server), connect(server)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    for client in (sender, slow, other):
        client.hello()
    other.settle()
    sender.lines(2)
    slow.line()
    sent = 0
    others: list[bytes] = []
    own: list[bytes] = []
    while not any(line.startswith(b"LEFT ") for line in others[-200:]):
        assert sent < 64 * 1_000, "the slow client is never dropped"
        sender.send(b"".join(b"CMD %05d %s\n" % (sent + n, b"x" * 990) for n in range(100)))
        sent += 100
        own += sender.settle()
        others += other.settle()
    # The LEFT may have come between the two.
    own += sender.settle()
    left = next(line for line in others if line.startswith(b"LEFT "))
    assert left.endswith(b" 1")
    assert [line for line in own if line != left] == [line for line in own if line.startswith(b"CMD ")]
    assert own == others
    assert [int(line.split()[3]) for line in own if line != left] == list(range(sent))
    lines = slow.rest()
    assert lines.pop() == b"BYE slow read too slowly for 0.3 seconds"
    assert lines == others[: len(lines)], "what it got is the log without a gap, up to where it was cut"
    assert len(lines) < sent


def test_a_small_backlog_cuts_no_frame_of_a_dropped_client(serve: Serve, connect: Connect) -> None:
    server = serve(4, "--max-backlog", "131072", "--slow-timeout", "0.3")
    sender, slow = connect(server), connect(server)
    slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sender.hello()
    slow.hello()
    sender.expect(b"JOIN ")
    log: list[bytes] = []
    after = 0
    # This continues long after the slow client is gone.
    while after < 40:
        assert len(log) < 64 * 1_000, "the slow client is never dropped"
        sender.send(b"CMD %s\n" % (b"x" * 990) * 50)
        log += sender.settle()
        after += after > 0 or any(line.startswith(b"LEFT ") for line in log[-100:])
    *lines, goodbye = slow.rest()
    assert goodbye.startswith(b"BYE slow ")
    assert lines == log[: len(lines)]


def test_a_client_that_pings_and_never_reads_is_dropped(serve: Serve, connect: Connect) -> None:
    server = serve(4, "--slow-timeout", "0.3")
    other, greedy = connect(server), connect(server)
    greedy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    other.hello()
    greedy.hello()
    other.expect(b"JOIN ")
    for _ in range(400):
        greedy.send(b"PING %s\n" % (b"x" * 60_000))
    assert other.line() == b"LEFT 3 1"
    assert greedy.rest()[-1].startswith(b"BYE slow ")


# --- shutdown ---------------------------------------------------------------------------------


def test_shutdown_says_goodbye_to_all_behind_what_was_logged(anywhere: ServerProcess, join: Join) -> None:
    clients = join(anywhere, "a", "b", "c")
    clients[0].send(b"CMD x\n" * 10_000)
    clients[0].settle()
    anywhere.process.send_signal(signal.SIGTERM)
    logs = [client.rest() for client in clients]
    assert [len(log) for log in logs] == [1, 10_001, 10_001]
    assert {log[-1] for log in logs} == {b"BYE shutdown the server is stopping"}
    for client in clients:
        client.close()
    assert anywhere.wait() == 0


def test_shutdown_under_load_cuts_no_stream(server: ServerProcess, join: Join) -> None:
    clients = join(server, "a", "b")
    for client in clients:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    senders = [threading.Thread(target=send_until_the_end, args=(client,)) for client in clients]
    for sender in senders:
        sender.start()
    for client in clients:
        client.lines(100)
    server.process.send_signal(signal.SIGTERM)
    logs = [client.rest() for client in clients]
    for client in clients:
        client.close()
    for sender in senders:
        sender.join()
    assert all(log[-1].startswith(b"BYE shutdown ") for log in logs)
    assert logs[0][-100:] == logs[1][-100:]
    assert server.wait() == 0


def send_until_the_end(client: RawClient) -> None:
    with contextlib.suppress(OSError):
        while True:
            client.send(b"CMD %s\n" % (b"x" * 60_000))


def test_connections_in_the_handshake_get_the_shutdown_bye(
    server: ServerProcess, connect: Connect, join: Join
) -> None:
    (member,) = join(server, "a")
    silent, early, late = connect(server), connect(server), connect(server)
    for client in (silent, early, late):
        client.expect(b"INFO ")
    with server.paused():
        early.send(b"HELLO\n")
        server.process.send_signal(signal.SIGTERM)
    for client in (silent, early, late, member):
        assert [line[:13] for line in client.rest()] == [b"BYE shutdown "]
        client.close()
    assert server.wait() == 0
