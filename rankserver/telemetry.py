"""What the server tells its operator: counters, and log lines about joins, departures and their reasons.

Events that others can cause at will are limited, and beyond the limit only counted; see ``logs``. The reason
of a departure repeats nothing that the client has sent, because that may be a secret; see ``wire.grammar``.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from rankserver.channel import Channel, Departure
from rankserver.logs import MAX_MEMBER_LINES, MAX_STRANGER_LINES, Limited, event
from rankserver.members import Member
from rankserver.timers import Timers

# Seconds after which the limits on logged events start over.
RENEWAL: Final = 1.0


class Telemetry:
    """The counters, and the events that are logged.

    Args:
        timers: the deadlines of the loop.

    Attributes:
        accepted: how many connections were accepted.
        joined: how many of them became members.
        refused: how many were sent a BYE before they joined, by its code.
        dropped: how many were sent a BYE as members, by its code.
    """

    def __init__(self, timers: Timers) -> None:
        self.accepted = 0
        self.joined = 0
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._stranger_events = Limited(MAX_STRANGER_LINES)
        self._member_events = Limited(MAX_MEMBER_LINES)
        self._renewal = timers.timeout(RENEWAL, Limited.renew)

    def on_connected(self, channel: Channel, now: float) -> None:
        """Count a connection."""
        self.accepted += 1
        self._note(self._stranger_events, now, logging.DEBUG, "connected", peer=channel.peer)

    def on_not_accepted(self, peer: str, reason: str, now: float) -> None:
        """Log that a connection was closed at once."""
        self._note(self._stranger_events, now, logging.ERROR, "cannot accept", peer=peer, reason=reason)

    def on_refused(self, channel: Channel, departure: Departure, now: float) -> None:
        """Count a connection that departs before it has joined.

        Nothing that it sent is logged, not even the name that it asked for: it may be a token.
        """
        level, what = (logging.INFO, "refused") if departure.code else (logging.DEBUG, "closed")
        self._note(self._stranger_events, now, level, what, peer=channel.peer, reason=departure.reason)
        self.refused.update([departure.code] if departure.code else [])

    def on_joined(self, channel: Channel, member: Member, rank: int, clients: int, now: float) -> None:
        """Count a member."""
        self.joined += 1
        who = {"name": member.name, "peer": channel.peer, "rank": rank}
        self._note(self._member_events, now, logging.INFO, "joined", **who, clients=clients, **_token(member))

    def on_left(self, channel: Channel, member: Member, rank: int, departure: Departure, now: float) -> None:
        """Count a member that departs."""
        who = {"name": member.name, "peer": channel.peer, "rank": rank}
        self._note(self._member_events, now, logging.INFO, "left", **who, reason=departure.reason)
        self.dropped.update([departure.code] if departure.code else [])

    def on_lost_time(self, seconds: float, now: float) -> None:
        """Log that the process was stopped."""
        self._note(self._member_events, now, logging.WARNING, "was not running", seconds=round(seconds, 1))

    def report(self, **fields: object) -> None:
        """Log the counters and ``fields``."""
        event(
            logging.INFO,
            "report",
            **{key: fields.pop(key) for key in ("clients", "strangers") if key in fields},
            accepted=self.accepted,
            joined=self.joined,
            refused=self.refused.total(),
            **{f"refused_{code}": count for code, count in sorted(self.refused.items())},
            dropped=self.dropped.total(),
            **{f"dropped_{code}": count for code, count in sorted(self.dropped.items())},
            **fields,
        )

    def report_member(self, member: Member, rank: int, **fields: object) -> None:
        """Log a member and ``fields``."""
        peer = member.channel.peer if member.channel else ""
        who = {"name": member.name, "peer": peer, "rank": rank, "class": member.rank_class}
        event(logging.INFO, "client", **who, **_token(member), **fields)

    def close(self) -> None:
        """Log how many events were left out."""
        for events in self._renewal:
            events.renew()

    def _note(self, whose: Limited, now: float, level: int, message: str, **fields: object) -> None:
        """Log an event that others can cause at will."""
        whose.event(level, message, **fields)
        self._renewal.start_once(whose, now)


def _token(member: Member) -> dict[str, object]:
    """Return the name of a member's token, because a member may choose any name for itself."""
    return {"token": member.token} if member.token else {}
