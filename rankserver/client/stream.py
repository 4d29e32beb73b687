"""What happens at a client, as a stream that one reader takes from."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from rankserver.client.events import Event


class Events:
    """What happens at a client, one event after the other; ``aiter(client)`` makes it."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._is_over = False
        self._error: Exception | None = None
        self._changed = asyncio.Event()

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        if self._is_over and not self._events:
            await asyncio.sleep(0)  # a task that was begun together with this one may be about to join
        while not self._events:
            if self._is_over:
                raise self._error or StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    async def batch(self) -> list[Event]:
        """Wait for an event, and return it with all others that are there; nothing at the end."""
        try:
            events = [await anext(self)]
        except StopAsyncIteration:
            return []
        events += self._events
        self._events.clear()
        return events

    # --- for the client that it belongs to ---

    def put(self, happened: Iterable[Event]) -> None:
        """Add events."""
        self._events.extend(happened)
        self._changed.set()

    def begin(self) -> None:
        """Let the iteration wait for what comes, though it was over."""
        self._is_over = False

    def end(self, error: Exception | None) -> None:
        """Let the iteration end after what is there, with ``error`` if there is one."""
        self._is_over = True
        self._error = error
        self._changed.set()
