"""Fairness (docs/protocol.md): whatever one client sends and however it reads, the others are served.

``benchmarks/fairness.py`` measures how long the others wait. Here the order of the frames shows that they do
not wait for the end of a flood.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rankserver.wire import protocol
from tests.support.rawclient import READ_SIZE, RawClient, fields_of
from tests.support.servers import ServerProcess
from tests.support.waiting import BOUND

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]
Serve = Callable[..., ServerProcess]

# The most answers that one client may get before another is served: somewhat more than the lines of one turn.
MAX_ANSWERS_BEFORE = 1_500

# This program joins and then only writes, so the server cannot send anything to it.
WRITER = """
import os, socket, sys
data = b"CMD %s\\n" % (b"a" * 123) * 100_000
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(b"HELLO\\n")
stream = sock.makefile("rb")
while not stream.readline().startswith(b"WELCOME "):
    pass
sock.shutdown(socket.SHUT_RD)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
os.fork()  # while one of them is not running, another writes: there is always something to read
os.fork()
try:
    while True:
        sock.sendall(data)
except OSError:
    pass
"""


# --- clients that cannot be sent to -----------------------------------------------------------


def test_a_writer_that_cannot_be_sent_to_starves_nobody(serve: Serve, join: Join, tmp_path: Path) -> None:
    server = serve(4, unix=tmp_path / "socket")
    sender, other = join(server, "a", "b")
    drain(sender)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(server.unix)]) as writer:
        try:
            other.expect(b"JOIN ")
            deadline = time.monotonic() + 3 * BOUND
            number = 0
            has_left = False
            while not has_left:
                assert time.monotonic() < deadline, "the writer is never gone"
                sender.send(b"CMD %d\n" % number)
                while not (line := other.line()).endswith(b" 0 %d" % number):
                    has_left = has_left or line.startswith(b"LEFT ")
                number += 1
            assert writer.wait(BOUND) == 0
        finally:
            writer.kill()


def test_a_client_that_is_gone_loses_none_of_the_lines_it_sent(
    serve: Serve, join: Join, tmp_path: Path
) -> None:
    server = serve(4, unix=tmp_path / "socket")
    other, gone = join(server, "a", "b")
    with server.paused():
        other.send(b"CMD to be sent to who is gone\n")
        gone.sock.setblocking(False)
        sent = gone.sock.send(b"".join(b"CMD %06d\n" % n for n in range(100_000)))
        gone.close()
    other.expect(b"CMD ")
    lines = list(iter(other.line, b"LEFT %d 1" % (sent // 11 + 4)))
    assert [int(line.split()[3]) for line in lines] == list(range(sent // 11))


def test_a_flood_from_a_client_that_is_gone_delays_no_shutdown(
    serve: Serve, join: Join, tmp_path: Path
) -> None:
    server = serve(4, unix=tmp_path / "socket")
    other, gone = join(server, "a", "b")
    # All of it comes in one turn, and is more than one turn handles.
    with server.paused():
        gone.send(b"PONG\n" * 2_000)
        gone.close()
        server.process.send_signal(signal.SIGTERM)
    assert other.rest()[-1].startswith(b"BYE shutdown")
    other.close()
    assert server.process.wait(BOUND) == 0


# --- ends of clients that are behind ----------------------------------------------------------


@pytest.mark.parametrize("ending", ["proto", "shutdown"])
@pytest.mark.parametrize("kib", [220, 300, 400, 800])
def test_a_client_that_catches_up_in_its_last_turn_gets_its_bye(
    serve: Serve, join: Join, tmp_path: Path, ending: str, kib: int
) -> None:
    # A Unix socket holds about 200 KiB, and never more.
    server = serve(4, unix=tmp_path / "socket")
    sender, behind = join(server, "a", "b")
    sender.send(b"CMD %s\n" % (b"x" * 1_019) * kib)
    log = sender.settle()
    with server.paused():
        if ending == "proto":
            behind.send(b"HELLO\n")
        else:
            server.process.send_signal(signal.SIGTERM)
        behind.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while behind._receive():
                pass
        behind.sock.settimeout(BOUND)
    *lines, goodbye = behind.rest()
    assert goodbye.startswith(b"BYE %s " % ending.encode())
    assert lines == log


# --- floods -----------------------------------------------------------------------------------


def drain(client: RawClient) -> list[bytes]:
    """Start a thread that reads all that a client gets; return the list that it fills."""
    got: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := client.sock.recv(READ_SIZE):
                got.append(data)

    threading.Thread(target=read, daemon=True).start()
    return got


def flood(
    server: ServerProcess, flooder: RawClient, data: bytes, sender: RawClient, other: RawClient
) -> list[bytes]:
    """Send ``data`` while ``sender`` commands ``other``; return all lines that the flooder gets.

    The first command is sent together with the flood, and each further one when the one before has arrived.
    """
    lines: list[bytes] = []

    def read() -> None:
        lines.extend(iter(flooder.line, b"PONG the end"))

    with server.paused():
        flooder.sock.setblocking(False)
        sent = flooder.sock.send(data)
        flooder.sock.settimeout(BOUND)
        sender.send(b"CMD 0\n")
    threads = [
        threading.Thread(target=flooder.send, args=(data[sent:] + b"PING the end\n",)),
        threading.Thread(target=read),
    ]
    for thread in threads:
        thread.start()
    arrived = 0
    while threads[1].is_alive():
        while not other.line().endswith(b" 0 %d" % arrived):
            pass
        arrived += 1
        sender.send(b"CMD %d\n" % arrived)
    for thread in threads:
        thread.join()
    return lines


def answers_between_commands(lines: list[bytes]) -> list[bytes]:
    """Check that the first command did not wait for many answers to the flood; return the answers."""
    first = next(place for place, line in enumerate(lines) if line.startswith(b"CMD "))
    assert first <= MAX_ANSWERS_BEFORE
    return [line for line in lines if not line.startswith((b"CMD ", b"JOIN "))]


def test_a_flood_of_pings_delays_nobody_and_all_are_answered(server: ServerProcess, join: Join) -> None:
    sender, other, flooder = join(server, "a", "b", "c")
    drain(sender)
    data = b"".join(b"PING %d\n" % n for n in range(150_000))
    answers = answers_between_commands(flood(server, flooder, data, sender, other))
    assert answers == [b"PONG %d" % n for n in range(150_000)]


def test_a_flood_of_wrong_answers_delays_nobody(server: ServerProcess, join: Join) -> None:
    sender, other, flooder = join(server, "a", "b", "c")
    drain(sender)
    data = b"".join(b"RES %d ok\n" % n for n in range(1_000_000, 1_100_000))
    answers = answers_between_commands(flood(server, flooder, data, sender, other))
    assert {tuple(line.split()[:2]) for line in answers} == {(b"ERR", b"no-such-ask")}
    assert [int(line.split()[4]) for line in answers] == list(range(1_000_000, 1_100_000))


def test_a_flood_of_rosters_delays_nobody_and_all_are_whole(
    serve: Serve, connect: Connect, join: Join
) -> None:
    server = serve(200)
    sender, other, flooder = join(server, "a", "b", "c")
    for _ in range(120):
        connect(server).hello()
    names = flooder.roster()
    other.settle()
    drain(sender)
    answers = answers_between_commands(flood(server, flooder, b"WHO\n" * 2_000, sender, other))
    assert len(answers) == 2_000
    assert len(set(answers)) == 1
    assert [member["name"] for member in fields_of(answers[0])["clients"]] == names


def test_lines_behind_a_flood_are_handled_after_it(server: ServerProcess, join: Join) -> None:
    other, flooder = join(server, "a", "b")
    flooder.send(b"PING x\n" * 20_000 + b"CMD after\n" + b"PING y\n" * 20_000 + b"CMD last\n")
    flooder.sock.shutdown(socket.SHUT_WR)
    log = flooder.rest()
    assert log == [b"PONG x"] * 20_000 + [b"CMD 3 1 after"] + [b"PONG y"] * 20_000 + [b"CMD 4 1 last"]
    assert other.lines(3) == [b"CMD 3 1 after", b"CMD 4 1 last", b"LEFT 5 1"]


# --- many answers for one ---------------------------------------------------------------------


def test_a_reading_asker_gets_all_simultaneous_answers(serve: Serve, connect: Connect) -> None:
    executors, asks = 100, 200
    server = serve(executors + 1, "--max-backlog", str(4 * 1024 * 1024))
    asker, *others = [connect(server) for _ in range(executors + 1)]
    for client in (asker, *others):
        client.hello()
    asker.send(b"ASK what\n" * asks)
    seqs = [int(line.split()[1]) for line in asker.settle() if line.startswith(b"ASK ")]
    answers = b"".join(protocol.result(seq, "ok", {"out": "z" * 250}) for seq in seqs)
    for other in others:
        while not other.line().startswith(b"ASK %d " % seqs[-1]):
            pass
    with server.paused():
        for other in others:
            # This fits into the kernel's buffers.
            other.send(answers)
    got: dict[int, list[int]] = {rank: [] for rank in range(1, executors + 1)}
    for line in asker.lines(executors * asks):
        verb, seq, rank, _ = line.split(maxsplit=3)
        assert verb == b"RES", line
        got[int(rank)].append(int(seq))
    assert got == dict.fromkeys(got, seqs)
    assert asker.settle() == []
