"""The targets of the comparison as data, and whether they are met.

A target that was not measured is never met, and neither is one for which this server lost something. A peer
that lost something proves nothing.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd
from measurements import CEILING, OURS, PLACE
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measurements import Measurements

AT_LEAST: Final = "at least"
AT_MOST: Final = "at most"
BELOW: Final = "below"
HOLDS: Final = {AT_LEAST: operator.ge, AT_MOST: operator.le, BELOW: operator.lt}

# The numbers of receivers in most targets.
USUAL: Final = (10, 100, 1_000)

# From the first to the second of these numbers of receivers, the CPU time per delivery may grow by the same
# factor as the ceiling's.
FEW: Final = 10
MANY: Final = 5_000

# The targets of membership: the number of clients, the joins per second, the bytes of an idle client, the
# seconds until all know that half of them left, and the time until all know that one left, as a multiple of
# the ceiling's time for one small send to each.
CLIENTS: Final = 10_000
MIN_JOINS: Final = 2_000
MAX_MEMORY: Final = 2_048
MAX_HALF: Final = 2.0
MAX_ONE: Final = 1.2

# The senders, size and receivers of the points that a target depends on.
Points = list[tuple[str, int, int]]

# The bytes of a command, the numbers of receivers, the multiple of each peer's throughput that is required
# there, and the senders.
THROUGHPUT: Final[tuple[tuple[int, tuple[int, ...], dict[str, float], str], ...]] = (
    (MAIN_SIZE, USUAL, {"redis": 7, "nats": 7, "zeromq": 4, CEILING: 0.9}, "one"),
    (MAIN_SIZE, USUAL, {"asyncio": 50, "uvloop": 50, "threads": 50}, "one"),
    (MAIN_SIZE, (1,), {"redis": 5, "nats": 3}, "one"),
    (16, USUAL, {"redis": 10, "nats": 8}, "one"),
    (1_024, USUAL, {"redis": 1.2, CEILING: 0.95}, "one"),
    (16_384, USUAL, {CEILING: 0.95}, "one"),
    (MAIN_SIZE, (1_000,), {"redis": 5, "nats": 5}, "every"),
)

# The latency, its column, and how it must compare with the best peer's; with every peer's at the same rate.
LATENCY: Final = (
    ("latency on an idle server, p50", "idle p50", AT_MOST),
    ("latency on an idle server, p99", "idle p99", AT_MOST),
    ("latency at half load of each peer, same rate, p99", "same p99", BELOW),
    ("latency at half load, each at half of its own rate, p99", "half p99", BELOW),
)

# The figure of membership, its column, and its limit.
MEMBERSHIP: Final = (
    ("joins per second, one after the other", "joins_per_second", AT_LEAST, MIN_JOINS),
    ("bytes of memory of an idle client", "memory_per_client", AT_MOST, MAX_MEMORY),
    ("seconds until all know that half of them left", "half_leave", AT_MOST, MAX_HALF),
    ("time until all know that one left, in small sends of the ceiling", "one_in_sends", AT_MOST, MAX_ONE),
)


class Target(NamedTuple):
    """A requirement and the measured value, which is None if it was not measured."""

    what: str
    # The number of receivers, or of clients.
    place: int
    limit: str
    required: float | None
    value: float | None
    # The peer that a ratio refers to, unless ``what`` names it.
    peer: str = ""
    # Whether this server lost something there.
    lost: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if it was not measured."""
        if self.lost:
            return False
        return None if self.value is None or self.required is None else self.holds(self.value)

    def holds(self, value: float) -> bool:
        """Return whether a value would meet the target."""
        return self.required is not None and bool(HOLDS[self.limit](value, self.required))


def check(measured: Measurements) -> list[Target]:
    """Return all targets in display order."""
    multiples, rounds = _medians(measured, measured.multiples), _medians(measured, measured.rounds)
    found = [*_throughput(multiples), *_latency(multiples, rounds)]
    found += [*_membership(measured.members), _growth(rounds)]
    return [it._replace(lost=any((*at, OURS) in measured.lost for at in points)) for it, points in found]


def _medians(measured: Measurements, rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the medians of rounds by place; those of peers that lost something there are missing."""
    medians = rounds.groupby(PLACE).median().reindex(pd.MultiIndex.from_frame(measured.starts[PLACE]))
    medians.loc[[place in measured.lost and place[-1] != OURS for place in medians.index]] = float("nan")
    return medians


def _throughput(multiples: pd.DataFrame) -> Iterator[tuple[Target, Points]]:
    known = multiples.throughput.dropna()
    for size, counts, peers, senders in THROUGHPUT:
        everyone = ", every client a sender" if senders == "every" else ""
        for peer, least in peers.items():
            what = f"throughput, {size:,} bytes{everyone}: multiple of {peer}"
            for count in counts:
                point = (senders, size, count)
                yield Target(what, count, AT_LEAST, least, known.get((*point, peer))), [point]


def _latency(multiples: pd.DataFrame, rounds: pd.DataFrame) -> Iterator[tuple[Target, Points]]:
    """Return our ratio to the best peer; for the load ``same``, our worst ratio to any peer.

    For ``same``, if a peer is missing, the others can show that the target is not met, but not that it is.
    """
    for what, column, limit in LATENCY:
        for count in USUAL:
            point = ("one", MAIN_SIZE, count)
            ratios, latencies = (_rivals(values[column], point) for values in (multiples, rounds))
            target = Target(what, count, limit, 1.0, None)
            if ratios.notna().any():
                is_same = column.startswith("same")
                peer = ratios.idxmax() if is_same else latencies[ratios.notna()].idxmin()
                known = target._replace(value=ratios[peer], peer=peer)
                target = target if known.met and is_same and ratios.isna().any() else known
            yield target, [point]


def _rivals(values: pd.Series[Any], point: tuple[str, int, int]) -> pd.Series[Any]:
    """Return the values at a point, by peer, of all peers except this server and the ceiling."""
    here = values[[place[:-1] == point for place in values.index]].droplevel(PLACE[:-1])
    return here.drop([OURS, CEILING], errors="ignore")


def _membership(members: pd.DataFrame) -> Iterator[tuple[Target, Points]]:
    medians = members[members.clients == CLIENTS].astype(float).median().dropna()
    for what, column, limit, required in MEMBERSHIP:
        yield Target(what, CLIENTS, limit, required, medians.get(column)), []


def _growth(rounds: pd.DataFrame) -> tuple[Target, Points]:
    """Return the growth of our cost: a ratio of medians, as rounds of different points are not paired."""
    costs = rounds.cpu.dropna()

    def growth(peer: str) -> float | None:
        low, high = (costs.get(("one", MAIN_SIZE, count, peer)) for count in (FEW, MANY))
        return high / low if low and high else None

    what = f"CPU time per delivery, as a multiple of that at {FEW} receivers (at most the ceiling's)"
    target = Target(what, MANY, AT_MOST, growth(CEILING), growth(OURS))
    return target, [("one", MAIN_SIZE, count) for count in (FEW, MANY)]
