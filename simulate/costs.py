"""What the server's work costs, in simulated time, and how much of each kind one turn may do.

The clock advances as work is done. System calls cost time in the simulated kernel; the rest is accounted for
here, by what really happens and not by what the server charges. So a turn that does more than it may is
caught, however it came to that.
"""

from __future__ import annotations

import enum
from typing import Final

import rankserver.listeners
import rankserver.loop
from simulate.kernel import Clock
from simulate.truth import Violation

# Seconds that a short line takes in Python, to which every other cost is related.
UNIT: Final = 10e-6
# Seconds that a step of a TLS handshake takes with a large key.
HANDSHAKE: Final = 6e-3
# Seconds that a connection takes to be accepted, and to depart.
CONNECTION: Final = 60e-6
DEPARTURE: Final = 60e-6
# Seconds that a private frame takes to be queued.
FRAME: Final = 2e-6
# The most private frames for one line: the parts of a roster, with small lines.
FRAMES_PER_LINE: Final = 5
# The most private frames for one connection without a line of its own: INFO, WELCOME, PING and BYE.
FRAMES_PER_CHANNEL: Final = 4
# Seconds of system calls, for each connection and for each line: what is sent may go out in small pieces.
CALLS_PER_CHANNEL: Final = 500e-6
CALLS_PER_LINE: Final = 50e-6
# Seconds that rounding may add.
ROUNDING: Final = 1e-9


class Work(enum.Enum):
    """The kinds of work that a turn bounds."""

    LINES = "lines"
    HANDSHAKES = "steps of handshakes"
    CONNECTIONS = "new connections"
    DEPARTURES = "departures"
    FRAMES = "private frames"


class Meter:
    """Lets the clock advance with work, and adds up what one turn does.

    Args:
        clock: the simulated clock.
        max_line: bytes in the longest line from a client.
    """

    def __init__(self, clock: Clock, max_line: int) -> None:
        self._clock = clock
        self._max_line = max_line
        self._began = clock.worked
        self._channels = 0
        self._spent = dict.fromkeys(Work, 0.0)

    def line(self, size: int) -> None:
        """Account for a line that is handled in Python."""
        self._spend(Work.LINES, UNIT * (1 + size / rankserver.loop.BYTES_PER_UNIT))

    def handshake(self) -> None:
        """Account for a step of a handshake."""
        self._spend(Work.HANDSHAKES, HANDSHAKE)

    def connection(self) -> None:
        """Account for a connection that is accepted."""
        self._channels += 1
        self._spend(Work.CONNECTIONS, CONNECTION)

    def departure(self) -> None:
        """Account for a connection that departs."""
        self._spend(Work.DEPARTURES, DEPARTURE)

    def frame(self) -> None:
        """Account for a private frame."""
        self._spend(Work.FRAMES, FRAME)

    def begin_turn(self, channels: int) -> None:
        """Forget what earlier turns have done; there are this many connections now."""
        self._began = self._clock.worked
        self._channels = channels
        for work in Work:
            self._spent[work] = 0.0

    def check_turn(self) -> None:
        """Check that this turn did not do more than it may.

        Raises:
            Violation: it did.
        """
        bounds = self._bounds()
        calls = CALLS_PER_CHANNEL * self._channels + CALLS_PER_LINE * bounds[Work.LINES] / UNIT
        for work, seconds in self._spent.items():
            if seconds > bounds[work] + ROUNDING:
                raise Violation(
                    f"a turn takes {seconds:.6f} s for {work.value}, more than {bounds[work]:.6f}"
                )
        elapsed = self._clock.worked - self._began
        most = sum(bounds.values()) + calls
        if elapsed > most:
            raise Violation(f"a turn takes {elapsed:.6f} s, more than {most:.6f}")

    def _bounds(self) -> dict[Work, float]:
        """Return the most seconds that a turn with these connections may take for each kind of work."""
        loop, channels = rankserver.loop, self._channels
        # Short and long lines are bounded separately, and the last of each may begin just below its bound.
        lines = 2 * loop.MAX_COST + loop.MIN_COST + 2 + self._max_line / loop.BYTES_PER_UNIT
        listeners = 2
        return {
            Work.LINES: UNIT * lines,
            Work.HANDSHAKES: HANDSHAKE * loop.MAX_HANDSHAKES,
            Work.CONNECTIONS: CONNECTION * listeners * rankserver.listeners.MAX_ACCEPTS,
            Work.DEPARTURES: DEPARTURE * channels,
            Work.FRAMES: FRAME * (FRAMES_PER_LINE * lines + FRAMES_PER_CHANNEL * channels),
        }

    def _spend(self, work: Work, seconds: float) -> None:
        self._spent[work] += seconds
        self._clock.work(seconds)
