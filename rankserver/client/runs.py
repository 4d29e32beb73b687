"""A long list of mostly consecutive numbers, kept as runs.

A server may announce a million clients in a short frame, and let them come and go in frames that are even
shorter. So no operation may take time for each number. Inserting or removing a stretch takes time for the
runs that it cuts or removes, whatever its length, and each of these was made by an earlier frame.

The runs are kept in blocks of bounded length, so that a change moves the runs of one block. Finding a place
passes over the lengths of the blocks before it, and over the runs of one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

# The most runs in a block. With the tens of thousands of runs of a large and busy fleet, finding a place then
# takes about the same number of steps among the blocks as within one.
MAX_BLOCK: Final = 128
# The fewest runs in a block that has neighbours, so that there are never many blocks with few runs.
MIN_BLOCK: Final = MAX_BLOCK // 4


class Runs:
    """The list.

    Args:
        first: its numbers at first.
    """

    def __init__(self, first: range) -> None:
        self._blocks = [[first] if first else []]
        # How many numbers each block has.
        self._lengths = [len(first)]
        self._length = len(first)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[range]:
        """Iterate over the runs."""
        return chain.from_iterable(self._blocks)

    def __getitem__(self, place: int) -> int:
        """Return the number at a place. O(blocks + MAX_BLOCK)."""
        block, place = self._find(place)
        for run in self._blocks[block]:
            if place < len(run):
                return run[place]
            place -= len(run)
        raise IndexError

    def insert(self, place: int, run: range) -> None:
        """Insert the numbers of ``run`` before a place. O(blocks + MAX_BLOCK)."""
        block, index = self._cut(place)
        self._blocks[block].insert(index, run)
        self._lengths[block] += len(run)
        self._length += len(run)
        self._balance(block)

    def remove(self, places: range) -> list[range]:
        """Remove the numbers at ``places``, and return them. O(blocks + MAX_BLOCK + runs removed)."""
        # The second cut is behind the first, and leaves its block and index as they are.
        first, begin = self._cut(places.start)
        last, end = self._cut(places.stop)
        blocks = self._blocks[first : last + 1]
        runs = list(chain.from_iterable(blocks))
        end += len(runs) - len(blocks[-1])
        removed = runs[begin:end]
        del runs[begin:end]
        length = sum(self._lengths[first : last + 1]) - len(places)
        self._blocks[first : last + 1] = [runs]
        self._lengths[first : last + 1] = [length]
        self._length -= len(places)
        self._balance(first)
        return removed

    def _find(self, place: int) -> tuple[int, int]:
        """Return the block that has a place, and the place within it."""
        for block, length in enumerate(self._lengths):
            if place < length:
                return block, place
            place -= length
        return len(self._lengths) - 1, place + self._lengths[-1]

    def _cut(self, place: int) -> tuple[int, int]:
        """Make a run begin at a place, and return its block and its index there."""
        block, place = self._find(place)
        runs = self._blocks[block]
        for index, run in enumerate(runs):
            if place < len(run):
                if not place:
                    return block, index
                runs[index : index + 1] = run[:place], run[place:]
                return block, index + 1
            place -= len(run)
        return block, len(runs)

    def _balance(self, block: int) -> None:
        """Merge a block that has become short with a neighbour, and halve one that has become long."""
        if len(self._blocks[block]) < MIN_BLOCK and len(self._blocks) > 1:
            block = max(block - 1, 0)
            self._replace(block, 2, [self._blocks[block] + self._blocks[block + 1]])
        while len(self._blocks[block]) > MAX_BLOCK:
            runs = self._blocks[block]
            self._replace(block, 1, [runs[: -MAX_BLOCK // 2], runs[-MAX_BLOCK // 2 :]])

    def _replace(self, block: int, count: int, blocks: list[list[range]]) -> None:
        self._blocks[block : block + count] = blocks
        self._lengths[block : block + count] = [sum(map(len, runs)) for runs in blocks]
