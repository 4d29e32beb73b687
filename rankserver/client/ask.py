"""A command to all other clients, and its outcome at each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator

from rankserver.client.events import OUTCOMES, Answer, AskDone, Counts


class Ask:
    """What ``Client.ask`` returns: a command that was sent, and its answers.

    ``await`` it to wait for all answers; iterate with ``async for`` to get each answer as it arrives. Both
    raise ``DisconnectedError`` if the connection is lost before the ask is done, and ``LocalProtocolError``
    if the server rejects the command. A plain ``for`` iterates over the answers so far. Cancelling the
    waiting does not take the command back.

    Each of the others that were there when the command was logged gives exactly one answer; once the ask is
    done, ``len`` is their number. An answer has the rank that its client held *when the command was logged*.
    """

    def __init__(self, text: str, expire: Callable[[Ask], None], timeout: float | None) -> None:
        self.text = text
        self._seq: int | None = None
        self._answers: list[Answer] = []
        self._end: AskDone | Exception | None = None
        # Set if anybody waits; resolved at the next step: the command is logged, an answer comes, or the end.
        self._waiting: asyncio.Future[None] | None = None
        self._timer = timeout is not None and asyncio.get_running_loop().call_later(timeout, expire, self)

    # --- for the caller of ``Client.ask`` ---

    def __await__(self) -> Generator[object, None, Ask]:
        return self._complete().__await__()

    async def __aiter__(self) -> AsyncIterator[Answer]:
        given = 0
        while True:
            while given < len(self._answers):
                yield self._answers[given]
                given += 1
            if self._is_over():
                return
            await self._step()

    def __iter__(self) -> Iterator[Answer]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        state = "open" if self._end is None else "failed" if self.has_failed else "done"
        return f"<Ask {self.text!r} {state}: {len(self._answers)} answers>"

    async def logged(self) -> int:
        """Wait until the command is in the log, and return its number there."""
        while self._seq is None:
            self._is_over()
            await self._step()
        return self._seq

    @property
    def seq(self) -> int | None:
        """The command's number in the log, None until it is there."""
        return self._seq

    @property
    def is_done(self) -> bool:
        """Whether every client has answered or left, the time is up, or the server has forgotten it."""
        return isinstance(self._end, AskDone)

    @property
    def has_failed(self) -> bool:
        """Whether awaiting it raises: the connection was lost, or the command rejected or not logged."""
        return isinstance(self._end, Exception)

    @property
    def by_rank(self) -> dict[int, Answer]:
        """The answers so far, by the rank that the client held when the command was logged."""
        return {answer.rank: answer for answer in sorted(self._answers, key=lambda answer: answer.rank)}

    @property
    def by_name(self) -> dict[str, list[Answer]]:
        """The answers so far, by name; each name has a list, because names need not be unique."""
        names: dict[str, list[Answer]] = {}
        for answer in self.by_rank.values():
            names.setdefault(answer.name, []).append(answer)
        return names

    @property
    def counts(self) -> Counts:
        """The number of answers so far with each outcome."""
        outcomes = [answer.status for answer in self._answers]
        return Counts(*map(outcomes.count, OUTCOMES))

    @property
    def ok(self) -> bool:
        """Whether the ask is done, at least one client may execute it, and all that may did."""
        return isinstance(self._end, AskDone) and self._end.ok

    @property
    def nobody(self) -> bool:
        """Whether the ask is done, and no client may execute it."""
        return isinstance(self._end, AskDone) and self._end.nobody

    async def _complete(self) -> Ask:
        while not self._is_over():
            await self._step()
        return self

    def _is_over(self) -> bool:
        if isinstance(self._end, Exception):
            raise self._end
        return self._end is not None

    async def _step(self) -> None:
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._waiting)  # others may wait for it too

    # --- for the client ---

    def log(self, seq: int) -> None:
        """Note that the command is in the log."""
        self._seq = seq
        self._stepped()

    def add(self, answer: Answer) -> None:
        """Note an answer."""
        self._answers.append(answer)
        self._stepped()

    def end(self, end: AskDone | Exception) -> None:
        """Note that nothing more will come, and why. Only the first end counts."""
        if self._end is None:
            self._end = end
            self._stepped()
        if self._timer:
            self._timer.cancel()

    def _stepped(self) -> None:
        if self._waiting is not None:
            self._waiting.set_result(None)
            self._waiting = None
