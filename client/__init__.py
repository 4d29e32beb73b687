"""A client of rankserver: an API for programs, a console for people, and an executor of commands.

Programs begin with ``connect``; ``client.sync`` has the same without asyncio. docs/api.md explains it.
"""

from client.aio import Client, connect
from client.ask import Ask
from client.events import Answer, Counts, Event, Execute, Outcome
from client.words import visible
from client.worker import Executor
from rankserver.exceptions import (
    ConfigError,
    ConnectError,
    DisconnectedError,
    LocalProtocolError,
    RankserverError,
)
from rankserver.frames import Member

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
    "Member",
    "Outcome",
    "RankserverError",
    "connect",
    "visible",
]
