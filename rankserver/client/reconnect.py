"""Joining a server, again and again if that is wanted, with pauses that grow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from rankserver.client.connection import Connection
from rankserver.client.events import Event, Retrying
from rankserver.wire import protocol
from rankserver.wire.exceptions import ConnectError, DisconnectedError

# The longest pause before the first new try, in seconds: a restarted server is back by then. It doubles with
# each further try.
FIRST_DELAY: Final = 0.5
# The longest pause, in seconds: thousands of clients that wait for a server cost it little, and nobody waits
# much longer than the server was away.
MAX_DELAY: Final = 30.0
# The codes of BYE that another try would only meet again.
FINAL_CODES: Final = (protocol.PROTO, protocol.AUTH)


class Connector:
    """Joins a server.

    Args:
        join: one try.
        reconnects: whether a failed try is followed by others.
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
        """Tell whether another try follows this end of a connection or of a try."""
        is_final = isinstance(error, DisconnectedError) and error.code in FINAL_CODES
        return self._reconnects and not is_final

    async def connect(self, *, is_first: bool) -> Connection:
        """Join; try again for as long as another try may help.

        Args:
            is_first: whether to begin at once, and not after a pause.

        Raises:
            LocalProtocolError: the protocol does not allow our name.
            ConnectError: no server answers, and no further try is wanted.
            DisconnectedError: the server refused us for good, or no further try is wanted.
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
        """Wait, for a random time: clients that lost the same server should not come back all at once."""
        pause = random.uniform(delay / 2, delay)  # noqa: S311 - not secret
        self._publish([Retrying(reason, pause)])
        await asyncio.sleep(pause)
