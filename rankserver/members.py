"""Members: the clients that hold a rank. A member is not a connection; it has a channel, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rankserver.clist import Log
from rankserver.inputs import Newcomer

if TYPE_CHECKING:
    from rankserver.channel import Channel


class Member:
    """One member.

    Attributes:
        id: its number, which is never used again.
        name: its name, as others see it.
        rank_class: its class; lower numbers rank above higher ones.
        token: the name of the token that it presented; empty for none.
        channel: its connection to this server, or None. The state never looks at it.
    """

    __slots__ = ("channel", "id", "name", "rank_class", "token")

    def __init__(self, newcomer: Newcomer) -> None:
        self.id, self.name, self.rank_class, self.token = newcomer
        self.channel: Channel | None = None

    def __repr__(self) -> str:
        return f"<Member {self.id} {self.name}>"


# The member of a channel that has not joined.
NOBODY: Final = Member(Newcomer(0, ""))


class Roster:
    """The members by id and by rank. The core keeps the ranks; this class adds the members that hold them.

    Args:
        log: the log whose core keeps the ranks.
    """

    def __init__(self, log: Log) -> None:
        self.by_id: dict[int, Member] = {}
        self._log = log
        # How many members each class has.
        self._classes: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Member]:
        """Yield all members, rank 0 first. O(n)."""
        return (self.by_id[number] for number in self._log.members())

    def rank(self, member: Member) -> int:
        """Return the member's rank. O(n) after a change in the middle of the list, else O(1)."""
        return self._log.rank(member.id)

    def places(self, newcomers: Sequence[Newcomer]) -> list[int]:
        """Return the ranks that newcomers will hold, ascending; their classes must ascend.

        O(classes and newcomers).
        """
        ranks: list[int] = []
        classes = sorted(self._classes.items(), reverse=True)
        above = 0
        for place, newcomer in enumerate(newcomers):
            while classes and classes[-1][0] <= newcomer.rank_class:
                above += classes.pop()[1]
            ranks.append(above + place)
        return ranks

    def add(self, newcomers: Sequence[Newcomer]) -> list[Member]:
        """Add members, each with the lowest rank in its class, and return them.

        Raises:
            MemoryError: no member was added.
        """
        added: list[Member] = []
        try:
            for newcomer in newcomers:
                member = Member(newcomer)
                self._log.join(member.id, member.rank_class)
                self.by_id[member.id] = member
                self._classes[member.rank_class] += 1
                added.append(member)
        except MemoryError:
            self.remove(added)
            raise
        return added

    def remove(self, members: list[Member]) -> None:
        """Remove members, given by rank; the lowest goes first, so that the others keep their ranks."""
        for member in reversed(members):
            self._log.leave(member.id)
            del self.by_id[member.id]
            self._classes[member.rank_class] -= 1
            if not self._classes[member.rank_class]:
                del self._classes[member.rank_class]
