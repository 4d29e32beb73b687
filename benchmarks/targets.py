"""The targets of the comparison as data, and whether they are met.

A target that was not measured is never met, and neither is one for which this server lost something. A peer
that lost something proves nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
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

# Between these numbers of receivers, the CPU time per delivery may grow by the same factor as the ceiling's.
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


class Throughput(NamedTuple):
    """Requires a multiple of the throughput of each of these peers, at each number of receivers."""

    size: int
    receivers: tuple[int, ...]
    required: Mapping[str, float]
    senders: str = "one"


class Latency(NamedTuple):
    """Requires at most the latency of the best peer under a load, or of each peer for the load ``same``."""

    what: str
    load: str
    quantile: str
    limit: str


THROUGHPUT: Final = (
    Throughput(MAIN_SIZE, USUAL, {"redis": 7, "nats": 7, "zeromq": 4, CEILING: 0.9}),
    Throughput(MAIN_SIZE, USUAL, {"asyncio": 50, "uvloop": 50, "threads": 50}),
    Throughput(MAIN_SIZE, (1,), {"redis": 5, "nats": 3}),
    Throughput(16, USUAL, {"redis": 10, "nats": 8}),
    Throughput(1_024, USUAL, {"redis": 1.2, CEILING: 0.95}),
    Throughput(16_384, USUAL, {CEILING: 0.95}),
    Throughput(MAIN_SIZE, (1_000,), {"redis": 5, "nats": 5}, "every"),
)
LATENCY: Final = (
    Latency("latency on an idle server, p50", "idle", "p50", AT_MOST),
    Latency("latency on an idle server, p99", "idle", "p99", AT_MOST),
    Latency("latency at half load of each peer, same rate, p99", "same", "p99", BELOW),
    Latency("latency at half load, each at half of its own rate, p99", "half", "p99", BELOW),
)
MEMBERSHIP: Final = (
    ("joins per second, one after the other", "joins_per_second", AT_LEAST, MIN_JOINS),
    ("bytes of memory of an idle client", "memory_per_client", AT_MOST, MAX_MEMORY),
    ("seconds until all know that half of them left", "half_leave", AT_MOST, MAX_HALF),
    (
        "time until all know that one left, in small sends of the ceiling",
        "one_leaves_in_sends",
        AT_MOST,
        MAX_ONE,
    ),
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
    found = [*_throughput(measured), *_latency(measured), *_membership(measured), _growth(measured)]
    lost = measured.starts[measured.starts.lost.notna() & (measured.starts.peer == OURS)]
    places = set(zip(lost.senders, lost["size"], lost.receivers, strict=True))
    return [target._replace(lost=not places.isdisjoint(where)) for target, where in found]


# The senders, size and receivers of the points that a target depends on.
Where = list[tuple[str, int, int]]


def _throughput(measured: Measurements) -> Iterator[tuple[Target, Where]]:
    multiples = _medians(measured, measured.faster())
    for rule in THROUGHPUT:
        everyone = ", every client a sender" if rule.senders == "every" else ""
        for peer, required in rule.required.items():
            what = f"throughput, {rule.size:,} bytes{everyone}: multiple of {peer}"
            for count in rule.receivers:
                where = (rule.senders, rule.size, count)
                yield Target(what, count, AT_LEAST, required, multiples.get((*where, peer))), [where]


def _latency(measured: Measurements) -> Iterator[tuple[Target, Where]]:
    """Return our ratio to the best peer; for the load ``same``, our worst ratio to any peer.

    For ``same``, if a peer is missing, the others can show that the target is not met, but not that it is.
    """
    started = measured.starts.set_index(PLACE).lost
    for rule in LATENCY:
        ratios = _medians(measured, measured.slower(rule.load, rule.quantile))
        latencies = _medians(measured, measured.pace(rule.load, rule.quantile))
        for count in USUAL:
            known, at = _rivals(ratios, count), _rivals(latencies, count)
            nothing = Target(rule.what, count, rule.limit, 1.0, None)
            target = nothing
            if len(known):
                peer = known.idxmax() if rule.load == "same" else at[known.index].idxmin()
                target = nothing._replace(value=known[peer], peer=peer)
            if rule.load == "same" and len(known) < len(_rivals(started, count)) and target.met:
                target = nothing
            yield target, [("one", MAIN_SIZE, count)]


def _membership(measured: Measurements) -> Iterator[tuple[Target, Where]]:
    rounds = measured.members.groupby("clients")
    for what, name, limit, required in MEMBERSHIP:
        yield Target(what, CLIENTS, limit, required, rounds[name].median().get(CLIENTS)), []


def _growth(measured: Measurements) -> tuple[Target, Where]:
    """Return a ratio of medians, because rounds at different numbers of receivers are not paired."""
    costs = _medians(measured, measured.burst("cpu"))

    def growth(peer: str) -> float | None:
        low, high = (costs.get(("one", MAIN_SIZE, count, peer)) for count in (FEW, MANY))
        return high / low if low and high else None

    what = f"CPU time per delivery, as a multiple of that at {FEW} receivers (at most the ceiling's)"
    target = Target(what, MANY, AT_MOST, growth(CEILING), growth(OURS))
    return target, [("one", MAIN_SIZE, count) for count in (FEW, MANY)]


def _medians(measured: Measurements, values: pd.Series[Any]) -> pd.Series[Any]:
    """Return the medians of rounds by place, leaving out peers that lost something there."""
    lost = measured.starts[measured.starts.lost.notna() & (measured.starts.peer != OURS)]
    medians = values.groupby(PLACE).median().dropna()
    return medians[~medians.index.isin(pd.MultiIndex.from_frame(lost[PLACE]))]


def _rivals(values: pd.Series[Any], receivers: int) -> pd.Series[Any]:
    """Return the values of all peers except this server and the ceiling, for one sender and the main size."""
    here = values.index.droplevel("peer").isin([("one", MAIN_SIZE, receivers)])
    return values[here].droplevel(PLACE[:-1]).drop([OURS, CEILING], errors="ignore")
