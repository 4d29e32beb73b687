"""The client for asyncio programs; ``rankserver.client.sync`` has the same without ``async``.

    client = connect("127.0.0.1:5050", name="web-1")

    @client.executes
    async def run(command):
        return f"{command.text} done"

    async with client:
        answers = await client.ask("uptime", timeout=10)
        for answer in answers:
            print(answer.rank, answer.name, answer.status, answer.out)

A task of its own receives all the time, so that asks complete, commands are executed and the server's PINGs
are answered whatever the program waits for. ``docs/api.md`` explains it with examples.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from rankserver.client.ask import Ask
from rankserver.client.connection import Address, join, parse_address
from rankserver.client.events import Execute
from rankserver.client.functions import FunctionExecutor
from rankserver.client.runner import Runner
from rankserver.client.stream import EventStream
from rankserver.client.worker import MAX_JOBS, Executor
from rankserver.wire import frames
from rankserver.wire.exceptions import ConfigError, LocalProtocolError

DEFAULT_ADDRESS: Final = "127.0.0.1:5050"

F = TypeVar("F", bound=Callable[[Execute], object])
L = TypeVar("L", bound=Callable[[int], object])


def connect(  # noqa: PLR0913 - most callers leave out most keywords
    address: str | None = None,
    *,
    name: str | None = None,
    token: str | None = None,
    tls: ssl.SSLContext | None = None,
    reconnect: bool = False,
    executor: Executor | None = None,
    jobs: int = 1,
) -> Client:
    """Return a client: its ``async with`` joins the server at ``address``, and leaves it at the end.

    Args:
        address: ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; the default port is 5050. Without
            an address, the environment's ``RANKSERVER`` is used, else 127.0.0.1:5050.
        name: our name; if there is none, the server chooses one.
        token: shows a server that wants one that we may join.
        tls: how to recognize the server, such as ``rankserver.client.tls.context()``; None for no TLS.
        reconnect: whether to keep trying to connect, at first and whenever the connection is lost.
        executor: executes commands from the moment that we join; ``Client.executes`` sets it later.
        jobs: how many commands are executed at once; they are started in the order of the log.

    Raises:
        ConfigError: ``address`` cannot be parsed, or ``jobs`` is not from 1 to 1,000.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"jobs is {jobs}, and has to be from 1 to {MAX_JOBS}")
    if address is None:
        address = os.environ.get("RANKSERVER") or DEFAULT_ADDRESS
    where = parse_address(address)
    joining = partial(join, where, name=name, token=token, tls=tls)
    return Client(where, Runner(joining, executor, reconnects=reconnect, jobs=jobs))


