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
import random
import ssl
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from rankserver.client.ask import Ask
from rankserver.client.connection import Address, Connection, join, parse_address
from rankserver.client.events import (
    Answer,
    AskDone,
    Connected,
    Disconnected,
    Event,
    Execute,
    Finished,
    Outcome,
    RankChanged,
    Rejected,
    Retrying,
    RosterReceived,
    Sent,
    Started,
)
from rankserver.client.functions import Function, described
from rankserver.client.lead import Lead
from rankserver.client.session import State
from rankserver.client.stream import Events
from rankserver.client.worker import MOST_JOBS, Executor, Worker
from rankserver.wire import frames, protocol
from rankserver.wire.exceptions import ConfigError, ConnectError, DisconnectedError, LocalProtocolError

DEFAULT_ADDRESS: Final = "127.0.0.1:5050"
FIRST_DELAY: Final = 0.5  # seconds, at most, before we connect again; it doubles with each further try
LONGEST_DELAY: Final = 30.0  # seconds
FINAL: Final = (protocol.PROTO, protocol.AUTH)  # codes of BYE that another try would only meet again
LONGEST_REASON: Final = (
    100  # characters, for an outcome that cannot be told; any server's lines have room for it
)
CLOSED: Final = "the client is closed"
JOINS_ONCE: Final = "a client joins only once: connect() makes another"
CONNECTION_LOST: Final = "the connection was lost"
EXECUTES_NOTHING: Final = Outcome("denied", {"reason": "this client executes nothing"})

F = TypeVar("F", bound=Callable[[Execute], object])
L = TypeVar("L", bound=Callable[[int], object])
T = TypeVar("T")


