"""The WHOs that were sent, and the roster that is arriving in answer to the oldest of them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rankserver.client.log_view import broken
from rankserver.wire import frames


class RosterRequest(NamedTuple):
    """One WHO. ``handle`` is what the caller gave with it, and of no use if nobody called for it."""

    is_wanted: bool
    handle: object


class Rosters:
    """Puts the ROSTER frames of one answer together."""

    def __init__(self) -> None:
        self.requests: deque[RosterRequest] = deque()
        self._members: list[frames.RosterEntry] = []

    def receive(self, frame: frames.RosterFrame) -> tuple[frames.RosterEntry, ...] | None:
        """Take one frame; return the roster if that makes it complete.

        Raises:
            RemoteProtocolError: ``bad-frame``, if it does not go on where the last one ended.
        """
        if frame.start != len(self._members):
            raise broken(f"ROSTER from {frame.start} on where {len(self._members)} was due")
        self._members += frame.members
        if len(self._members) < frame.total:
            return None
        roster, self._members = tuple(self._members), []
        return roster