class Client:
    """One client; ``connect`` makes it. Not for use from several threads.

    Once the connection is lost, everything that needs it raises ``DisconnectedError``: ``cmd``, ``ask`` and
    ``who``, whatever waits for an answer, iterating, ``rank`` and ``clients``. With ``reconnect`` this lasts
    only until the connection is back, and iterating goes on.

    Attributes:
        address: where the server is.
    """

    def __init__(self, address: Address, runner: Runner) -> None:
        self.address = address
        self._runner = runner

    # --- what it is ---

    @property
    def is_connected(self) -> bool:
        """Whether we have joined and the connection, as far as we know, holds."""
        return self._runner.is_connected

    @property
    def name(self) -> str:
        """Our name."""
        return self._runner.joined().session.log.name

    @property
    def rank(self) -> int:
        """Our rank, 0 the highest, as of what has been received; events may still wait to be read."""
        return self._runner.joined().session.log.rank

    @property
    def clients(self) -> int:
        """The number of clients, us included, as of what has been received."""
        return self._runner.joined().session.log.clients

    @property
    def seq(self) -> int:
        """The number of the last log frame that was received."""
        return self._runner.joined().session.log.seq

    @property
    def max_line(self) -> int:
        """The longest line that the server takes, in bytes with verb and LF."""
        return self._runner.joined().session.info.max_line

    @property
    def capacity(self) -> int:
        """How many clients the server takes, us included."""
        return self._runner.joined().session.info.capacity

    # --- commanding ---

    async def cmd(self, text: str) -> int:
        """Broadcast a command that nobody answers; return its number once it is in the log.

        To send many without waiting for each, gather the calls: they are sent in the order of the calls.

        Raises:
            LocalProtocolError: ``text`` may not be sent; nothing was.
            DisconnectedError: there is no connection, or it was lost before the command was seen in the log.
        """
        connection = self._runner.joined()
        logged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.session.cmd(text, logged)
        connection.wake()
        return await logged

    def ask(self, text: str, *, timeout: float | None = None) -> Ask:
        """Broadcast a command and ask all others what becomes of it.

        The call itself sends it: ``await client.ask(...)`` waits for all answers, and ``async for answer in
        client.ask(...)`` gives each as it comes.

        Args:
            text: the command.
            timeout: seconds after which clients that have not answered count as ``timeout``; None waits for
                all. If the command is not even in the log by then, awaiting it raises ``TimeoutError``.

        Raises:
            LocalProtocolError: ``text`` may not be sent; nothing was.
            DisconnectedError: there is no connection.
        """
        connection = self._runner.joined()
        ask = Ask(text, self._runner.expire, timeout)
        try:
            connection.session.ask(text, ask)
        except LocalProtocolError as error:
            ask.end(error)
            raise
        connection.wake()
        return ask

    async def drain(self) -> None:
        """Wait until the server has taken most of what must be sent, if much is sent without awaiting it."""
        if self._runner.connection is not None:
            await self._runner.connection.drain()

    async def who(self) -> tuple[frames.RosterEntry, ...]:
        """Return the roster: all clients in the order of their ranks, each with ``rank`` and ``name``.

        Raises:
            DisconnectedError: there is no connection, or it was lost before the answer.
        """
        connection = self._runner.joined()
        roster: asyncio.Future[tuple[frames.RosterEntry, ...]] = asyncio.get_running_loop().create_future()
        connection.session.who(roster)
        connection.wake()
        return await roster

    # --- being commanded, and leading ---

    def executes(self, function: F) -> F:
        """Execute commands of higher ranks by calling ``function(command)``; a decorator.

        What it returns is the answer: text is the output, None is no output, an ``Outcome`` is taken as it
        is, and an exception is a failure with its name and text. A coroutine function is awaited; any other
        runs in a thread, so that nothing waits for it. Commands that came before this call were answered
        ``denied``: call it before ``async with`` to miss none.
        """
        self.execute_with(FunctionExecutor(function))
        return function

    def execute_with(self, executor: Executor) -> None:
        """Execute commands of higher ranks with ``executor`` from now on."""
        self._runner.execution.execute_with(executor)

    def on_lead(self, function: L) -> L:
        """Call ``function(seq)`` whenever we become rank 0, and at once if we are; a decorator.

        ``seq`` is the number of the log frame that made us lead. It rises with each new leader for as long as
        the server runs, so whatever guards a shared resource can refuse all but the highest. A coroutine
        function is cancelled when we stop leading. Any other function runs in a thread, which nothing can
        cancel: it must look at ``rank`` from time to time. If a function fails, the client leaves, so that
        the next in rank can take over. When it is called, commands of the previous leader may still wait to
        be executed.
        """
        self._runner.leadership.add(function)
        return function

    # --- what happens ---

    def __aiter__(self) -> EventStream:
        """Begin to receive events: ``Connected`` with what is so now, and then all that happens.

        The iteration ends when the client is closed. When the connection is lost it raises
        ``DisconnectedError``, or with ``reconnect`` gives ``Disconnected``, ``Retrying`` and ``Connected``.
        One that begins before we join has everything from then on; reading it before that raises
        ``DisconnectedError``. What happens while nobody iterates is not kept. What waits to be read has no
        bound, because receiving never waits for a reader.
        """
        return self._runner.subscribe()

    # --- its life ---

    async def __aenter__(self) -> Client:
        """Join.

        Raises:
            LocalProtocolError: the protocol does not allow the name.
            ConnectError: no server answers, or not in time.
            DisconnectedError: the server refused us, it is no rankserver, or somebody closed the client.
            RuntimeError: it was joined before, and not closed.
        """
        await self._runner.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave: the server gets everything sent before, and what is being executed is ended.

        May be called again. Cancelling it ends only the waiting. Code that closing itself ends, such as the
        executor, can call it too, and does not wait.
        """
        await self._runner.close()
