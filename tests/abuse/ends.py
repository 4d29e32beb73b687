"""Rows: a server that is told to end, is killed, or is stopped for a while."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from harness import BenchmarkError, Program

from rankserver.client import DisconnectedError, connect
from tests.abuse.clients import MAX_WAIT, Follower, LineClient, crowd, read_all
from tests.abuse.flow import Consumer, Producer, Pump
from tests.abuse.outcome import MIB, RowOutcome, milliseconds
from tests.abuse.subjects import RANK

if TYPE_CHECKING:
    from harness import ServerProgram

    from rankserver.client import Client
    from tests.abuse.subjects import Subject

# The most seconds from SIGTERM to the end of the server: two for clients that do not read, and one more.
MAX_EXIT: Final = 3.0

# Seconds in which a client must notice that the server is gone, or back.
MAX_NOTICE: Final = 1.0

# Places for clients other than those that a row counts.
SPARE: Final = 16


# --- SIGTERM ----------------------------------------------------------------------------------


def sigterm(subject: Subject, receivers: int = 50, seconds: float = 3, backlog: int = 2 * MIB) -> RowOutcome:
    """Send SIGTERM while commands flow at full speed."""
    outcome = RowOutcome()
    with (
        subject.start(receivers + SPARE, rankserver=["--max-backlog", str(backlog)]) as server,
        LineClient(subject, server.address, hello=subject.sending) as client,
        crowd(receivers, lambda _: _Receiver(subject, server.address)) as members,
    ):
        client.join()
        sender = Producer(client, 0, 4000)
        for member in members:
            member.follow([sender])
        took, code = _end(server, sender, members, seconds)
        counts = [member.counts[0] for member in members]
        wrong = sum(member.wrong for member in members)
        farewells = sum(member.last.startswith(b"BYE shutdown") for member in members)
    lost = sum(max(counts) - count for count in counts)
    outcome.check(code == 0, f"exit code {code}")
    outcome.check_time(took <= MAX_EXIT, f"it took {took:.1f} s to end")
    outcome.check(not lost, f"{lost:,} commands that one got and others did not")
    outcome.check(not wrong, f"{wrong} of {receivers} got something else")
    if subject is RANK:
        outcome.check(farewells == receivers, f"{receivers - farewells} of {receivers} got no BYE")
    outcome.figure = (
        f"exit {code} after {milliseconds(took)}; {max(counts):,} commands at most, "
        + (
            f"up to {max(counts) - min(counts):,} fewer for others"
            if lost
            else f"as many for all {receivers}"
        )
        + (f", {farewells} BYE" if subject is RANK else "")
    )
    return outcome


class _Receiver(Consumer):
    """A consumer that keeps the last line."""

    last = b""

    def take(self, lines: list[bytes]) -> None:
        if lines:
            self.last = lines[-1]
        if hasattr(self, "counts"):
            super().take(lines)


def _end(
    server: ServerProgram, sender: Producer, members: list[_Receiver], seconds: float
) -> tuple[float, int]:
    """Let commands flow for ``seconds``, end the server, and read to the end.

    Returns:
        The seconds from SIGTERM to the end of the server, and its exit code.
    """
    begin, told = time.monotonic(), 0.0
    with Pump([sender], members) as pump:
        while any(not member.ended for member in members):
            pump.turn()
            now = time.monotonic()
            if not told and now - begin > seconds:
                told = now
                server.signal(signal.SIGTERM)
            if now - begin > seconds + MAX_WAIT:
                raise BenchmarkError(f"{server.name} does not close its connections")
    code = server.wait()
    return time.monotonic() - told, code


# --- kill -9 ----------------------------------------------------------------------------------


def kill(subject: Subject) -> RowOutcome:
    """Kill the server, and measure when clients notice."""
    outcome = RowOutcome()
    with subject.start(8) as server, LineClient(subject, server.address) as client:
        client.join()
        if subject is not RANK:
            server.signal(signal.SIGKILL)
            begin = time.perf_counter()
            read_all([client], lambda: False)
            outcome.figure = f"a bare socket after {milliseconds(time.perf_counter() - begin)}"
            return outcome
        where = f"{server.address.host}:{server.address.port}"
        program = [sys.executable, "-m", "client", where, "--stay", "--exec", "simulate"]
        with Program("the client", program) as console:
            while "ank" not in console.line(MAX_WAIT):
                pass
            seconds, told = asyncio.run(_killed(server, client, console, where))
            # It ends before it is told to.
            code = console.wait()
    for who, after in (("a bare socket", seconds[0]), ("the API", seconds[1]), ("the console", seconds[2])):
        outcome.check_time(after <= MAX_NOTICE, f"{who} knew after {after:.1f} s")
    outcome.check(code != 0, "the console ended with 0")
    outcome.figure = (
        f"a bare socket after {milliseconds(seconds[0])}, the API {milliseconds(seconds[1])}, the console "
        f"{milliseconds(seconds[2])} ({told})"
    )
    return outcome


async def _killed(
    server: ServerProgram, client: LineClient, console: Program, where: str
) -> tuple[tuple[float, float, float], str]:
    """Kill the server; return when a socket, the API and the console noticed, and what the console said."""
    async with connect(where, name="api") as api:
        waiting = asyncio.ensure_future(_until_lost(api))
        await asyncio.sleep(0)
        begin = time.perf_counter()
        server.signal(signal.SIGKILL)
        read_all([client], lambda: False)
        socket_knew = time.perf_counter() - begin
        api_knew = await asyncio.wait_for(waiting, MAX_WAIT) - begin
    told = ""
    while "disconnected" not in told:
        told = console.line(MAX_WAIT)
    return (socket_knew, api_knew, time.perf_counter() - begin), told


async def _until_lost(api: Client) -> float:
    """Return the time at which this client learns that its connection is lost."""
    with contextlib.suppress(DisconnectedError):
        async for _ in api:
            pass
    return time.perf_counter()


# --- SIGSTOP ----------------------------------------------------------------------------------


def stop(subject: Subject, clients: int = 200, heartbeat: float = 1, stopped: float = 5) -> RowOutcome:
    """Stop the server for longer than two heartbeats, and let it run on for the same time."""
    outcome = RowOutcome()
    settings = {"rankserver": ["--heartbeat", str(heartbeat)], "nats": [f'ping_interval: "{heartbeat:g}s"']}

    def make(number: int) -> LineClient:
        return (
            Follower(server.address, f"n{number}") if subject is RANK else LineClient(subject, server.address)
        )

    with (
        subject.start(clients + SPARE, **settings) as server,
        crowd(clients, make) as members,
        LineClient(subject, server.address, hello=subject.sending) as sender,
    ):
        sender.join()
        read_all([sender, *members], lambda: False, heartbeat)
        server.signal(signal.SIGSTOP)
        # Clients that were sent a PING before answer it.
        read_all([sender, *members], lambda: False, stopped)
        server.signal(signal.SIGCONT)
        begin = time.perf_counter()
        sender.command(b"#back")
        read_all([sender, *members], lambda: all(member.ended or _is_served(member) for member in members))
        seconds = time.perf_counter() - begin
        read_all([sender, *members], lambda: False, 3 * heartbeat)
        evicted = sum(member.ended for member in members)
        served = sum(map(_is_served, members))
    outcome.check(not evicted, f"{evicted} of {clients} were evicted")
    outcome.check(served == clients, f"{clients - served} of {clients} got no command afterwards")
    outcome.check_time(seconds <= MAX_NOTICE, f"the first command afterwards took {seconds:.1f} s")
    outcome.figure = (
        f"{evicted} of {clients} evicted; a command reaches {served} of {clients} "
        f"{milliseconds(seconds)} after it goes on"
    )
    return outcome


def _is_served(member: LineClient) -> bool:
    return bool(member.commands if isinstance(member, Follower) else member.texts)
