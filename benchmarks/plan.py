"""Plan what a comparison measures, for how long, and in which order.

These are pure functions, and constants with their reasons. ``rounds.py`` carries the plan out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sources import CHUNKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")

PARTS: Final = ("throughput", "latency", "everyone", "membership")
RECEIVERS: Final = (1, 10, 100, 1_000, 5_000)
SIZES: Final = (16, 64, 1_024, 16_384)
MEMBERS: Final = (100, 1_000, 10_000)

# The size of a command, in bytes, with which the latency is measured at every number of receivers.
MAIN_SIZE: Final = 64

# The number of receivers at which the latency is measured with every size.
MAIN_RECEIVERS: Final = 100

# The numbers of clients with which all of them send. With more it would take far too long.
EVERYONE: Final = range(10, 1_001)

# The number of commands that each client sends in one burst if all send.
EACH: Final = 10

# The deliveries of a full burst. They take the fastest peer 0.05 to 0.2 s, much longer than the scheduler
# could disturb it.
MAX_DELIVERIES: Final = 20_000_000

# The fewest commands of a full burst. With 16 KiB and 5,000 receivers there would be fewer, so that point is
# left out.
MIN_COMMANDS: Final = 20

# The bytes of text that a burst sends to all receivers together.
MAX_BYTES: Final = 1_500_000_000

# The most commands of a burst: more would take longer to prepare than to send.
MAX_COMMANDS: Final = 2_000_000

# The most bytes of one phase that the generator keeps.
MAX_PHASE_BYTES: Final = 1 << 30

# The bytes that the generator allows for the frame around a text.
WRAP: Final = 128

# Calibrating begins with a burst smaller by this factor than a full one.
FIRST_SHARE: Final = 256

# A calibrating burst is longer than the previous one by at most this factor.
MAX_GROWTH: Final = 4

# Calibrating ends after this many bursts, however much their times vary.
MAX_STEPS: Final = 12


class Idle(NamedTuple):
    """The pace for a server that should sleep between two commands."""

    # The most receivers for which it is used.
    receivers: int
    # In commands per second.
    rate: int
    # The share of the full phase. More commands make the p99 more reliable, so lower rates need longer
    # phases.
    share: float


IDLE: Final = (Idle(100, 250, 2 / 3), Idle(1_000, 50, 1.0))

# The pace for more receivers than those above.
IDLE_LAST: Final = Idle(0, 10, 1.0)

# An idle server is loaded to at most 1 / IDLE_SHARE of the commands per second that it can do.
IDLE_SHARE: Final = 5


class Point(NamedTuple):
    """One point of the grid; with ``everyone`` all ``receivers`` send, else one further client does."""

    everyone: bool
    receivers: int
    size: int
    latency: bool = False

    @property
    def senders(self) -> str:
        """The value of the column ``senders`` in the results."""
        return "every" if self.everyone else "one"

    @property
    def same_rate(self) -> bool:
        """Whether this server is also paced at half load of each peer."""
        return self.latency and self.size == MAIN_SIZE

    @property
    def deliveries(self) -> int:
        """The most deliveries of a command; rankserver and the ceiling also deliver it to its sender."""
        return self.receivers if self.everyone else self.receivers + 1

    def __str__(self) -> str:
        who = "clients that all send" if self.everyone else "receivers"
        return f"{self.receivers:,} {who}, {self.size:,} bytes"


@dataclass(frozen=True)
class Timing:
    """The durations of steps, in seconds, and the numbers of their repetitions."""

    rounds: int
    # One burst of a slow source.
    burst: float = 0.4
    # The share of a full burst that fast sources send.
    scale: float = 1.0
    # The most for one burst in which every client sends EACH commands. If it would take longer, clients send
    # fewer commands, for about ``crowd`` seconds.
    whole: float = 8.0
    crowd: float = 2.0
    # Bursts of clients that all send are repeated for this long in a round, and the median counts.
    crowds: float = 0.05
    # An idle phase with many receivers; with few receivers, a share of it is enough.
    idle: float = 2.0
    half: float = 0.6
    # Bursts with each chunk size, to find the ceiling's fastest.
    trials: int = 2
    # Leaves of one client in a round, of which the median counts.
    singles: int = 5
    # The phase in which the CPU time of idle clients is measured.
    sitting: float = 2.0

    @classmethod
    def quick(cls, rounds: int) -> Timing:
        """Return a timing that shows that everything works, but not how fast it is."""
        return cls(rounds, 0.05, 0.005, 1.0, 0.1, 0.0, 0.1, 0.05, 1, 1, 0.1)


# --- the points -------------------------------------------------------------------------------


def points(receivers: Sequence[int], sizes: Sequence[int], parts: Sequence[str]) -> list[Point]:
    """Return the points that the parts need, in the order in which they are measured."""
    latency = "latency" in parts
    grid = [
        Point(everyone=False, receivers=count, size=size, latency=latency and _has_latency(count, size))
        for size in sizes
        for count in receivers
        if MAX_BYTES // size // count >= MIN_COMMANDS
    ]
    if "throughput" not in parts:
        grid = [point for point in grid if point.latency]
    if "everyone" in parts and MAIN_SIZE in sizes:
        grid += [Point(everyone=True, receivers=n, size=MAIN_SIZE) for n in receivers if n in EVERYONE]
    return grid


def _has_latency(receivers: int, size: int) -> bool:
    return size == MAIN_SIZE or receivers == MAIN_RECEIVERS


# --- how much ---------------------------------------------------------------------------------


def max_commands(point: Point, timing: Timing) -> int:
    """Return the most commands in a burst of one sender."""
    deliveries = min(MAX_DELIVERIES, MAX_BYTES // point.size)
    bound = min(deliveries // point.receivers, MAX_PHASE_BYTES // (point.size + WRAP), MAX_COMMANDS)
    return max(1, int(bound * timing.scale))


def calibrate(run: Callable[[int], float], most: int, seconds: float) -> int:
    """Return how many commands, up to ``most``, can be sent in about ``seconds``.

    ``run`` sends a burst of the given number of commands and returns the seconds that it took. A small or
    cold burst says little about a large or warm one. Bursts therefore grow until one takes at least half of
    the time, and a last one, of the size computed from it, confirms the result and warms up everything.
    """
    commands = -(-most // FIRST_SHARE)
    # Whether the previous burst took long enough for its size to be nearly right.
    near = False
    for _ in range(MAX_STEPS):
        fit = max(1, min(int(commands * seconds / run(commands)), most))
        if commands == fit == most or (near and fit < 2 * commands):
            break
        near = fit < 2 * commands
        commands = min(fit, commands * MAX_GROWTH)
    return commands


def crowd_commands(clients: int, seconds_of_one: float, timing: Timing) -> int:
    """Return how many commands all clients together send at once, given the seconds for one from each."""
    if seconds_of_one * EACH <= timing.whole:
        return clients * EACH
    return clients * max(1, int(timing.crowd / seconds_of_one))


def crowd_repeats(seconds: float, timing: Timing) -> int:
    """Return how many bursts of this length a round has: an odd number, so that the median is one of them."""
    return min(int(timing.crowds / seconds), 20) // 2 * 2 + 1


# --- how fast ---------------------------------------------------------------------------------


def idle_rate(receivers: int, saturated: float) -> int:
    """Return commands/s at which a source that can do ``saturated`` sleeps between two commands."""
    return max(1, min(_idle(receivers).rate, int(saturated / IDLE_SHARE)))


def idle_seconds(receivers: int, timing: Timing) -> float:
    """Return the seconds for which the latency of an idle source is measured."""
    return timing.idle * _idle(receivers).share


def _idle(receivers: int) -> Idle:
    return next((idle for idle in IDLE if receivers <= idle.receivers), IDLE_LAST)


def half_rate(saturated: float) -> int:
    """Return half of ``saturated`` commands/s."""
    return max(1, int(saturated / 2))


def paced_commands(rate: int, seconds: float, size: int) -> int:
    """Return the number of commands in a paced phase."""
    return max(1, min(int(rate * seconds), MAX_PHASE_BYTES // (size + WRAP), MAX_COMMANDS))


# --- in which order ---------------------------------------------------------------------------


def order(items: Sequence[Item], number: int) -> list[Item]:
    """Return the items in the order of round ``number``: items that come late in one come early in another.

    Every round begins with the next item, and every second round goes backwards from there.
    """
    first = number % len(items) if items else 0
    turned = [*items[first:], *items[:first]]
    return [*turned[:1], *turned[:0:-1]] if number % 2 else turned


# --- how long ---------------------------------------------------------------------------------

# Seconds to start a server and a generator.
START: Final = 0.3

# Seconds to connect one client.
JOINING: Final = 0.000_25

# Seconds for a burst of the average peer, including its preparation.
BURST: Final = 0.4

# Seconds for one client to join, settle and leave.
MEMBER: Final = 0.000_8

# Further seconds of a membership round: starting, and letting memory settle.
STARTS: Final = 2.0


def start_seconds(point: Point) -> float:
    """Return the estimated seconds to start one peer with its connections."""
    return START + point.receivers * JOINING


def burst_seconds(point: Point, timing: Timing) -> float:
    """Return the estimated seconds of one peer's bursts in a round."""
    if point.everyone:
        return timing.crowds + timing.crowd * point.receivers / EVERYONE[-1]
    return BURST * timing.burst / Timing.burst


