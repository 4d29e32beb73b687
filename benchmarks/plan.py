"""What a comparison measures, how long, and in which order: pure functions and constants with their reasons.

It starts nothing and waits for nothing; ``rounds.py`` carries it out.
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

# The numbers of clients that all send; with more it takes far too long.
EVERYONE: Final = range(10, 1_001)

# The number of commands that each of them sends at once.
EACH: Final = 10

# At this size a burst of the fastest takes 0.05 to 0.2 s, much longer than anything the scheduler disturbs.
MAX_DELIVERIES: Final = 20_000_000

# A burst has at least this many commands; 16 KiB to 5,000 receivers would be fewer, and is left out.
MIN_COMMANDS: Final = 20

# The bytes of text that a burst sends to all receivers together.
MAX_BYTES: Final = 1_500_000_000

# More commands in a burst would take longer to prepare than to send.
MAX_COMMANDS: Final = 2_000_000

# The bytes of one phase: the generator keeps no more.
MAX_PHASE_BYTES: Final = 1 << 30

# The bytes that the generator counts for what is around a text.
WRAP: Final = 128

# Calibrating begins with this part of a full burst.
FIRST_SHARE: Final = 256

# Each further burst of calibrating is at most this many times as long as the one before.
MAX_GROWTH: Final = 4

# Calibrating ends after this many bursts, however much their times vary.
MAX_STEPS: Final = 12


class Idle(NamedTuple):
    """How a server is paced that sleeps between two commands."""

    receivers: int  # at most
    rate: int  # commands/s
    share: float  # of the time that the longest takes: the more commands there are, the surer is the p99


IDLE: Final = (Idle(100, 250, 2 / 3), Idle(1_000, 50, 1.0))

# The pace with more receivers than those above.
IDLE_LAST: Final = Idle(0, 10, 1.0)

# A server that sleeps between two commands is used to at most one part in this many.
IDLE_SHARE: Final = 5


class Point(NamedTuple):
    """One place of the grid; with ``everyone`` all ``receivers`` send, else one more client does."""

    everyone: bool
    receivers: int
    size: int
    latency: bool = False

    @property
    def senders(self) -> str:
        """What the result calls it."""
        return "every" if self.everyone else "one"

    @property
    def same_rate(self) -> bool:
        """Whether this server is also paced at half load of each peer."""
        return self.latency and self.size == MAIN_SIZE

    @property
    def deliveries(self) -> int:
        """How many deliveries a command is, at most: rankserver and the ceiling confirm to the sender."""
        return self.receivers if self.everyone else self.receivers + 1

    def __str__(self) -> str:
        who = "clients that all send" if self.everyone else "receivers"
        return f"{self.receivers:,} {who}, {self.size:,} bytes"


@dataclass(frozen=True)
class Timing:
    """How long things may take, in seconds, and how often they are done."""

    rounds: int
    burst: float = 0.4  # one burst of a slow source
    scale: float = 1.0  # the part of a full burst that the fast ones send
    whole: float = 8.0  # one burst in which every client sends EACH commands;
    crowd: float = 2.0  # if it takes longer they send fewer, for so long
    crowds: float = 0.05  # bursts of a crowd are repeated for so long in a round, and the middle one counts
    idle: float = 2.0  # with many receivers: with few of them, a part of it is enough
    half: float = 0.6
    trials: int = 2  # bursts with each chunk, to find the ceiling's fastest
    singles: int = 5  # leaves of one client in a round, of which the middle one counts
    sitting: float = 2.0  # while the CPU time of idle clients is taken

    @classmethod
    def quick(cls, rounds: int) -> Timing:
        """Return times that show that everything works, and nothing about speed."""
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
    """Return how many commands a burst of one sender has at most."""
    deliveries = min(MAX_DELIVERIES, MAX_BYTES // point.size)
    bound = min(deliveries // point.receivers, MAX_PHASE_BYTES // (point.size + WRAP), MAX_COMMANDS)
    return max(1, int(bound * timing.scale))


def calibrate(run: Callable[[int], float], most: int, seconds: float) -> int:
    """Return how many commands, at most ``most``, fit in about ``seconds``.

    ``run`` sends a burst of so many and returns the seconds that it took. A small burst tells little about a
    large one, and a cold one little about a warm one, so bursts grow until one takes at least half of the
    time, and one of the size that follows from it shows that it was no exception and warms up everything.
    """
    commands = -(-most // FIRST_SHARE)
    near = False  # the burst before took long enough for its size to be nearly the right one
    for _ in range(MAX_STEPS):
        fit = max(1, min(int(commands * seconds / run(commands)), most))
        if commands == fit == most or (near and fit < 2 * commands):
            break
        near = fit < 2 * commands
        commands = min(fit, commands * MAX_GROWTH)
    return commands


def crowd_commands(clients: int, seconds_of_one: float, timing: Timing) -> int:
    """Return how many commands all clients together send at once, if one of each takes this long."""
    if seconds_of_one * EACH <= timing.whole:
        return clients * EACH
    return clients * max(1, int(timing.crowd / seconds_of_one))


def crowd_repeats(seconds: float, timing: Timing) -> int:
    """Return how many bursts of this length a round has: an odd number, so that there is a middle one."""
    return min(int(timing.crowds / seconds), 20) // 2 * 2 + 1


# --- how fast ---------------------------------------------------------------------------------


def idle_rate(receivers: int, saturated: float) -> int:
    """Return the commands/s at which a source that manages ``saturated`` sleeps between two commands."""
    return max(1, min(_idle(receivers).rate, int(saturated / IDLE_SHARE)))


def idle_seconds(receivers: int, timing: Timing) -> float:
    """Return how long the latency of an idle source is taken."""
    return timing.idle * _idle(receivers).share


def _idle(receivers: int) -> Idle:
    return next((idle for idle in IDLE if receivers <= idle.receivers), IDLE_LAST)


def half_rate(saturated: float) -> int:
    """Return half of ``saturated`` commands/s."""
    return max(1, int(saturated / 2))


def paced_commands(rate: int, seconds: float, size: int) -> int:
    """Return how many commands a paced phase has."""
    return max(1, min(int(rate * seconds), MAX_PHASE_BYTES // (size + WRAP), MAX_COMMANDS))


# --- in which order ---------------------------------------------------------------------------


def order(items: Sequence[Item], number: int) -> list[Item]:
    """Return the order of round ``number``: an item that is late in one is early in another.

    Every round begins with the next one, and every other round goes on backwards from there.
    """
    first = number % len(items) if items else 0
    turned = [*items[first:], *items[:first]]
    return [*turned[:1], *turned[:0:-1]] if number % 2 else turned


# --- how long ---------------------------------------------------------------------------------

# Seconds to start a server and a generator.
START: Final = 0.3

# Seconds to connect one client.
JOINING: Final = 0.000_25

# Seconds for a burst of the average peer, and for getting ready for it.
BURST: Final = 0.4

# Seconds for one client to join, settle and leave.
MEMBER: Final = 0.000_8

# Seconds that a round of members takes besides: starting, and letting memory settle.
STARTS: Final = 2.0


def start_seconds(point: Point) -> float:
    """Return about how long it takes to start one peer with its connections."""
    return START + point.receivers * JOINING


def burst_seconds(point: Point, timing: Timing) -> float:
    """Return about how long one peer's part of a round takes."""
    if point.everyone:
        return timing.crowds + timing.crowd * point.receivers / EVERYONE[-1]
    return BURST * timing.burst / Timing.burst


def warming_seconds(point: Point, timing: Timing, *, ceiling: bool) -> float:
    """Return about how long it takes to calibrate one peer; the ceiling tries its chunks, too."""
    bursts = 2 + (timing.trials * len(CHUNKS) if ceiling else 0)
    return bursts * burst_seconds(point, timing)


def latency_seconds(point: Point, peers: int, timing: Timing) -> float:
    """Return about how long one round of latencies takes; the ceiling has none at half load."""
    others = max(0, peers - 2)
    halves = 1 + others * (2 if point.same_rate else 1)
    return peers * idle_seconds(point.receivers, timing) + halves * timing.half


def point_seconds(point: Point, peers: int, timing: Timing) -> float:
    """Return about how long a point takes with this many peers, this server and the ceiling included."""
    each = start_seconds(point) + warming_seconds(point, timing, ceiling=False)
    each += timing.rounds * burst_seconds(point, timing)
    paced = timing.rounds * latency_seconds(point, peers, timing) if point.latency else 0.0
    return peers * each + paced + timing.trials * len(CHUNKS) * burst_seconds(point, timing)


def membership_seconds(clients: int, timing: Timing) -> float:
    """Return about how long one round of membership takes."""
    return clients * MEMBER + STARTS + timing.sitting