def connect(  # noqa: PLR0913 - keywords that most leave out
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
        address: ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; the port is 5050 if none is given.
            Without an address, it is the environment's ``RANKSERVER``, else 127.0.0.1:5050.
        name: our name; without one, the server gives one.
        token: what shows the server that we may join, if it wants to see that.
        tls: how to recognize the server, such as ``rankserver.client.tls.context()``; None for no TLS.
        reconnect: whether to connect again, and to go on trying, when the connection fails, also at first.
        executor: what to do with commands from the moment on that we join; ``Client.executes`` sets it later.
        jobs: how many commands are executed at once; they are begun in the order of the log.

    Raises:
        ConfigError: ``address`` is none, or ``jobs`` is not from 1 to 1,000.
    """
    if not 1 <= jobs <= MOST_JOBS:
        raise ConfigError(f"jobs is {jobs}, and has to be from 1 to {MOST_JOBS}")
    if address is None:
        address = os.environ.get("RANKSERVER") or DEFAULT_ADDRESS
    where = parse_address(address)
    joining = partial(join, where, name=name, token=token, tls=tls)
    return Client(where, joining, reconnect=reconnect, executor=executor, jobs=jobs)


class Client:
    """One client; ``connect`` makes it. Not for use from several threads.

    Once the connection is lost, everything that needs it raises ``DisconnectedError``: ``cmd``, ``ask`` and
    ``who``, those that wait for an answer, iterating, ``rank`` and ``clients``. With ``reconnect`` that is so
    until it is back, but iterating goes on.
    """

    def __init__(
        self,
        address: Address,
        joining: Callable[[], Awaitable[Connection]],
        *,
        reconnect: bool = False,
        executor: Executor | None = None,
        jobs: int = 1,
    ) -> None:
        self.address = address
        self._join = joining
        self._reconnect = reconnect
        self._executor = executor
        self._jobs = jobs
        self._connection: Connection | None = None  # None while there is none
        self._end = DisconnectedError("", "the client has not connected yet")  # why there is none
        self._is_over = False  # there will be none any more
        self._has_left = False  # because we want it so
        self._running: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._worker: Worker | None = None
        self._submitted: deque[Ask | asyncio.Future[int]] = deque()  # not in the log yet, oldest first
        self._asks: dict[int, Ask] = {}  # in the log and open, by seq
        self._whos: deque[asyncio.Future[tuple[frames.RosterEntry, ...]]] = deque()
        self._readers: list[weakref.ref[Events]] = []  # no WeakSet, which any thread that drops one changes
        self._lead = Lead(self._failed_to_lead)

    # --- what it is ---

    @property
    def is_connected(self) -> bool:
        """Whether we have joined and the connection, as far as we know, holds."""
        connection = self._connection
        is_joined = connection is not None and connection.session.state is State.JOINED
        return is_joined and not self._is_over

    @property
    def name(self) -> str:
        """Our name."""
        return self._joined().session.name

    @property
    def rank(self) -> int:
        """Our rank, 0 the highest, as of what has been received; events may still wait to be read."""
        return self._joined().session.rank

    @property
    def clients(self) -> int:
        """The number of clients, us included, as of what has been received."""
        return self._joined().session.clients

    @property
    def seq(self) -> int:
        """The number of the last log frame that was received."""
        return self._joined().session.seq

    @property
    def max_line(self) -> int:
        """The longest line, in bytes with verb and LF, that the server takes."""
        return self._joined().session.max_line

    @property
    def capacity(self) -> int:
        """How many clients the server takes, us included."""
        return self._joined().session.capacity

    # --- commanding ---

    async def cmd(self, text: str) -> int:
        """Broadcast a command that nobody answers; return its number once it is in the log.

        To send many without waiting for each, gather them: they are sent in the order of the calls.

        Raises:
            LocalProtocolError: ``text`` may not be sent; nothing was.
            DisconnectedError: there is no connection, or it was lost before the command was seen in the log.
        """
        connection = self._joined()
        connection.session.cmd(text)
        logged: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._submitted.append(logged)
        connection.wake()
        return await logged

    def ask(self, text: str, *, timeout: float | None = None) -> Ask:
        """Broadcast a command and ask all others what becomes of it.

        It is sent by the call itself: ``await client.ask(...)`` for all answers, ``async for answer in
        client.ask(...)`` for each as it comes.

        Args:
            text: the command.
            timeout: seconds after which those that have not answered count as ``timeout``; None waits for
                all. If the command is not even in the log by then, awaiting it raises ``TimeoutError``.

        Raises:
            LocalProtocolError: ``text`` may not be sent; nothing was.
            DisconnectedError: there is no connection.
        """
        connection = self._joined()
        ask = Ask(text, self._expire, timeout)
        try:
            connection.session.ask(text)
        except LocalProtocolError as error:
            ask.end(error)
            raise
        self._submitted.append(ask)
        connection.wake()
        return ask

    async def drain(self) -> None:
        """Wait until the server has taken most of what is to be sent, if much is sent without awaiting it."""
        if self._connection is not None:
            await self._connection.drain()

    async def who(self) -> tuple[frames.RosterEntry, ...]:
        """Return the roster: all clients in the order of their ranks, each with ``rank`` and ``name``.

        Raises:
            DisconnectedError: there is no connection, or it was lost before the answer.
        """
        connection = self._joined()
        connection.session.who()
        answer: asyncio.Future[tuple[frames.RosterEntry, ...]] = asyncio.get_running_loop().create_future()
        self._whos.append(answer)
        connection.wake()
        return await answer

    # --- being commanded, and leading ---

    def executes(self, function: F) -> F:
        """Execute commands of higher ranks by calling ``function(command)``; a decorator.

        What it returns is the answer: text is the output, None is none, an ``Outcome`` is taken as it is, and
        an exception is a failure with its name and text. A coroutine function is awaited; any other runs in
        a thread, so that nothing waits for it. Commands that came before this call were answered ``denied``:
        call it before ``async with`` to miss none.
        """
        self.execute_with(Function(function))
        return function

    def execute_with(self, executor: Executor) -> None:
        """Execute commands of higher ranks with ``executor`` from now on."""
        self._executor = executor
        if self._worker is not None:
            self._worker.executor = executor
        elif self.is_connected:
            self._start_worker()

    def on_lead(self, function: L) -> L:
        """Call ``function(seq)`` whenever we become rank 0, and at once if we are; a decorator.

        ``seq`` is the number of the log frame that made us lead: it rises with each new leader in the life of
        the server, and what guards a shared resource can refuse all but the highest. A coroutine function is
        cancelled when we lead no more. Any other runs in a thread, which nothing can cancel: it has to look
        at ``rank`` from time to time. If one fails, the client leaves, so that the next in rank can do it.
        Commands of the leader before may still wait to be executed when it is called.
        """
        self._lead.add(function)
        return function

    # --- what happens ---

    def __aiter__(self) -> Events:
        """Begin to receive events: ``Connected`` with what is so now, and then all that happens.

        The iteration ends when the client is closed. When the connection is lost it raises
        ``DisconnectedError``, or with ``reconnect`` yields ``Disconnected``, ``Retrying`` and ``Connected``.
        One that begins before we join has all from then on; to read it before raises ``DisconnectedError``.
        What happens while nobody iterates is not kept; what waits to be read has no bound, as to receive is
        never to wait for a reader.
        """
        events = Events()
        if self._is_over or self._running is None:
            events.end(None if self._has_left else self._ended())
        elif self.is_connected:
            session = self._joined().session
            events.put([session.place])
        self._readers.append(weakref.ref(events))
        return events

    # --- its life ---

    async def __aenter__(self) -> Client:
        """Join.

        Raises:
            LocalProtocolError: the protocol does not allow the name.
            ConnectError: nobody there, or no answer in time.
            DisconnectedError: the server refused us, it is no rankserver, or somebody closed the client.
            RuntimeError: it was joined before, and not closed.
        """
        if self._closing is not None:
            raise self._ended()
        if self._running is not None:
            raise RuntimeError(JOINS_ONCE)
        for events in self._read():
            events.begin()
        self._running = asyncio.create_task(self._connect())  # so that ``close`` can end it
        try:
            await asyncio.wait({self._running})
            if self._has_left:
                raise self._ended()  # noqa: TRY301
            self._running.result()
        except BaseException:
            await self.close()
            raise
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave: the server gets all that was sent before; what we execute is ended. Again does no harm.

        To cancel it is to wait no longer. What is ended by it, and calls it itself, does not wait either.
        """
        self._finish(DisconnectedError("", CLOSED), is_wanted=True)
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        is_executing = self._worker is not None and self._worker.is_inside()
        if not is_executing and not self._lead.is_inside():
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await cancelled(self._running)
        try:
            await self._stop_calling()
            if self._executor is not None:
                await self._executor.close()
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _run(self) -> None:
        """Receive until the end, over as many connections as it takes."""
        try:
            while self._connection is not None and not self._is_over:
                await self._receive(self._connection)
                await self._disconnected(self._connection)
                if not self._is_over:
                    await self._pause("", FIRST_DELAY)
                    await self._connect()
        except DisconnectedError as error:
            self._finish(error)
        except Exception as error:
            self._finish(DisconnectedError("", f"the client failed: {error!r}"))
            raise

    async def _receive(self, connection: Connection) -> None:
        while connection.session.state is not State.OVER:
            self._handle(await connection.receive())
            connection.wake()

    async def _disconnected(self, connection: Connection) -> None:
        """Clean up behind a connection that ended."""
        self._connection = None
        self._fail_open()
        try:
            await self._stop_calling()
        finally:
            await connection.close()

    def _fail_open(self) -> None:
        """Nobody will hear any more what became of what is open."""
        for waiting in (*self._submitted, *self._asks.values(), *self._whos):
            _fail(waiting, self._ended())
        self._submitted.clear()
        self._asks.clear()
        self._whos.clear()

    async def _connect(self) -> None:
        """Join; with ``reconnect``, go on trying unless the server would never have us."""
        delay = FIRST_DELAY
        while True:
            try:
                self._connection = await self._join()
                break
            except (ConnectError, DisconnectedError) as error:
                is_final = isinstance(error, DisconnectedError) and error.code in FINAL
                if not self._reconnect or is_final:
                    raise
                await self._pause(str(error), delay)
            delay = min(2 * delay, LONGEST_DELAY)
        self._start_worker()
        self._handle(self._connection.happened)

    async def _pause(self, reason: str, delay: float) -> None:
        """Wait before the next try: not all who lost the same server should come back at the same moment."""
        pause = random.uniform(delay / 2, delay)  # noqa: S311 - not secret
        self._publish([Retrying(reason, pause)])
        await asyncio.sleep(pause)

    def _finish(self, end: DisconnectedError, *, is_wanted: bool = False) -> None:
        """Let everybody know that there will be no connection any more; only the first end counts."""
        if self._is_over:
            return
        self._is_over = True
        self._has_left = is_wanted
        self._end = end
        self._lead.end()
        self._fail_open()
        for events in self._read():
            events.end(None if is_wanted else self._ended())

    # --- events ---

    def _handle(self, events: Sequence[Event]) -> None:
        """Hand events to those who iterate, and do what they ask of us."""
        self._publish([event for event in events if not isinstance(event, Disconnected)])
        for event in events:
            if isinstance(event, Answer):  # the rule where there are many
                if event.seq in self._asks:
                    self._asks[event.seq].add(event)
            else:
                self._do(event)

    def _do(self, event: Event) -> None:
        match event:
            case Execute():
                self._execute(event)
            case Connected(rank=rank, seq=seq) | RankChanged(rank=rank, seq=seq):
                self._lead.end() if rank else self._lead.begin(seq)
            case Disconnected(code, text):
                self._over(event, DisconnectedError(code, text))
            case _:
                self._answered(event)

    def _answered(self, event: Event) -> None:
        """Note what the server says to what we sent."""
        match event:
            case AskDone():
                self._done(event)
            case Sent():
                self._sent(event)
            case Rejected(code, text, str()):
                _fail(self._submitted.popleft(), LocalProtocolError(code, text))
            case RosterReceived(members):
                _resolve(self._whos.popleft(), members)

    def _done(self, event: AskDone) -> None:
        """End an ask, unless it is only the end of the connection that ended it: that is to fail it soon."""
        is_cut_off = self._connection is not None and event.seq in self._connection.session.cut_off
        if event.seq in self._asks and not is_cut_off:
            self._asks.pop(event.seq).end(event)

    def _over(self, event: Disconnected, end: DisconnectedError) -> None:
        if self._reconnect and end.code not in FINAL:
            self._end = end
            self._publish([event])
        else:
            self._finish(end)

    def _read(self) -> list[Events]:
        """Return the streams that somebody may still read."""
        streams = [events for reader in self._readers if (events := reader())]
        if len(streams) < len(self._readers):
            self._readers = [weakref.ref(events) for events in streams]
        return streams

    def _publish(self, happened: Sequence[Event]) -> None:
        for events in self._read():
            events.put(happened)

    def _sent(self, event: Sent) -> None:
        waiting = self._submitted.popleft()
        if isinstance(waiting, Ask):
            self._asks[event.seq] = waiting
            waiting.log(event.seq)
            if waiting.has_failed:  # its time was over before; what else came with this event goes first
                asyncio.get_running_loop().call_soon(self._expire, waiting)
        else:
            _resolve(waiting, event.seq)

    def _expire(self, ask: Ask) -> None:
        """The time for answers to ``ask`` is over."""
        if ask.seq is None:
            ask.end(TimeoutError(f"the server did not log in time: {ask.text}"))
        elif self._connection is not None and self._asks.get(ask.seq) is ask:
            self._handle(self._connection.session.expire(ask.seq))

    # --- executing ---

    def _execute(self, command: Execute) -> None:
        if self._worker is not None:
            self._worker.add(command)
        else:
            self._answer(command, EXECUTES_NOTHING)

    def _answer(self, command: Execute, outcome: Outcome) -> None:
        """Tell whoever asked; nobody can be told when the connection is over."""
        if not command.wants_answer or self._connection is None:
            return
        session = self._connection.session
        if session.state is not State.JOINED:
            return
        try:
            session.result(command.seq, outcome)
        except LocalProtocolError as error:
            reason = f"bad outcome: {error}"[:LONGEST_REASON]
            session.result(command.seq, Outcome("fail", {"reason": reason}))
        self._connection.wake()

    def _start_worker(self) -> None:
        if self._executor is not None:
            self._worker = Worker(self._executor, self._jobs, self._report, self._failed_to_execute)

    async def _stop_calling(self) -> None:
        """End what leads and what is being executed, and wait until that is so."""
        self._lead.end()
        if self._worker is not None:
            await self._worker.close()
            self._worker = None
        await self._lead.close()

    def _report(self, step: Started | Finished) -> None:
        if isinstance(step, Finished):
            self._answer(step.command, step.outcome)
        self._publish([step])

    def _failed_to_execute(self, error: BaseException) -> None:
        """Leave: nobody is to wait for answers of a client that has none to give any more."""
        self._leave(f"the client failed to execute: {described(repr, error)}")

    def _failed_to_lead(self, error: BaseException) -> None:
        """Leave: who cannot do the work of rank 0 must not hold up the heir."""
        self._leave(f"a function of on_lead failed: {described(repr, error)}")

    def _leave(self, why: str) -> None:
        self._finish(DisconnectedError("", why))
        if self._connection is not None:
            self._connection.session.leave()
            self._connection.wake()

    def _joined(self) -> Connection:
        """Return the connection, or raise a new error, as each that is raised collects a traceback.

        Any thread may call it: ``rankserver.client.sync`` reads properties directly.
        """
        connection = self._connection
        if connection is None or self._is_over:
            raise self._ended()
        if connection.session.state is not State.JOINED:  # and what it said last is yet to be handled
            raise DisconnectedError("", CONNECTION_LOST)
        return connection

    def _ended(self) -> DisconnectedError:
        return DisconnectedError(self._end.code, self._end.text)


def _resolve(waiting: asyncio.Future[T], value: T) -> None:
    if not waiting.done():  # whoever waited may have been cancelled
        waiting.set_result(value)


def _fail(waiting: Ask | asyncio.Future[Any], error: Exception) -> None:
    if isinstance(waiting, Ask):
        waiting.end(error)
    elif not waiting.done():
        waiting.set_exception(error)


async def cancelled(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it has ended, however it does."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
