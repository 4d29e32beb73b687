"""The WHOs that were sent, and the roster that is arriving in answer to the oldest of them."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from rankserver.client.log_view import broken
from rankserver.wire import frames


class RosterRequest(NamedTuple):
    """One WHO. ``handle`` is what the caller of ``who`` passed; if nobody called, ``is_wanted`` is False."""

    is_wanted: bool
    handle: object


class Rosters:
    """Assembles the ROSTER frames of each answer.

    Attributes:
        requests: the WHOs without a complete roster, oldest first.
    """

    def __init__(self) -> None:
        self.requests: deque[RosterRequest] = deque()
        self._members: list[frames.RosterEntry] = []

    def receive(self, frame: frames.RosterFrame) -> tuple[frames.RosterEntry, ...] | None:
        """Take one frame, and return the roster if it is now complete.

        Raises:
            RemoteProtocolError: ``bad-frame``, if it does not continue where the last one ended.
        """
        if frame.start != len(self._members):
            raise broken(f"expected ROSTER from rank {len(self._members)} on, got it from {frame.start} on")
        self._members += frame.members
        if len(self._members) < frame.total:
            return None
        roster, self._members = tuple(self._members), []
        return roster
