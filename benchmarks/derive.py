"""What follows from the raw rounds of a result: rates, costs, latencies, their spread, ratios pair by pair.

All functions are pure, and return None or nothing for what was not measured. What is required of the numbers
is in ``targets``; how they are shown is in ``tables`` and ``plots``.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OURS: Final = "rankserver"
CEILING: Final = "ceiling"
LOADS: Final = ("idle", "half")  # at which latency is measured
MILLION: Final = 1e6
SHORT: Final = {  # names where there is little room
    OURS: "rankserver",
    "redis": "Redis",
    "nats": "NATS",
    "zeromq": "ZeroMQ",
    "mosquitto": "Mosquitto",
    "asyncio": "asyncio",
    "uvloop": "uvloop",
    "threads": "threads",
    CEILING: "ceiling",
}

Result = dict[str, Any]  # what compare.py measured: JSON
Source = dict[str, Any]  # what it measured of one peer at one corner


class Corner(NamedTuple):
    """A place in the grid."""

    senders: str  # "one" or "every"
    receivers: int
    size: int  # bytes of a command


class Spread(NamedTuple):
    """The median of several rounds, and how far they are apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of the values, None if there are none."""
        return cls(median(values), min(values), max(values)) if values else None

    def scaled(self, factor: float) -> Spread:
        """Return the same in another unit."""
        return Spread(*(factor * value for value in self))


# --- what there is ----------------------------------------------------------------------------


def names(result: Result) -> dict[str, str]:
    """Return the name of each peer by its key, in the order in which they are shown; not of skipped ones."""
    return {peer["key"]: peer["name"] for peer in result["peers"] if not peer["skipped"]}


def short(key: str) -> str:
    """Return the short name of a peer."""
    return SHORT.get(key, key)


def corners(result: Result, senders: str) -> list[Corner]:
    """Return the measured corners, the smallest size and the fewest receivers first."""
    found = [Corner(point["senders"], point["receivers"], point["size"]) for point in result["points"]]
    chosen = {corner for corner in found if corner.senders == senders}
    return sorted(chosen, key=lambda corner: (corner.size, corner.receivers))


def sizes(result: Result) -> list[int]:
    """Return the sizes that were measured with one sender."""
    return sorted({corner.size for corner in corners(result, "one")})


def receivers(result: Result, size: int) -> list[int]:
    """Return the numbers of receivers that were measured with one sender at this size."""
    return [corner.receivers for corner in corners(result, "one") if corner.size == size]


def source(result: Result, corner: Corner, key: str) -> Source | None:
    """Return what was measured of a peer at a corner."""
    for point in result["points"]:
        if Corner(point["senders"], point["receivers"], point["size"]) == corner:
            found: Source | None = point["sources"].get(key)
            return found
    return None


def sources(result: Result, corner: Corner) -> dict[str, Source]:
    """Return what was measured at a corner, by peer, in the order in which they are shown."""
    found = {key: source(result, corner, key) for key in names(result)}
    return {key: measured for key, measured in found.items() if measured is not None}


# --- one peer at one corner: a value for each round ---------------------------------------------


def throughput(measured: Source | None) -> list[float]:
    """Return the deliveries per second."""
    return [burst["deliveries"] / burst["seconds"] for burst in _bursts(measured)]


def generator(measured: Source | None) -> list[float]:
    """Return the part of the time for which the generator was busy; looking for what is not there is not."""
    return [burst["generator_cpu"] / burst["seconds"] for burst in _bursts(measured)]


def cpu(measured: Source | None) -> list[float]:
    """Return the server's CPU seconds per delivery; none where the clock of the kernel saw none."""
    return [
        burst["sender_cpu"] / burst["deliveries"] for burst in _bursts(measured) if burst["sender_cpu"] > 0
    ]


def memory(measured: Source | None) -> list[float]:
    """Return the server's peak memory in a burst, in bytes; none where it is not known."""
    return [burst["peak_memory"] for burst in _bursts(measured) if burst["peak_memory"] > 0]


def memory_per_delivery(measured: Source | None) -> list[float]:
    """Return the same per delivery."""
    known = (burst for burst in _bursts(measured) if burst["peak_memory"] > 0)
    return [burst["peak_memory"] / burst["deliveries"] for burst in known]


def stream_bytes(measured: Source | None) -> list[float]:
    """Return the bytes that a receiver got for each command: what surrounds its text is included."""
    return [burst["stream_bytes"] / burst["commands"] for burst in _bursts(measured)]


def seconds(measured: Source | None) -> list[float]:
    """Return how long a burst took until the last receiver had all of it."""
    return [burst["seconds"] for burst in _bursts(measured)]


def latency(measured: Source | None, load: str, quantile: str) -> list[float]:
    """Return a quantile (``p50``, ``p99`` or ``p999``) of the latency to the last receiver, in seconds."""
    paced = (measured or {}).get(load)
    return [phase[quantile] / MILLION for phase in paced["rounds"]] if paced else []


