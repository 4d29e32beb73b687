"""The events of a client, as streams with one reader each."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from rankserver.client.events import Event


class EventStream:
    """The events of a client, one after another; made by ``aiter(client)``."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._is_over = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        if self._is_over and not self._events:
            await asyncio.sleep(0)  # a task that was started together with this one may be about to join
        while not self._events:
            if self._is_over:
                raise self._error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    async def batch(self) -> list[Event]:
        """Wait for an event, and return it with all others that are ready; an empty list at the end."""
        try:
            events = [await anext(self)]
        except StopAsyncIteration:
            return []
        events += self._events
        self._events.clear()
        return events

    # --- for the client ---

    def put(self, happened: Iterable[Event]) -> None:
        """Add events."""
        self._events.extend(happened)
        self._changed.set()

    def begin(self) -> None:
        """Make the iteration wait for events, even if it was over."""
        self._is_over = False

    def end(self, error: Exception | None) -> None:
        """End the iteration after the events that are ready, with ``error`` if there is one."""
        self._is_over = True
        self._error = error
        self._changed.set()


class EventStreams:
    """The streams of one client that somebody may still read."""

    def __init__(self) -> None:
        # Not a WeakSet: any thread that drops a stream would modify it.
        self._streams: list[weakref.ref[EventStream]] = []

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: EventStream) -> None:
        """Publish events to ``stream`` from now on, until nobody refers to it any more."""
        self._streams.append(weakref.ref(stream))

    def begin(self) -> None:
        """Make all iterations wait for events."""
        for stream in self._alive():
            stream.begin()

    def publish(self, happened: Sequence[Event]) -> None:
        """Give events to all streams."""
        for stream in self._alive():
            stream.put(happened)

    def end(self, error: Callable[[], Exception | None]) -> None:
        """End all iterations, each with an error of its own if ``error`` returns one."""
        for stream in self._alive():
            stream.end(error())

    def _alive(self) -> list[EventStream]:
        streams = [stream for reference in self._streams if (stream := reference())]
        if len(streams) < len(self._streams):
            self._streams = [weakref.ref(stream) for stream in streams]
        return streams
