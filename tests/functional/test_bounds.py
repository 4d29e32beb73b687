"""What strangers, and a stop of the server itself, can do to those who have joined: little, and bounded."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from rankserver import logs
from rankserver.door import LEAST_STRANGERS
from tests.support import BOUND, RawClient, Server

Connect = Callable[[Server], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., Server]

OWN_DESCRIPTORS = 16  # standard streams, listener, selector, signals and some to spare
STRANGERS = 3 * LEAST_STRANGERS


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def memory(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def nothing_happens(client: RawClient, seconds: float) -> None:
    assert not select.select([client.sock], [], [], seconds)[0], client.line()


# --- strangers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"", b"HELL", b"NONSENSE\n", b"HELLO {}\n"], ids=["nothing", "drip", "bad", "full"]
)
def test_however_many_strangers_come_they_hold_few_descriptors_and_nobody_out(
    serve: Serve, connect: Connect, join: Join, said: bytes
) -> None:
    server = serve(2 if said.startswith(b"HELLO") else 3)
    first, _ = join(server, "a", "b")
    strangers = []
    for _ in range(STRANGERS):
        strangers.append(connect(server))
        strangers[-1].send(said)
        if len(strangers) % 10 == 0:
            first.settle()
    first.settle()
    assert descriptors(server) <= LEAST_STRANGERS + 2 + OWN_DESCRIPTORS
    if not said.startswith(b"HELLO"):
        assert connect(server).hello()["rank"] == 2
        first.expect(b"JOIN ")
    first.send(b"CMD on\n")
    assert first.line().endswith(b" 0 on")


def test_the_stranger_that_has_waited_longest_goes_first_and_is_told_why(
    serve: Serve, connect: Connect
) -> None:
    server = serve(3)
    strangers = [connect(server) for _ in range(LEAST_STRANGERS + 2)]
    for stranger in strangers:
        stranger.expect(b"INFO ")
    for gone in strangers[:2]:
        assert gone.expect(b"BYE timeout ").endswith(b"this one for the longest")
        gone.eof()
    for stays in strangers[2:5]:
        stays.hello()


def test_what_strangers_send_costs_little_memory_each(serve: Serve, connect: Connect, join: Join) -> None:
    server = serve(64)
    (member,) = join(server, "a")
    before = memory(server)
    for _ in range(LEAST_STRANGERS - 1):
        connect(server).send(b"HELLO %s" % (b"x" * 60_000))
    member.settle()
    assert memory(server) - before < LEAST_STRANGERS * 150 * 1024


def test_one_address_may_have_so_many_connections_and_one_more_when_one_is_closed(
    serve: Serve, connect: Connect
) -> None:
    server = serve(8, "--max-per-address", "2")
    first, second, third = (connect(server) for _ in range(3))
    first.hello()
    second.hello()
    assert third.rest()[-1] == b"BYE full 2 connections from one address are enough"
    third.close()
    second.send(b"BYE\n")
    second.rest()
    second.close()
    first.expect(b"JOIN ")
    first.expect(b"LEFT ")
    deadline = time.monotonic() + BOUND
    while True:
        fourth = connect(server)
        fourth.expect(b"INFO ")
        fourth.send(b"HELLO\n")
        if fourth.line().startswith(b"WELCOME "):
            break
        assert time.monotonic() < deadline
        fourth.close()


def test_a_flood_of_strangers_is_logged_so_often_and_then_counted(serve: Serve, connect: Connect) -> None:
    server = serve(1, "--log-format", "json")
    member = connect(server)
    member.hello()
    count = 3 * logs.MAX_STRANGER_LINES
    with server.paused():
        strangers = [connect(server) for _ in range(count)]
        for stranger in strangers:
            stranger.send(b"\x1b[2Jforged\n")
    for stranger in strangers:
        stranger.rest()
    nothing_happens(member, 1.2)  # a second is over
    member.settle()
    events = [json.loads(line) for line in server.log().splitlines()]
    refused = sum(event["event"] == "refused" for event in events)
    left_out = sum(event["events"] for event in events if event["event"] == "left out")
    assert logs.MAX_STRANGER_LINES <= refused < count
    assert refused + left_out == count


@pytest.mark.parametrize("pair", [os.pipe, pty.openpty])
def test_a_standard_error_that_nobody_reads_holds_nobody_up(
    serve: Serve, connect: Connect, join: Join, pair: Callable[[], tuple[int, int]]
) -> None:
    unread, stderr = pair()
    if pair is os.pipe:
        fcntl.fcntl(stderr, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
    server = serve(8, stderr=stderr)
    (member,) = join(server, "a")
    for _ in range(200):  # as many bytes as a terminal takes, twice
        client = connect(server)
        client.send(b"HELLO\nBYE\n")
        client.rest()
    server.process.send_signal(signal.SIGUSR1)
    member.send(b"CMD on\n")
    while not member.line().endswith(b" 0 on"):
        pass
    assert server.stop() == 0
    os.close(unread)
    os.close(stderr)


# --- a server that is stopped, and goes on ----------------------------------------------------

HEARTBEAT = "0.8"
STOPPED = 2.5  # seconds, longer than any timeout


def test_a_server_that_was_stopped_for_long_drops_nobody(serve: Serve, connect: Connect, join: Join) -> None:
    server = serve(8, "--heartbeat", HEARTBEAT, "--handshake-timeout", "1.5")
    clients = join(server, "a", "b", "c", "d")
    with ExitStack() as stack:
        for client in clients:
            while client.line() != b"PING":
                pass
        stranger = connect(server)
        stranger.expect(b"INFO ")
        nothing_happens(stranger, 0.05)  # its turn is over: it would count for a second
        stack.enter_context(server.paused())
        nothing_happens(stranger, STOPPED)
    for client in clients:
        client.send(b"PONG\n")
    assert stranger.hello()["rank"] == len(clients)
    stranger.send(b"BYE\n")
    for client in clients:
        lines = [line for line in client.settle() if line != b"PING"]
        assert [line[:4] for line in lines] in ([b"JOIN", b"LEFT"], [b"JOIN"])
    assert "was not running" in server.log()
