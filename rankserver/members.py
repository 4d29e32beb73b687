"""Members: those who hold a rank. A member is not a connection; it has a channel, or none."""

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
        id: the number that names it for good.
        name: as others see it.
        rank_class: lower numbers rank above.
        token: the name of the token that it showed, empty for none.
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
    """The members by number and by rank. The core keeps the ranks; this adds who holds them.

    Args:
        log: whose ranked list it is.
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
        """Return the member's rank. O(n) after somebody left, else O(1)."""
        return self._log.rank(member.id)

    def places(self, newcomers: Sequence[Newcomer]) -> list[int]:
        """Return the ranks that these will hold when they have joined, ascending; their classes must ascend.

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
        """Give each the lowest rank in its class.

        Raises:
            MemoryError: nobody was added.
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
        """Take these out of the ranks; the lowest first, so that none of them is numbered anew."""
        for member in reversed(members):
            self._log.leave(member.id)
            del self.by_id[member.id]
            self._classes[member.rank_class] -= 1
            if not self._classes[member.rank_class]:
                del self._classes[member.rank_class]
