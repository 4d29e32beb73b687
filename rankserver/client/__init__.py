"""The client library: what programs use to join, to command and to execute.

Start with ``connect``; ``rankserver.client.sync`` offers the same without asyncio. See docs/api.md.
"""

from rankserver.client.aio import Client, connect
from rankserver.client.ask import Ask
from rankserver.client.display import visible
from rankserver.client.events import Answer, Counts, Event, Execute, Outcome
from rankserver.client.worker import Executor
from rankserver.wire.exceptions import (
    ConfigError,
    ConnectError,
    DisconnectedError,
    LocalProtocolError,
    RankserverError,
)
from rankserver.wire.frames import RosterEntry

__all__ = [
    "Answer",
    "Ask",
    "Client",
    "ConfigError",
    "ConnectError",
    "Counts",
    "DisconnectedError",
    "Event",
    "Execute",
    "Executor",
    "LocalProtocolError",
    "Outcome",
    "RankserverError",
    "RosterEntry",
    "connect",
    "visible",
]
