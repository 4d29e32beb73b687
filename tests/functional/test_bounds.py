"""Connections that have not joined, and a server that was stopped for a while: members hardly notice
either."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import time
from collections.abc import Callable

import pytest

from rankserver import logs
from rankserver.door import MIN_STRANGERS
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

# Descriptors of the server itself: standard streams, listener, selector, signals, and some to spare.
OWN_DESCRIPTORS = 16
STRANGERS = 3 * MIN_STRANGERS


# --- strangers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said", [b"", b"HELL", b"NONSENSE\n", b"HELLO {}\n"], ids=["nothing", "drip", "bad", "full"]
)
def test_many_strangers_hold_few_descriptors_and_keep_nobody_out(
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
    assert server.descriptors() <= MIN_STRANGERS + 2 + OWN_DESCRIPTORS
    if not said.startswith(b"HELLO"):
        assert connect(server).hello()["rank"] == 2
        first.expect(b"JOIN ")
    first.send(b"CMD on\n")
    assert first.line().endswith(b" 0 on")


def test_the_stranger_that_waited_longest_is_dropped_first(serve: Serve, connect: Connect) -> None:
    server = serve(3)
    strangers = [connect(server) for _ in range(MIN_STRANGERS + 2)]
    for stranger in strangers:
        stranger.expect(b"INFO ")
    for gone in strangers[:2]:
        gone.expect(b"BYE timeout too many ")
        gone.eof()
    for stays in strangers[2:5]:
        stays.hello()


def test_what_strangers_send_costs_little_memory_each(serve: Serve, connect: Connect, join: Join) -> None:
    server = serve(64)
    (member,) = join(server, "a")
    before = server.peak_memory()
    for _ in range(MIN_STRANGERS - 1):
        connect(server).send(b"HELLO %s" % (b"x" * 60_000))
    member.settle()
    assert server.peak_memory() - before < MIN_STRANGERS * 150 * 1024


def test_closing_one_makes_room_for_another_from_its_address(serve: Serve, connect: Connect) -> None:
    server = serve(8, "--max-per-address", "2")
    first, second, third = (connect(server) for _ in range(3))
    first.hello()
    second.hello()
    assert third.rest()[-1] == b"BYE full the limit is 2 connections from one address"
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


def test_a_flood_of_strangers_is_logged_and_then_only_counted(serve: Serve, connect: Connect) -> None:
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
    refused = left_out = 0
    deadline = time.monotonic() + BOUND
    while refused + left_out < count:
        assert time.monotonic() < deadline, f"{refused} are logged, and {left_out} counted"
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
    # These are twice as many bytes as a terminal buffers.
    for _ in range(200):
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


def test_a_server_that_was_stopped_for_long_drops_nobody(serve: Serve, connect: Connect, join: Join) -> None:
    server = serve(8, "--heartbeat", "1.5", "--handshake-timeout", "2.5")
    clients = join(server, "a", "b", "c", "d")
    for client in clients:
        while client.line() != b"PING":
            pass
    stranger = connect(server)
    stranger.expect(b"INFO ")
    # A stop in the middle of a turn would count partly.
    server.wait_until_asleep()
    with server.paused():
        # This is longer than either timeout.
        assert not select.select([stranger.sock], [], [], 3.0)[0]
    for client in clients:
        client.send(b"PONG\n")
    assert stranger.hello()["rank"] == len(clients)
    stranger.send(b"BYE\n")
    for client in clients:
        lines = [line for line in client.settle() if line != b"PING"]
        assert [line[:4] for line in lines] in ([b"JOIN", b"LEFT"], [b"JOIN"])
    assert "was not running" in server.log()
