"""The client library: join a server, send commands to other clients, and execute theirs.

Start with ``connect``; ``rankserver.client.sync`` has the same interface without asyncio. See docs/api.md.
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