def latency_beside(result: Result, corner: Corner, key: str, quantile: str) -> list[float]:
    """Return a quantile of our own latency at the rate that is half load of a peer, in seconds."""
    return latency((source(result, corner, OURS) or {}).get("against"), key, quantile)


def idle_commands(result: Result, corner: Corner) -> list[int]:
    """Return how many commands the idle rounds of all peers at a corner had."""
    idle = [it["idle"] for it in sources(result, corner).values() if it.get("idle")]
    return [phase["commands"] for paced in idle for phase in paced["rounds"]]


def achieved(paced: dict[str, Any]) -> float:
    """Return which part of the commands/s that were asked for there were: the median of the rounds."""
    shares = [phase["commands"] / phase["seconds"] / phase["rate"] for phase in paced["rounds"]]
    return float(median(shares))


def late(result: Result, corner: Corner) -> float:
    """Return how late the generator sent a command at a corner, at most, in seconds."""
    found = sources(result, corner).values()
    paced = [it[load] for it in found for load in LOADS if it.get(load)]
    paced += [against for it in found for against in it.get("against", {}).values()]
    worst: float = max((phase["late"] for one in paced for phase in one["rounds"]), default=0.0)
    return worst / MILLION


def has_latency(result: Result, corner: Corner) -> bool:
    """Tell whether the latency of any peer was measured at a corner."""
    return any(measured.get(load) for measured in sources(result, corner).values() for load in LOADS)


def connections(corner: Corner) -> int:
    """Return how many clients were connected at a corner with one sender."""
    return corner.receivers + 1


def _bursts(measured: Source | None) -> list[dict[str, Any]]:
    return measured["bursts"] if measured else []


# --- two peers, or many -----------------------------------------------------------------------


def ratios(ours: Sequence[float], theirs: Iterable[float]) -> list[float]:
    """Return ours/theirs of each round that both were in, which are as near in time as can be."""
    return [mine / other for mine, other in zip(ours, theirs, strict=False) if other > 0]


def faster(result: Result, corner: Corner, key: str) -> Spread | None:
    """Return how many times the deliveries per second of a peer ours are."""
    ours, theirs = (source(result, corner, which) for which in (OURS, key))
    return Spread.of(ratios(throughput(ours), throughput(theirs)))


def best_latency(result: Result, corner: Corner, load: str, quantile: str) -> str | None:
    """Return the peer with the lowest median.

    It is neither we, nor the ceiling, which nobody could use, nor one that lost something.
    """
    peers = ((key, it) for key, it in sources(result, corner).items() if key not in {OURS, CEILING})
    found = {
        key: median(values)
        for key, measured in peers
        if not measured["lost"] and (values := latency(measured, load, quantile))
    }
    return min(found, key=lambda key: found[key]) if found else None


def same_rate(result: Result, corner: Corner, quantile: str) -> dict[str, Spread | None]:
    """Return our latency as a ratio to that of each peer, both at half load of that peer, None if unknown."""
    ours = source(result, corner, OURS)
    if not ours or "against" not in ours:
        return {}
    peers = ((key, it) for key, it in sources(result, corner).items() if key not in {OURS, CEILING})
    return {
        key: Spread.of(ratios(latency_beside(result, corner, key, quantile), latency(it, "half", quantile)))
        for key, it in peers
    }


def growth(result: Result, key: str, size: int, few: int, many: int) -> float | None:
    """Return the CPU time per delivery at many receivers, divided by that at few."""
    low, high = (Spread.of(cpu(source(result, Corner("one", count, size), key))) for count in (few, many))
    return high.median / low.median if low and high else None


# --- membership -------------------------------------------------------------------------------


def membership(result: Result, clients: int) -> list[dict[str, Any]]:
    """Return the rounds with so many clients."""
    found = [point["rounds"] for point in result["membership"] if point["clients"] == clients]
    return [entry for rounds in found for entry in rounds]


def each(rounds: Sequence[dict[str, Any]], key: str) -> list[float]:
    """Return one value of each round that has it."""
    return [entry[key] for entry in rounds if key in entry]


def leaves(rounds: Sequence[dict[str, Any]], which: str) -> list[float]:
    """Return the seconds until the last survivor knew, after ``1``, ``100`` or ``half`` of all left."""
    return [entry["leave"][which] for entry in rounds if which in entry["leave"]]


def leave_ratios(rounds: Sequence[dict[str, Any]]) -> list[float]:
    """Return the time of a single leave, as ratios to what the ceiling needs for one small send to each."""
    both = [entry for entry in rounds if "1" in entry["leave"] and "ceiling_one" in entry]
    return ratios(leaves(both, "1"), [entry["ceiling_one"] for entry in both])
