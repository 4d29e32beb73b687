"""The client for programs without asyncio: the interface of ``aio``, without ``async`` and ``await``.

    with connect("127.0.0.1:5050", name="web-1") as client:
        for answer in client.ask("uptime", timeout=10):
            print(answer.rank, answer.name, answer.status, answer.out)

From ``with`` until ``close``, a background thread runs the asyncio client. Each call is made in that thread
while the caller waits, so any thread may use a client. ``docs/api.md`` explains it with examples.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, ParamSpec, TypeVar

from rankserver.client import aio, ask
from rankserver.client.connection import Address
from rankserver.client.events import Answer, Counts, Event, Execute
from rankserver.client.lifecycle import CLOSED_TEXT
from rankserver.client.runner import JOINS_ONCE
from rankserver.client.stream import EventStream
from rankserver.client.worker import Executor
from rankserver.wire import frames
from rankserver.wire.exceptions import DisconnectedError

# The longest single wait, in seconds: a signal that comes just before a wait is handled only after that wait.
MAX_WAIT: Final = 1.0

F = TypeVar("F", bound=Callable[[Execute], object])
L = TypeVar("L", bound=Callable[[int], object])
T = TypeVar("T")
P = ParamSpec("P")


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
) -> SyncClient:
    """Return a client of the server at ``address``: its ``with`` joins, and leaves at the end.

    The arguments are those of ``aio.connect``.

    Raises:
        ConfigError: ``address`` cannot be parsed, or ``jobs`` is not from 1 to 1,000.
    """
    made = aio.connect(
        address,
        name=name,
        token=token,
        tls=tls,
        insecure=insecure,
        reconnect=reconnect,
        executor=executor,
        jobs=jobs,
    )
    return SyncClient(made)


class SyncClient:
    """One client, made by ``connect``. Any thread may use it, including functions that it calls.

    Once the connection is lost, everything that needs it raises ``DisconnectedError``, as in ``aio.Client``.
    A signal interrupts any call that waits in the main thread.

    Attributes:
        address: where the server is.
    """

    def __init__(self, client: aio.Client) -> None:
        self.address: Address = client.address
        self._client = client
        self._loop = _LoopThread(client)

    # --- state ---

    @property
    def is_connected(self) -> bool:
        """Whether we have joined and, as far as we know, are still connected."""
        return self._client.is_connected

    @property
    def name(self) -> str:
        """Our name."""
        return self._client.name

    @property
    def rank(self) -> int:
        """Our rank (0 is the highest) after everything received so far; iterations may lag behind it."""
        return self._client.rank

    @property
    def clients(self) -> int:
        """The number of clients, including us, after everything received so far."""
        return self._client.clients

    @property
    def seq(self) -> int:
        """The number of the last log frame that was received."""
        return self._client.seq

    @property
    def max_line(self) -> int:
        """The longest line that the server accepts, in bytes, including verb and LF."""
        return self._client.max_line

    @property
    def capacity(self) -> int:
        """The number of clients that the server has room for, including us."""
        return self._client.capacity

    # --- commanding ---

    def cmd(self, text: str) -> int:
        """Broadcast a command that nobody answers, and return its number once it is in the log.

        Raises:
            LocalProtocolError: the protocol does not allow ``text``; nothing was sent.
            DisconnectedError: there is no connection, or it was lost before the command was seen in the log.
        """
        return self._loop.run(self._client.cmd, text)

    def ask(self, text: str, *, timeout: float | None = None) -> SyncAsk:
        """Broadcast a command, and ask every other client for its outcome.

        This returns at once; the returned object waits for the answers.

        Args:
            text: the command.
            timeout: seconds after which clients that have not answered count as ``timeout``; None waits for
                all. If the command is not even in the log by then, the ``SyncAsk`` raises ``TimeoutError``.

        Raises:
            LocalProtocolError: the protocol does not allow ``text``; nothing was sent.
            DisconnectedError: there is no connection.
        """
        return SyncAsk(self._loop, self._loop.call(self._client.ask, text, timeout=timeout))

    def drain(self) -> None:
        """Wait while more than 64 KiB are still to be sent; for programs that send many asks at once."""
        self._loop.run(self._client.drain)

    def who(self) -> tuple[frames.RosterEntry, ...]:
        """Return the roster: all clients in the order of their ranks, each with ``rank`` and ``name``.

        Raises:
            DisconnectedError: there is no connection, or it was lost before the answer came.
        """
        return self._loop.run(self._client.who)

    # --- executing and leading ---

    def executes(self, function: F) -> F:
        """Execute commands of higher ranks by calling ``function(command)`` in a thread; a decorator.

        The function's result is the answer: text is the output, None means no output, an ``Outcome`` is sent
        as it is, and an exception is a failure with its name and text. Commands that arrive before this call
        are answered ``denied``: call it before ``with`` to miss none.
        """
        self._loop.call(self._client.executes, function)
        return function

    def execute_with(self, executor: Executor) -> None:
        """Execute commands of higher ranks with ``executor``, in the client's own thread, from now on."""
        self._loop.call(self._client.execute_with, executor)

    def on_lead(self, function: L) -> L:
        """Call ``function(seq)`` in a thread whenever we become rank 0, and at once if we are; a decorator.

        ``seq`` is the number of the log frame that made us lead. Nothing can cancel the thread, so it must
        look at ``rank`` from time to time, which raises ``DisconnectedError`` once the connection is lost. If
        ``function`` fails, the client leaves, so that the next in rank can take over.
        """
        self._loop.call(self._client.on_lead, function)
        return function

    # --- events ---

    def __iter__(self) -> SyncEventStream:
        """Start an iteration over events: ``Connected`` with the current state, then all that happens.

        It ends, or raises ``DisconnectedError``, like that of ``aio.Client``.
        """
        return SyncEventStream(self._loop, self._loop.call(aiter, self._client))

    # --- joining and leaving ---

    def __enter__(self) -> SyncClient:
        """Join.

        Raises:
            LocalProtocolError: the protocol does not allow the name.
            InsecureError: the token would travel over a network without TLS.
            ConnectError: no server answers, or not in time.
            DisconnectedError: the server refused us, it is not a rankserver, or the client was closed.
            RuntimeError: the client joined before and was not closed.
        """
        self._loop.start()
        try:
            self._loop.run(self._client.__aenter__)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave: the server still gets everything sent before, and commands being executed are cancelled.

        May be called again. It does not wait for functions that run in threads. In all threads, calls that
        wait raise ``DisconnectedError``, and iterations over events end.
        """
        self._loop.stop()


class SyncAsk:
    """What ``SyncClient.ask`` returns: a command that was sent, and its answers.

    Iterate over it to get each answer as it arrives. ``logged`` waits until the command is in the log;
    ``len``, ``by_rank``, ``by_name``, ``counts``, ``ok`` and ``nobody`` wait for all answers. Whatever waits
    raises ``DisconnectedError`` if the connection is lost first, ``TimeoutError`` if the command is not
    logged in time, and ``LocalProtocolError`` if the server rejects it.

    Each of the others that were there when the command was logged gives exactly one answer. An answer has the
    rank that its client held *when the command was logged*.
    """

    def __init__(self, loop: _LoopThread, asked: ask.Ask) -> None:
        self.text = asked.text
        self._loop = loop
        self._ask = asked

    def __iter__(self) -> Iterator[Answer]:
        stream, given = aiter(self._ask), 0
        while answers := self._loop.run(self._more, stream, given):
            yield from answers
            given += len(answers)

    def __len__(self) -> int:
        return len(self._complete())

    def __repr__(self) -> str:
        return repr(self._ask)

    def logged(self) -> int:
        """Wait until the command is in the log, and return its number there."""
        return self._loop.run(self._ask.logged)

    @property
    def seq(self) -> int | None:
        """The command's number in the log, None until it is there."""
        return self._ask.seq

    @property
    def is_done(self) -> bool:
        """Whether every client has answered or left, the time is up, or the server has forgotten it."""
        return self._ask.is_done

    @property
    def has_failed(self) -> bool:
        """Whether waiting for it raises: the connection was lost, or the command rejected or not logged."""
        return self._ask.has_failed

    @property
    def by_rank(self) -> dict[int, Answer]:
        """The answers by the rank that the client held when the command was logged."""
        return self._complete().by_rank

    @property
    def by_name(self) -> dict[str, list[Answer]]:
        """The answers by name; each name has a list, because names need not be unique."""
        return self._complete().by_name

    @property
    def counts(self) -> Counts:
        """The number of answers with each outcome."""
        return self._complete().counts

    @property
    def ok(self) -> bool:
        """Whether at least one client may execute it, and all that may did."""
        return self._complete().ok

    @property
    def nobody(self) -> bool:
        """Whether no client may execute it."""
        return self._complete().nobody

    def _complete(self) -> ask.Ask:
        return self._loop.run(_awaited, self._ask)

    async def _more(self, stream: AsyncIterator[Answer], given: int) -> list[Answer]:
        """Wait for the next answer, and return all after the first ``given``; an empty list at the end."""
        answers: list[Answer] = []
        async for answer in stream:
            answers.append(answer)
            if given + len(answers) == len(self._ask):
                break
        return answers