def warming_seconds(point: Point, timing: Timing, *, ceiling: bool) -> float:
    """Return the estimated seconds to calibrate one peer; the ceiling also tries its chunk sizes."""
    bursts = 2 + (timing.trials * len(CHUNKS) if ceiling else 0)
    return bursts * burst_seconds(point, timing)


def latency_seconds(point: Point, peers: int, timing: Timing) -> float:
    """Return the estimated seconds of one round of latencies; the ceiling has none at half load."""
    others = max(0, peers - 2)
    halves = 1 + others * (2 if point.same_rate else 1)
    return peers * idle_seconds(point.receivers, timing) + halves * timing.half


def point_seconds(point: Point, peers: int, timing: Timing) -> float:
    """Return the estimated seconds of a point with this many peers, including this server and the ceiling."""
    each = start_seconds(point) + warming_seconds(point, timing, ceiling=False)
    each += timing.rounds * burst_seconds(point, timing)
    paced = timing.rounds * latency_seconds(point, peers, timing) if point.latency else 0.0
    return peers * each + paced + timing.trials * len(CHUNKS) * burst_seconds(point, timing)


def membership_seconds(clients: int, timing: Timing) -> float:
    """Return the estimated seconds of one membership round."""
    return clients * MEMBER + STARTS + timing.sitting
