"""The client for asyncio programs; ``rankserver.client.sync`` has the same without ``async``.

    client = connect("127.0.0.1:5050", name="web-1")

    @client.executes
    async def run(command):
        return f"{command.text} done"

    async with client:
        answers = await client.ask("uptime", timeout=10)
        for answer in answers:
            print(answer.rank, answer.name, answer.status, answer.out)

A background task receives all the time. So asks complete, commands are executed and the server's PINGs are
answered, whatever the program is waiting for. ``docs/api.md`` explains it with examples.
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
    insecure: bool = False,
    reconnect: bool = False,
    executor: Executor | None = None,
    jobs: int = 1,
) -> Client:
    """Return a client of the server at ``address``: its ``async with`` joins, and leaves at the end.

    Args:
        address: ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; the default port is 5050. None
            takes the environment variable ``RANKSERVER``, or 127.0.0.1:5050 if that is not set.
        name: our name; None lets the server choose one.
        token: the token, for a server that requires one.
        tls: the TLS context, such as ``rankserver.client.tls.context()``; None connects without TLS.
        insecure: whether the token may travel over a network without TLS. Otherwise, it is sent without TLS
            only to a loopback address or over a Unix socket.
        reconnect: whether to keep trying to connect, both at first and after the connection is lost.
        executor: executes commands from the moment we join; ``Client.executes`` can set it later.
        jobs: the maximum number of commands executed at once; they start in the order of the log.

    Raises:
        ConfigError: ``address`` cannot be parsed, or ``jobs`` is not from 1 to 1,000.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"jobs must be from 1 to {MAX_JOBS}, not {jobs}")
    if address is None:
        address = os.environ.get("RANKSERVER") or DEFAULT_ADDRESS
    where = parse_address(address)
    joining = partial(join, where, name=name, token=token, tls=tls, insecure=insecure)
    return Client(where, Runner(joining, executor, reconnects=reconnect, jobs=jobs))


class Client:
    """One client, made by ``connect``. It is not thread-safe.

    Once the connection is lost, everything that needs it raises ``DisconnectedError``: ``cmd``, ``ask`` and
    ``who``, calls that wait for an answer, iterations, ``rank`` and ``clients``. With ``reconnect``, this
    lasts only until the connection is back, and iterations continue.

    Attributes:
        address: where the server is.
    """

    def __init__(self, address: Address, runner: Runner) -> None:
        self.address = address
        self._runner = runner

    # --- state ---

    @property
    def is_connected(self) -> bool:
        """Whether we have joined and, as far as we know, are still connected."""
        return self._runner.is_connected

    @property
    def name(self) -> str:
        """Our name."""
        return self._runner.joined().session.log.name

    @property
    def rank(self) -> int:
        """Our rank (0 is the highest) after everything received so far; iterations may lag behind it."""
        return self._runner.joined().session.log.rank

    @property
    def clients(self) -> int:
        """The number of clients, including us, after everything received so far."""
        return self._runner.joined().session.log.clients

    @property
    def seq(self) -> int:
        """The number of the last log frame that was received."""
        return self._runner.joined().session.log.seq

    @property
    def max_line(self) -> int:
        """The longest line that the server accepts, in bytes, including verb and LF."""
        return self._runner.joined().session.info.max_line

    @property
    def capacity(self) -> int:
        """The number of clients that the server has room for, including us."""
        return self._runner.joined().session.info.capacity

    # --- commanding ---

    async def cmd(self, text: str) -> int:
        """Broadcast a command that nobody answers, and return its number once it is in the log.

        To send many commands without waiting for each, use ``asyncio.gather``: it keeps their order.

        Raises:
            LocalProtocolError: the protocol does not allow ``text``; nothing was sent.
            DisconnectedError: there is no connection, or it was lost before the command was seen in the log.
        """
        connection = self._runner.joined()
        logged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.session.cmd(text, logged)
        connection.wake()
        return await logged

    def ask(self, text: str, *, timeout: float | None = None) -> Ask:
        """Broadcast a command, and ask every other client for its outcome.

        The call itself sends the command. ``await`` the result to wait for all answers, or use ``async for``
        to get each answer as it arrives.

        Args:
            text: the command.
            timeout: seconds after which clients that have not answered count as ``timeout``; None waits for
                all. If the command is not even in the log by then, awaiting the ``Ask`` raises
                ``TimeoutError``.

        Raises:
            LocalProtocolError: the protocol does not allow ``text``; nothing was sent.
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
        """Wait while more than 64 KiB are still to be sent; for programs that send many asks at once."""
        if self._runner.connection is not None:
            await self._runner.connection.drain()

    async def who(self) -> tuple[frames.RosterEntry, ...]:
        """Return the roster: all clients in the order of their ranks, each with ``rank`` and ``name``.

        Raises:
            DisconnectedError: there is no connection, or it was lost before the answer came.
        """
        connection = self._runner.joined()
        roster: asyncio.Future[tuple[frames.RosterEntry, ...]] = asyncio.get_running_loop().create_future()
        connection.session.who(roster)
        connection.wake()
        return await roster

    # --- executing and leading ---

    def executes(self, function: F) -> F:
        """Execute commands of higher ranks by calling ``function(command)``; a decorator.

        The function's result is the answer: text is the output, None means no output, an ``Outcome`` is sent
        as it is, and an exception is a failure with its name and text. A coroutine function is awaited; any
        other function runs in a thread, so it may block. Commands that arrive before this call are answered
        ``denied``: call it before ``async with`` to miss none.
        """
        self.execute_with(FunctionExecutor(function))
        return function

    def execute_with(self, executor: Executor) -> None:
        """Execute commands of higher ranks with ``executor`` from now on."""
        self._runner.execution.execute_with(executor)

    def on_lead(self, function: L) -> L:
        """Call ``function(seq)`` whenever we become rank 0, and at once if we are; a decorator.

        ``seq`` is the number of the log frame that made us lead. While the server runs, each new leader gets
        a higher number, so a shared resource can be protected by refusing all numbers but the highest. A
        coroutine function is cancelled when we stop leading. Any other function runs in a thread, which
        nothing can cancel: it must look at ``rank`` from time to time. If a function fails, the client
        leaves, so that the next in rank can take over. Commands of the previous leader may still be waiting
        for execution when the function is called.
        """
        self._runner.leadership.add(function)
        return function

    # --- events ---

    def __aiter__(self) -> EventStream:
        """Start an iteration over events: ``Connected`` with the current state, then all that happens.

        The iteration ends when the client is closed. When the connection is lost, it raises
        ``DisconnectedError``; with ``reconnect``, it yields ``Disconnected``, ``Retrying`` and ``Connected``
        instead. If it starts before we join, it has everything from ``Connected`` on, but reading it before
        we join raises ``DisconnectedError``. Events from before the iteration started are not kept. The
        number of unread events has no bound, because receiving never waits for a reader.
        """
        return self._runner.subscribe()

    # --- joining and leaving ---

    async def __aenter__(self) -> Client:
        """Join.

        Raises:
            LocalProtocolError: the protocol does not allow the name.
            InsecureError: the token would travel over a network without TLS.
            ConnectError: no server answers, or not in time.
            DisconnectedError: the server refused us, it is not a rankserver, or the client was closed.
            RuntimeError: the client joined before and was not closed.
        """
        await self._runner.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave: the server still gets everything sent before, and commands being executed are cancelled.

        May be called again. Cancelling this call only stops the waiting. Code that closing cancels, such as
        the executor, may call it too: for it, the call returns without waiting.
        """
        await self._runner.close()
