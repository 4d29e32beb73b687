"""Joining a server and, if wanted, trying again after growing pauses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rankserver.client.connection import Connection
from rankserver.client.events import Event, Retrying
from rankserver.wire import codes
from rankserver.wire.exceptions import ConnectError, DisconnectedError, InsecureError

# The longest pause before the first retry, in seconds: a restarted server is back by then. The bound doubles
# with each further retry.
FIRST_DELAY: Final = 0.5
# The longest pause before any retry, in seconds: even thousands of clients that retry cost a server little,
# and they are back soon after it is.
MAX_DELAY: Final = 30.0
# The codes of BYE after which another try would fail in the same way.
FINAL_CODES: Final = (codes.PROTO, codes.AUTH)


class Connector:
    """Joins a server.

    Args:
        join: makes one try to join.
        reconnects: whether to try again after a failure.
        publish: called with a ``Retrying`` before each further try.
    """

    def __init__(
        self,
        join: Callable[[], Awaitable[Connection]],
        publish: Callable[[Sequence[Event]], None],
        *,
        reconnects: bool,
    ) -> None:
        self._join = join
        self._publish = publish
        self._reconnects = reconnects

    def retries_after(self, error: ConnectError | DisconnectedError) -> bool:
        """Tell whether to try again after ``error``, which ended a connection or a try."""
        if isinstance(error, DisconnectedError):
            return self._reconnects and error.code not in FINAL_CODES
        return self._reconnects and not isinstance(error, InsecureError)

    async def connect(self, *, is_first: bool) -> Connection:
        """Join, trying again for as long as that may help.

        Args:
            is_first: whether to begin at once instead of after a pause.

        Raises:
            LocalProtocolError: the protocol does not allow our name.
            InsecureError: the token would travel over a network without TLS.
            ConnectError: no server answers, and we do not try again.
            DisconnectedError: the server refused us, and trying again is not wanted or would not help.
        """
        if not is_first:
            await self._pause("", FIRST_DELAY)
        delay = FIRST_DELAY
        while True:
            try:
                return await self._join()
            except (ConnectError, DisconnectedError) as error:
                if not self.retries_after(error):
                    raise
                await self._pause(str(error), delay)
            delay = min(2 * delay, MAX_DELAY)

    async def _pause(self, reason: str, delay: float) -> None:
        """Wait for a random part of ``delay``, at least half of it.

        Clients that lost the same server must not come back all at once.
        """
        pause = random.uniform(delay / 2, delay)  # noqa: S311 - not secret
        self._publish([Retrying(reason, pause)])
        await asyncio.sleep(pause)
