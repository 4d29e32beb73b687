"""Orders: when an input counts.

Whatever changes what clients see is proposed to an ``Order``, and counts when the order hands it out. All who
read the same order apply the same inputs in the same sequence, and so hold the same members, ranks and log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from rankserver.inputs import Input


class Order(Protocol):
    """Decides on one sequence of inputs.

    Attributes:
        collects: stretches of commands must be proposed. If not, the C core logs them as it reads them, which
            is what ``State.apply`` would do with them at once.
    """

    collects: bool

    @property
    def propose(self) -> Callable[[Input], None]:
        """Ask for an input to count. What must wait for somebody else has done so before it is proposed.

        Raises:
            MemoryError: it will not count.
        """

    def ready(self) -> Iterable[Input]:
        """Return the inputs that count from now on, in order; the caller applies each of them once."""


class Immediate:
    """The order of a single server: what is proposed counts at once.

    Args:
        apply: makes an input count.
    """

    def __init__(self, apply: Callable[[Input], None]) -> None:
        self.collects = False
        # Proposing is applying. It is the function itself and no method around it, since it is called for
        # each line.
        self.propose = apply

    def ready(self) -> Iterable[Input]:
        """Return nothing: all that was proposed has been applied."""
        return ()
