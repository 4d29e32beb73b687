"""What the comparison must show, as data, and whether a result shows it.

Whatever was not measured is never met: a peer that is not installed, or that lost what it should have
delivered, proves nothing. A corner where this server itself lost something is not met, however fast it was.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import derive
from derive import CEILING, OURS, Corner, Result, Spread
from plan import MAIN_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

USUAL: Final = (10, 100, 1000)  # receivers, where nothing else is said; their commands have MAIN_SIZE
FEW: Final = 10  # receivers, and
MANY: Final = 5_000  # between which the cost of a delivery may grow as the ceiling's does
CLIENTS: Final = 10_000  # of the membership targets
MIN_JOINS: Final = 2_000  # per second, one after the other
MAX_MEMORY: Final = 2_048  # bytes of an idle client
MAX_HALF: Final = 2.0  # seconds until all know their ranks, after half of them left at once
MAX_ONE: Final = 1.2  # times what the ceiling needs for one small send to each, after one left

THROUGHPUT: Final = "Throughput"
LATENCY: Final = "Latency to the last receiver"
MEMBERSHIP: Final = "Membership"
COST: Final = "Cost growth"
SAME_RATE: Final = "same rate"
EVERY: Final = ", every client a sender"

AT_LEAST: Final = "at least"
AT_MOST: Final = "at most"
BELOW: Final = "below"
HOLDS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    AT_LEAST: operator.ge,
    AT_MOST: operator.le,
    BELOW: operator.lt,
}


@dataclass(frozen=True)
class Faster:
    """At each of these numbers of receivers, at least so many times the throughput of each of these peers."""

    size: int
    receivers: tuple[int, ...]
    least: Mapping[str, float]
    senders: str = "one"


@dataclass(frozen=True)
class Quicker:
    """At each of these numbers of receivers, a latency below, or at most, that of the best peer.

    With the load ``SAME_RATE``, that of each peer, at the rate that is half load of that peer.
    """

    what: str
    load: str
    quantile: str
    limit: str
    receivers: tuple[int, ...] = USUAL


SLOW: Final[Mapping[str, float]] = {"asyncio": 50, "uvloop": 50, "threads": 50}  # uvloop is asyncio, too
FASTER: Final = (
    Faster(MAIN_SIZE, USUAL, {"redis": 7, "nats": 7, "zeromq": 4, **SLOW, CEILING: 0.9}),
    Faster(MAIN_SIZE, (1,), {"redis": 5, "nats": 3}),
    Faster(16, USUAL, {"redis": 10, "nats": 8}),
    Faster(1024, USUAL, {"redis": 1.2, CEILING: 0.95}),
    Faster(16_384, USUAL, {CEILING: 0.95}),
    Faster(MAIN_SIZE, (1000,), {"redis": 5, "nats": 5}, senders="every"),
)
QUICKER: Final = (
    Quicker("idle server, p50", "idle", "p50", AT_MOST),
    Quicker("idle server, p99", "idle", "p99", AT_MOST),
    Quicker("half load of each peer, same rate, p99", SAME_RATE, "p99", BELOW),
    Quicker("half load, each at half of its own rate, p99", "half", "p99", BELOW),
)


@dataclass(frozen=True)
class Target:
    """One demand, and what was measured."""

    group: str
    what: str
    receivers: int  # or clients
    limit: str  # AT_LEAST, AT_MOST or BELOW
    required: float | None  # None: it was to be measured, and was not
    value: float | None
    unit: str = ""
    peer: str = ""  # the peer that the value is a ratio to, where ``what`` does not say it
    lost: bool = False  # this server lost something where it was measured

    @property
    def met(self) -> bool | None:
        """Whether it is met; None if it was not measured."""
        if self.lost:
            return False
        if self.value is None or self.required is None:
            return None
        return HOLDS[self.limit](self.value, self.required)


def check(result: Result) -> list[Target]:
    """Return all targets, in the order in which they are shown."""
    found = [target for rule in FASTER for target in _faster(result, rule)]
    found += [target for rule in QUICKER for target in _quicker(result, rule)]
    return [*found, *_membership(derive.membership(result, CLIENTS)), _growth(result)]


# --- each kind --------------------------------------------------------------------------------


def _faster(result: Result, rule: Faster) -> list[Target]:
    found = []
    for key, least in rule.least.items():
        what = f"{rule.size:,} bytes{EVERY if rule.senders == 'every' else ''}: {_than(key)}"
        for count in rule.receivers:
            corner = Corner(rule.senders, count, rule.size)
            ratio = None if _lost(result, corner, key) else derive.faster(result, corner, key)
            lost = _lost(result, corner, OURS)
            found.append(Target(THROUGHPUT, what, count, AT_LEAST, least, _median(ratio), lost=lost))
    return found


def _quicker(result: Result, rule: Quicker) -> list[Target]:
    found = []
    for count in rule.receivers:
        corner = Corner("one", count, MAIN_SIZE)
        compared = _to_worst if rule.load == SAME_RATE else _to_best
        value, peer = compared(result, corner, rule)
        lost = _lost(result, corner, OURS)
        found.append(Target(LATENCY, rule.what, count, rule.limit, 1.0, value, peer=peer, lost=lost))
    return found


def _to_best(result: Result, corner: Corner, rule: Quicker) -> tuple[float | None, str]:
    """Return our latency as a ratio to that of the best peer, and which that is."""
    best = derive.best_latency(result, corner, rule.load, rule.quantile)
    if best is None:
        return None, ""
    pair = (derive.source(result, corner, key) for key in (OURS, best))
    ours, theirs = (derive.latency(measured, rule.load, rule.quantile) for measured in pair)
    return _median(Spread.of(derive.ratios(ours, theirs))), derive.short(best)


def _to_worst(result: Result, corner: Corner, rule: Quicker) -> tuple[float | None, str]:
    """Return the largest of our ratios to all peers, each at its half load, and to whom it is.

    Where one of them is not known, the others may show that the demand does not hold, but not that it does.
    """
    ratios = derive.same_rate(result, corner, rule.quantile)
    known = {key: it.median for key, it in ratios.items() if it and not _lost(result, corner, key)}
    worst = max(known, key=lambda key: known[key], default=None)
    if worst is None or (len(known) < len(ratios) and HOLDS[rule.limit](known[worst], 1.0)):
        return None, ""
    return known[worst], derive.short(worst)


def _membership(rounds: Sequence[dict[str, Any]]) -> list[Target]:
    def target(what: str, limit: str, required: float, values: Sequence[float], unit: str) -> Target:
        return Target(MEMBERSHIP, what, CLIENTS, limit, required, _median(Spread.of(values)), unit)

    joins, memory = (derive.each(rounds, key) for key in ("joins_per_second", "memory_per_client"))
    one = "one leaves: until all know, as a multiple of the ceiling's one small send to each"
    return [
        target("joins, one after the other", AT_LEAST, MIN_JOINS, joins, "per s"),
        target("memory of an idle client", AT_MOST, MAX_MEMORY, memory, "bytes"),
        target("half of them leave: until all know", AT_MOST, MAX_HALF, derive.leaves(rounds, "half"), "s"),
        target(one, AT_MOST, MAX_ONE, derive.leave_ratios(rounds), ""),
    ]


def _growth(result: Result) -> Target:
    """Return a ratio of medians: rounds at different numbers of receivers are no pairs."""
    ours, ceiling = (derive.growth(result, key, MAIN_SIZE, FEW, MANY) for key in (OURS, CEILING))
    lost = any(_lost(result, Corner("one", count, MAIN_SIZE), OURS) for count in (FEW, MANY))
    what = f"CPU time per delivery, as a multiple of that at {FEW} receivers (at most the ceiling's)"
    return Target(COST, what, MANY, AT_MOST, ceiling, ours, lost=lost)


def _than(key: str) -> str:
    return "of the ceiling" if key == CEILING else f"times {derive.short(key)}"


def _lost(result: Result, corner: Corner, key: str) -> bool:
    measured = derive.source(result, corner, key)
    return bool(measured and measured["lost"])


def _median(spread: Spread | None) -> float | None:
    return spread.median if spread else None
