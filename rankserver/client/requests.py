"""The open requests of the program: commands to be logged, asks to be answered, and rosters.

Each event carries the handle that the session was given: an ``Ask``, or the future of a ``cmd`` or ``who``.
So it tells which request it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from rankserver.client.ask import Ask
from rankserver.client.events import Answer, AskDone, Event, Rejected, RosterReceived, Sent
from rankserver.wire.exceptions import DisconnectedError, LocalProtocolError


class Requests:
    """Settles the requests of the program.

    Args:
        expire: called with an ask that timed out before it was logged, soon after it is logged.
    """

    def __init__(self, expire: Callable[[Ask], None]) -> None:
        self._expire = expire
        self._asks: dict[int, Ask] = {}

    def is_open(self, ask: Ask) -> bool:
        """Tell whether ``ask`` is in the log and still waits for answers."""
        return ask.seq is not None and self._asks.get(ask.seq) is ask

    def receive(self, event: Event) -> None:
        """Settle the request that ``event`` is for, if there is one."""
        if settle := self._SETTLERS.get(type(event)):
            settle(self, event)

    def fail(self, unanswered: Iterable[object], error: Callable[[], DisconnectedError]) -> None:
        """Fail all open requests.

        Args:
            unanswered: the handles of the requests that are open in the session.
            error: returns a new error for each request.
        """
        for waiting in (*unanswered, *self._asks.values()):
            _fail(waiting, error())
        self._asks.clear()

    def _sent(self, event: Sent) -> None:
        ask = event.handle
        if not isinstance(ask, Ask):
            _resolve(ask, event.seq)
            return
        self._asks[event.seq] = ask
        ask.log(event.seq)
        # It may have timed out before it was logged. Events that came with this one are handled first.
        if ask.has_failed:
            asyncio.get_running_loop().call_soon(self._expire, ask)

    def _answer(self, event: Answer) -> None:
        ask = self._asks.get(event.seq)
        if ask is not None:  # an Ask without answers is empty, and therefore falsy
            ask.add(event)

    def _done(self, event: AskDone) -> None:
        ask = self._asks.pop(event.seq, None)
        if ask is not None:
            ask.end(event)

    def _rejected(self, event: Rejected) -> None:
        _fail(event.handle, LocalProtocolError(event.code, event.text))

    def _roster(self, event: RosterReceived) -> None:
        _resolve(event.handle, event.members)

    _SETTLERS: ClassVar[Mapping[type[Event], Callable[[Requests, Any], None]]] = {
        Sent: _sent,
        Answer: _answer,
        AskDone: _done,
        Rejected: _rejected,
        RosterReceived: _roster,
    }


def _resolve(waiting: object, value: object) -> None:
    """Set the result of a future, unless it was cancelled."""
    if isinstance(waiting, asyncio.Future) and not waiting.done():
        waiting.set_result(value)


def _fail(waiting: object, error: Exception) -> None:
    if isinstance(waiting, Ask):
        waiting.end(error)
    elif isinstance(waiting, asyncio.Future) and not waiting.done():
        waiting.set_exception(error)
