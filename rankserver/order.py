"""Orders: deciding when an input counts.

Whatever changes what clients see is proposed to an ``Order``, and counts when the order hands it out. All
readers of one order apply the same inputs in the same sequence, and so hold the same members, ranks and log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from rankserver.inputs import Input


class Order(Protocol):
    """Decides on one sequence of inputs.

    Attributes:
        collects: commands must be proposed, in batches. If False, the C core logs commands as it reads them,
            which has the same effect as applying them at once.
    """

    collects: bool

    @property
    def propose(self) -> Callable[[Input], None]:
        """Propose an input. Whatever must wait for other clients does so before it is proposed.

        Raises:
            MemoryError: it will not count.
        """

    def ready(self) -> Iterable[Input]:
        """Return the inputs that count from now on, in order; the caller applies each of them once."""


class Immediate:
    """The order of a single server: what is proposed counts at once.

    Args:
        apply: applies an input.
    """

    def __init__(self, apply: Callable[[Input], None]) -> None:
        self.collects = False
        # Proposing is applying. This is the function itself rather than a method that calls it, because it
        # is called for each line.
        self.propose = apply

    def ready(self) -> Iterable[Input]:
        """Return nothing: everything that was proposed has been applied."""
        return ()
