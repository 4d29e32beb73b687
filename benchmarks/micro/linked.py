"""A doubly linked list with ranks in Python, to compare the C ranked list with."""

from __future__ import annotations


class Node:
    """One member's place in the list."""

    __slots__ = ("next", "prev", "rank")

    def __init__(self) -> None:
        self.prev = self
        self.next = self
        self.rank = -1


class LinkedList:
    """A ring of nodes around a root that is not a member, so that neither end is a special case.

    Ranks are renumbered when one is looked up, not at each leave, so many leaves share one renumbering.
    """

    __slots__ = ("_count", "_numbered", "_root")

    def __init__(self) -> None:
        self._root = Node()
        self._count = 0
        self._numbered = True

    def __len__(self) -> int:
        return self._count

    def join(self) -> Node:
        """Add a member behind all others, and return it. O(1)."""
        root = self._root
        last = root.prev
        node = Node()
        node.prev = last
        node.next = root
        # Right if the other ranks are up to date.
        node.rank = self._count
        last.next = root.prev = node
        self._count += 1
        return node

    def leave(self, node: Node) -> None:
        """Take a member out. O(1)."""
        prev, following = node.prev, node.next
        prev.next = following
        following.prev = prev
        if following is not self._root:
            self._numbered = False
        node.prev = node.next = node
        node.rank = -1
        self._count -= 1

    def rank(self, node: Node) -> int:
        """Return how many members are before this one, -1 if it has left. O(n) after a leave, else O(1)."""
        if not self._numbered:
            self._number()
        return node.rank

    def _number(self) -> None:
        root = self._root
        node = root.next
        rank = 0
        while node is not root:
            node.rank = rank
            rank += 1
            node = node.next
        self._numbered = True