class SyncEventStream(Iterator[Event]):
    """The events of a client, one after another; made by ``iter(client)``."""

    def __init__(self, loop: _LoopThread, events: EventStream) -> None:
        self._loop = loop
        self._events = events
        self._taken: deque[Event] = deque()

    def __next__(self) -> Event:
        while True:
            with contextlib.suppress(IndexError):
                return self._taken.popleft()
            if not self._loop.run(self._take):
                raise StopIteration

    async def _take(self) -> bool:
        """Move all events to ``_taken``, once there are any; return False at the end.

        They are not returned, because an interrupt of the caller would lose them.
        """
        events = await self._events.batch()
        self._taken += events
        return bool(events)


async def _awaited(asked: ask.Ask) -> ask.Ask:
    return await asked


class _LoopThread:
    """The thread that runs a client's asyncio loop, from ``start`` to ``stop``.

    Before and after that, nothing can happen to the client, so no call has to wait: each runs in the calling
    thread, with the result that the asyncio client has in that state.
    """

    def __init__(self, client: aio.Client) -> None:
        self._client = client
        self._thread = threading.Thread(target=self._run, name=f"client of {client.address}", daemon=True)
        # Guards ``_is_running``, so that nothing is handed to a loop that has ended.
        self._lock = threading.RLock()
        self._is_running = False

    def start(self) -> None:
        """Start the thread, unless it has ended.

        Raises:
            RuntimeError: the thread is running.
        """
        with self._lock:
            if self._is_running:
                raise RuntimeError(JOINS_ONCE)
            self._start()

    def stop(self) -> None:
        """Close the client and wait until the thread has ended. May be called again."""
        self._check_thread()
        with self._lock:
            self._start()  # if the thread never ran, it is needed to close the client
            if self._is_running:
                self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def run(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(...)`` in the loop, and wait for what it returns or raises."""
        self._check_thread()
        work = function(*args, **kwargs)
        future = None
        try:
            with self._lock:
                if self._is_running:
                    future = asyncio.run_coroutine_threadsafe(work, self._loop)
            if future is None:
                return _result(work)
            while not future.done():
                concurrent.futures.wait([future], MAX_WAIT)
            return future.result()
        except concurrent.futures.CancelledError:
            raise DisconnectedError("", CLOSED_TEXT) from None
        finally:
            if future is not None:
                future.cancel()  # has an effect only if a signal interrupted us

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return ``function(...)``, called in the loop."""

        async def work() -> T:
            return function(*args, **kwargs)

        return self.run(work)

    def _start(self) -> None:
        if self._thread.ident is None:
            self._loop = asyncio.new_event_loop()
            self._stopping = asyncio.Event()
            self._is_running = True
            self._thread.start()

    def _check_thread(self) -> None:
        """Raise an error rather than let the loop wait for itself."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a coroutine function cannot use a client of rankserver.client.sync, a plain one can"
            )

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._stopping.wait())
        finally:  # also after a SystemExit of a coroutine function
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        """Close the client, and cancel all calls that still wait for it."""
        try:
            await self._client.close()
        finally:
            with self._lock:
                self._is_running = False
            # After one turn of the loop, calls that were handed over before are tasks. After another turn,
            # those that have nothing to wait for have ended.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)


def _result(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work``, which has nothing to wait for, and return its result."""
    try:
        while work.send(None) is None:  # it yields to other tasks, but there are none
            pass
    except StopIteration as stop:
        value: T = stop.value
        return value
    work.close()
    raise RuntimeError("the client is not running")
