"""A small synthetic result of a comparison, for tests of the tables, plots and targets."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from measurements import Measurements


class Corner(NamedTuple):
    """A point of the grid."""

    senders: str
    receivers: int
    size: int


HERE = Corner("one", 100, 64)
EVERY = Corner("every", 1_000, 64)

# The name of each peer, and its synthetic throughput in million deliveries per second.
PEERS = {
    "rankserver": ("rankserver", 88.0),
    "redis": ("Redis pub/sub", 10.1),
    "nats": ("NATS core", 11.4),
    "zeromq": ("ZeroMQ proxy", 18.0),
    "mosquitto": ("Mosquitto", 2.4),
    "asyncio": ("asyncio", 0.9),
    "uvloop": ("uvloop", 1.4),
    "threads": ("threads and a lock", 0.6),
    "ceiling": ("ceiling", 92.0),
}
RIVALS = [key for key in PEERS if key not in {"rankserver", "ceiling"}]
# The factor of each round.
NOISE = (1.0, 0.97, 1.04, 0.99, 1.02)
COMMANDS = 1_000


def sample() -> dict[str, Any]:
    """Return a result as a run collects it, in which all peers took part and lost nothing."""
    corners = [Corner("one", count, 64) for count in (1, 10, 100, 1_000, 5_000)]
    corners += [Corner("one", 1_000, size) for size in (16, 1_024)]
    return {
        "date": "2026-01-02",
        "seconds": 1_834.0,
        "command": "python benchmarks/compare.py",
        "commit": "0123456789ab",
        "machine": {"cpu": "A processor", "congestion_control": "cubic", "compiler": None},
        "peers": [_peer(key, name) for key, (name, _) in PEERS.items()],
        "rounds": len(NOISE),
        "points": [_point(corner) for corner in (*corners, EVERY)],
        "membership": [{"clients": count, "rounds": list(map(_members, NOISE))} for count in (1_000, 10_000)],
    }


def measured(result: dict[str, Any]) -> Measurements:
    """Return the measurements of a result as they are read from a file."""
    return Measurements.parse(Measurements.of_run(result).dump())


def _peer(key: str, name: str) -> dict[str, Any]:
    settings = {"version": "1.2", "settings": "nothing is saved", "install": f"apt-get install {key}"}
    return {"key": key, "name": name, "skipped": None} | settings


def _point(corner: Corner) -> dict[str, Any]:
    sources = {key: _source(rate * 1e6, corner) for key, (_, rate) in PEERS.items()}
    if corner == HERE:
        for it in sources.values():
            it |= {load: _paced(100.0) for load in ("idle", "half")}
        sources["rankserver"]["against"] = {key: _paced(40.0) for key in RIVALS}
    return corner._asdict() | {"sources": sources}


def _source(rate: float, corner: Corner) -> dict[str, Any]:
    deliveries = COMMANDS * corner.receivers
    burst = {
        "commands": COMMANDS,
        "deliveries": deliveries,
        "generator_cpu": 0.0,
        "sender_cpu": deliveries / rate,
        "peak_memory": 12_000_000,
        "same_order": True,
    }
    bursts = [burst | {"seconds": deliveries / rate / noise} for noise in NOISE]
    return {"bursts": bursts, "join_seconds": 0.1, "idle_memory": 7_007_000, "lost": None}


def _paced(middle: float) -> dict[str, Any]:
    phase = {"rate": 100, "commands": 200, "seconds": 2.0, "late": 21.5}
    quantiles = [{"p50": middle * it, "p99": middle * it * 2, "p999": middle * it * 3} for it in NOISE]
    return {"rate": 100, "rounds": [phase | it for it in quantiles]}


def _members(noise: float) -> dict[str, Any]:
    leave = {"1": 0.0011, "100": 0.0014, "half": 0.2}
    once = {"ceiling_one": 0.001, "idle_cpu_per_second": 0.0, "leave": leave}
    return {"joins_per_second": 6_500.0 * noise, "memory_per_client": 1_250.0} | copy.deepcopy(once)


# --- queries and changes ----------------------------------------------------------------------


def source(result: dict[str, Any], corner: Corner, key: str) -> dict[str, Any]:
    """Return the measurements of a peer at a corner."""
    where = corner._asdict().items()
    (found,) = (it["sources"][key] for it in result["points"] if where <= it.items())
    assert isinstance(found, dict)
    return found


def skip(result: dict[str, Any], key: str) -> None:
    """Change the result to one without this peer, as if it was not installed."""
    for peer in result["peers"]:
        if peer["key"] == key:
            peer.update(version=None, skipped="not installed")
    for point in result["points"]:
        point["sources"].pop(key)
        point["sources"]["rankserver"].get("against", {}).pop(key, None)


def set_rates(result: dict[str, Any], corner: Corner, key: str, rates: list[float]) -> None:
    """Give a peer these deliveries per second in its rounds."""
    it = source(result, corner, key)
    pairs = zip(it["bursts"], rates, strict=False)
    it["bursts"] = [burst | {"seconds": burst["deliveries"] / rate} for burst, rate in pairs]


def set_latency(paced: dict[str, Any], **quantiles: float) -> None:
    """Give all rounds of a paced phase these latencies, in microseconds."""
    for phase in paced["rounds"]:
        phase.update(quantiles)


def set_same_rate(result: dict[str, Any], ratios: dict[str, float]) -> None:
    """Set the ratios of our p99 to those of these peers at their half load, and 0.1 to all others."""
    for key, ours in source(result, HERE, "rankserver")["against"].items():
        half = source(result, HERE, key).get("half", {"rounds": []})
        for mine, other in zip(ours["rounds"], half["rounds"], strict=False):
            mine["p99"] = ratios.get(key, 0.1) * other["p99"]
