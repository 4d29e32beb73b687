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

    def receive(self, frame: frames.RosterFrame, clients: int) -> tuple[frames.RosterEntry, ...] | None:
        """Take one frame, and return the roster if it is now complete.

        The frames of a roster come in a row, so the number of clients is the same for all of them.

        Raises:
            RemoteProtocolError: ``bad-frame``, if it does not continue where the last one ended, or does not
                list the next of ``clients`` clients.
        """
        start, end = len(self._members), len(self._members) + len(frame.members)
        if frame.total != clients:
            raise broken(f"ROSTER has a total of {frame.total}, but the number of clients is {clients}")
        if frame.start != start:
            raise broken(f"expected ROSTER from rank {start} on, got it from {frame.start} on")
        if not start < end <= clients:
            raise broken(f"ROSTER lists {end - start} clients from rank {start} on, of {clients} in all")
        if any(member.rank != rank for rank, member in enumerate(frame.members, start)):
            raise broken(f"ROSTER does not list the ranks from {start} to {end - 1} in order")
        self._members += frame.members
        if end < clients:
            return None
        roster, self._members = tuple(self._members), []
        return roster
