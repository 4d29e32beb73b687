"""The inside of a client: a task that joins, receives, passes events on, and joins again.

``aio.Client`` is its public interface. Each part has its own module: the state and what may follow it
(``lifecycle``), joining (``reconnect``), open requests (``requests``), executing (``execution``), leading
(``leadership``) and the streams of events (``stream``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final

from rankserver.client.ask import Ask
from rankserver.client.connection import Connection
from rankserver.client.events import AskDone, Connected, Disconnected, Event, Execute, RankChanged
from rankserver.client.execution import Execution
from rankserver.client.functions import described
from rankserver.client.leadership import Leadership
from rankserver.client.lifecycle import ClientState, Lifecycle
from rankserver.client.reconnect import Connector
from rankserver.client.requests import Requests
from rankserver.client.session import SessionState
from rankserver.client.stream import EventStream, EventStreams
from rankserver.client.worker import Executor
from rankserver.wire.exceptions import DisconnectedError, InsecureError

JOINS_ONCE: Final = "a client joins only once: connect() makes another"
CONNECTION_LOST: Final = "the connection was lost"


class Runner:
    """Runs one client.

    Attributes:
        execution: executes the commands of higher ranks.
        leadership: calls functions while we are rank 0.

    Args:
        join: makes one try to join.
        reconnects: whether to try again when the connection is lost or cannot be made.
        executor: executes commands from the start.
        jobs: the maximum number of commands executed at once.
    """

    def __init__(
        self,
        join: Callable[[], Awaitable[Connection]],
        executor: Executor | None,
        *,
        reconnects: bool,
        jobs: int,
    ) -> None:
        self._life = Lifecycle()
        self._streams = EventStreams()
        self._requests = Requests(self.expire)
        self._connector = Connector(join, self._streams.publish, reconnects=reconnects)
        failed = partial(self._leave, "the client failed to execute")
        self.execution = Execution(executor, jobs, self._streams.publish, failed)
        self.leadership = Leadership(partial(self._leave, "a function of on_lead failed"))
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def connection(self) -> Connection | None:
        """The connection, if there is one."""
        return self._connection

    @property
    def is_connected(self) -> bool:
        """Whether we have joined and, as far as we know, are still connected."""
        connection = self._connection
        is_joined = connection is not None and connection.session.state is SessionState.JOINED
        return is_joined and not self._life.is_over

    @property
    def has_started(self) -> bool:
        """Whether ``start`` or ``close`` was called."""
        return self._life.state is not ClientState.NEW

    def joined(self) -> Connection:
        """Return the connection.

        Any thread may call it: ``rankserver.client.sync`` reads properties directly.

        Raises:
            DisconnectedError: there is none.
        """
        connection = self._connection
        if connection is None or self._life.is_over:
            raise self._life.error
        if connection.session.state is not SessionState.JOINED:  # its last events are yet to be handled
            raise DisconnectedError("", CONNECTION_LOST)
        return connection

    def subscribe(self) -> EventStream:
        """Return a stream of events: the current state, then all that happens from now on."""
        stream = EventStream()
        if self._life.is_over or not self.has_started:
            stream.end(self._end())
        elif self.is_connected:
            stream.put([self.joined().session.log.place])
        self._streams.add(stream)
        return stream

    def expire(self, ask: Ask) -> None:
        """Stop waiting for answers to ``ask``: its timeout is over."""
        if ask.seq is None:
            ask.end(TimeoutError(f"the server did not acknowledge the command in time: {ask.text}"))
        elif self._connection is not None and self._requests.is_open(ask):
            self._handle(self._connection.session.expire(ask.seq))

    # --- joining and leaving ---

    async def start(self) -> None:
        """Join, then keep receiving in a task.

        Raises:
            LocalProtocolError: the protocol does not allow our name.
            InsecureError: the token would travel over a network without TLS.
            ConnectError: no server answers.
            DisconnectedError: the server refused us, it is not a rankserver, or the client was closed.
            RuntimeError: the client was started before and not closed.
        """
        if self._closing is not None:
            raise self._life.error
        if self.has_started:
            raise RuntimeError(JOINS_ONCE)
        self._life.join()
        self._streams.begin()
        # A task, so that ``close`` can end it.
        self._running = asyncio.create_task(self._connect(is_first=True))
        try:
            await asyncio.wait({self._running})
            if self._life.state is ClientState.CLOSED:
                raise self._life.error  # noqa: TRY301
            self._running.result()
        except BaseException:
            await self.close()
            raise
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Leave, and wait until everything has ended. May be called again.

        Cancelling this call only stops the waiting. For code that closing cancels, such as the executor, the
        call returns without waiting.
        """
        if not self._life.is_over:
            self._life.close()
            self._finish()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        if not self.execution.is_inside() and not self.leadership.is_inside():
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await cancel_and_wait(self._running)
        try:
            await self._stop_calling()
            await self.execution.close()
        finally:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None

    async def _run(self) -> None:
        """Receive until the end, on one connection after another."""
        try:
            while self._connection is not None and not self._life.is_over:
                await self._receive(self._connection)
                await self._disconnected(self._connection)
                if not self._life.is_over:
                    await self._connect(is_first=False)
        except DisconnectedError as error:
            self._fail(error)
        except InsecureError as error:
            self._fail(DisconnectedError("", str(error)))
        except Exception as error:
            self._fail(DisconnectedError("", f"the client failed: {error!r}"))
            raise

    async def _connect(self, *, is_first: bool) -> None:
        self._connection = await self._connector.connect(is_first=is_first)
        if self._life.is_over:
            return
        self._life.connect()
        self.execution.start(self._connection)
        self._handle(self._connection.happened)

    async def _receive(self, connection: Connection) -> None:
        while connection.session.state is not SessionState.OVER:
            self._handle(await connection.receive())
            connection.wake()

    async def _disconnected(self, connection: Connection) -> None:
        """Clean up after a connection that ended."""
        self._fail_open()
        self._connection = None
        try:
            await self._stop_calling()
        finally:
            await connection.close()

    async def _stop_calling(self) -> None:
        """Cancel the functions of ``on_lead`` and what is being executed, and wait until all have ended."""
        self.leadership.end()
        await self.execution.stop()
        await self.leadership.close()

    # --- ending ---

    def _fail(self, error: DisconnectedError) -> None:
        """Note that the connection is lost for good, unless the client is over already."""
        if not self._life.is_over:
            self._life.fail(error)
            self._finish()

    def _finish(self) -> None:
        """Stop leading, fail all open requests and end all iterations."""
        self.leadership.end()
        self._fail_open()
        self._streams.end(self._end)

    def _end(self) -> DisconnectedError | None:
        """Return the error that iterations end with; None if the program closed the client."""
        return None if self._life.state is ClientState.CLOSED else self._life.error

    def _fail_open(self) -> None:
        """Fail all open requests: their outcome can no longer become known."""
        unanswered = [] if self._connection is None else self._connection.session.unanswered
        self._requests.fail(unanswered, lambda: self._life.error)

    def _leave(self, what: str, error: BaseException) -> None:
        """Leave because of ``error``; ``what`` says what failed.

        Nobody should wait for a client that can no longer answer, and a client that cannot do the work of
        rank 0 must not hold up its successor.
        """
        self._fail(DisconnectedError("", f"{what}: {described(repr, error)}"))
        if self._connection is not None:
            self._connection.session.leave()
            self._connection.wake()

    # --- events ---

    def _handle(self, events: Sequence[Event]) -> None:
        """Publish events to all iterations, and act on each of them."""
        self._streams.publish([event for event in events if not isinstance(event, Disconnected)])
        for event in events:
            if act := self._ACTIONS.get(type(event)):
                act(self, event)
            else:
                self._requests.receive(event)

    def _moved(self, event: Connected | RankChanged) -> None:
        if event.rank == 0:
            self.leadership.begin(event.seq)
        else:
            self.leadership.end()

    def _execute(self, event: Execute) -> None:
        self.execution.add(event)

    def _done(self, event: AskDone) -> None:
        """End an ask, unless it ended only because the connection did: then it will soon fail instead."""
        if self._connection is None or event.seq not in self._connection.session.cut_off:
            self._requests.receive(event)

    def _over(self, event: Disconnected) -> None:
        end = DisconnectedError(*event)
        if self._life.is_over or not self._connector.retries_after(end):
            self._fail(end)
        else:
            self._life.reconnect(end)
            self._streams.publish([event])

    _ACTIONS: ClassVar[Mapping[type[Event], Callable[[Runner, Any], None]]] = {
        Connected: _moved,
        RankChanged: _moved,
        Execute: _execute,
        AskDone: _done,
        Disconnected: _over,
    }


async def cancel_and_wait(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task, and wait until it has ended in whatever way."""
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
