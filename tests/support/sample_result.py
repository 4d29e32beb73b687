"""A small result of a comparison, made up by rule, for the tests of what is made of one."""

from __future__ import annotations

import math
from typing import Any

import derive
from derive import Corner

HERE = Corner("one", 100, 64)
EVERY = Corner("every", 1000, 64)
PEERS = {  # name and version, and million deliveries/s that it would make at many receivers
    "rankserver": ("rankserver", "1.0.0", 88.0),
    "redis": ("Redis pub/sub", "7.0.15", 10.1),
    "nats": ("NATS core", "2.9.10", 11.4),
    "zeromq": ("ZeroMQ proxy", "26.2.0 (libzmq 4.3.5)", 18.0),
    "mosquitto": ("Mosquitto", "2.0.11", 2.4),
    "asyncio": ("asyncio", "3.11.7", 0.9),
    "uvloop": ("uvloop", "0.21.0", 1.4),
    "threads": ("threads and a lock", "3.11.7", 0.6),
    "ceiling": ("ceiling", "1.0.0", 92.0),
}
MOST = {"threads": 1000}
ROUNDS = 5
NOISE = (1.0, 0.97, 1.04, 0.99, 1.02)  # by round


def sample(
    receivers: tuple[int, ...] = (1, 10, 100, 1000, 5000), sizes: tuple[int, ...] = (16, 64, 1024, 16_384)
) -> dict[str, Any]:
    """Return a result in which all peers took part and lost nothing."""
    return {
        "format": 1,
        "date": "2026-01-02",
        "seconds": 1834.0,
        "command": "python benchmarks/compare.py",
        "commit": "0123456789ab",
        "resumed": False,
        "machine": {
            "cpu": "A processor",
            "cpus": 2,
            "memory_gib": 23.4,
            "kernel": "6.1.0",
            "congestion_control": "cubic",
            "python": "3.11.7",
            "compiler": "gcc 12.2.0",
            "server_cpu": 0,
            "generator_cpu": 1,
        },
        "peers": [_peer(key) for key in PEERS],
        "rounds": ROUNDS,
        "points": [
            *(point("one", count, size) for size in sizes for count in receivers),
            *(point("every", count, 64) for count in (100, 1000)),
        ],
        "membership": [_membership(count) for count in (100, 1000, 10_000)],
    }


def _peer(key: str) -> dict[str, Any]:
    name, version, _ = PEERS[key]
    settings = "nothing saved; output limits lifted, as one burst is larger than they are"
    install = f"apt-get install {key}"
    return {
        "key": key,
        "name": name,
        "version": version,
        "settings": settings,
        "install": install,
        "skipped": None,
    }


def skip(result: dict[str, Any], key: str) -> None:
    """Make the result one for which a peer was not installed."""
    for peer in result["peers"]:
        if peer["key"] == key:
            peer.update(version=None, skipped="not installed")
    for entry in result["points"]:
        entry["sources"].pop(key)
        entry["sources"]["rankserver"].get("against", {}).pop(key, None)


def point(senders: str, receivers: int, size: int) -> dict[str, Any]:
    """Return a point of the grid with all peers that can have so many connections."""
    keys = [key for key in PEERS if receivers <= MOST.get(key, receivers)]
    if senders == "every":
        keys.remove("ceiling")
    sources = {key: _measured(key, senders, receivers, size) for key in keys}
    if size == 64 and senders == "one":
        sources["rankserver"]["against"] = {
            key: _against(sources[key]["half"]["rate"], receivers)
            for key in keys
            if key not in {"rankserver", "ceiling"}
        }
    return {"senders": senders, "receivers": receivers, "size": size, "sources": sources}


def _against(rate: int, receivers: int) -> dict[str, Any]:
    """Return what was measured of rankserver at half load of a peer."""
    return {"rate": rate, "rounds": [_pace(rate, 40 + receivers / 88 * it) for it in NOISE]}


def _measured(key: str, senders: str, receivers: int, size: int) -> dict[str, Any]:
    """Return what was measured of a peer; the latency at 64 bytes only, and with one sender."""
    rate = rate_of(key, receivers, size)
    commands = 20_000 if rate > 5e6 else 2_000
    found: dict[str, Any] = {
        "commands": commands,
        "bursts": [burst(commands, receivers, size, rate * noise) for noise in NOISE],
        "join_seconds": (receivers + 1) / rate_of(key, 100, 64) * 4000,
        "idle_memory": (receivers + 1) * 7_000,
        "lost": None,
    }
    if size == 64 and senders == "one":
        half = min(200_000, int(rate / receivers / 2))
        found["idle"] = {
            "rate": 100,
            "rounds": [_pace(100, 30 + receivers / rate * 1.5e6 * it) for it in NOISE],
        }
        found["half"] = {
            "rate": half,
            "rounds": [_pace(half, 90 + receivers / rate * 4e6 * it) for it in NOISE],
        }
    if key == "ceiling":
        found["chunk"] = 261_932
    return found


def rate_of(key: str, receivers: int, size: int) -> float:
    """Return the deliveries per second of a peer in a round without noise."""
    most = PEERS[key][2] * 1e6 * receivers / (receivers + 4)
    return 1 / (1 / most + size / 6e9)


def burst(commands: int, receivers: int, size: int, rate: float) -> dict[str, Any]:
    """Return a burst in which so many deliveries per second were made."""
    deliveries = commands * receivers
    return {
        "commands": commands,
        "streams": receivers,
        "deliveries": deliveries,
        "seconds": deliveries / rate,
        "stream_bytes": commands * size,
        "generator_cpu": deliveries / rate * 0.8,
        "sender_cpu": deliveries / rate * 0.95,
        "peak_memory": int(12e6 + 300 * deliveries**0.5),
        "same_order": True,
    }


def _pace(rate: int, middle: float) -> dict[str, Any]:
    quantiles = {"p50": middle, "p99": middle * 2.2, "p999": middle * 3, "max": middle * 4}
    times = {"seconds": 2.0, "generator_cpu": 0.1, "sender_cpu": 0.1, "late": 21.5}
    return {"commands": rate * 2, "streams": 1, "rate": rate, "peak_memory": 12_000_000, **quantiles, **times}


def _membership(clients: int) -> dict[str, Any]:
    one = 20e-6 + clients * 0.9e-6
    rounds = [
        {
            "joins_per_second": 6500.0 * noise / (1 + math.log10(clients) / 20),
            "memory_per_client": 1250.0 + 10 * noise,
            "leave": {"1": one * 1.1 * noise, "half": clients * 20e-6 * noise}
            | ({"100": one * 1.4 * noise} if clients > 100 else {}),
            "ceiling_one": one * noise,
            "join_cpu": clients / 9000,
            "idle_cpu_per_second": 0.0,
        }
        for noise in NOISE
    ]
    return {"clients": clients, "rounds": rounds}


# --- looking into it and changing it ----------------------------------------------------------


def source(result: dict[str, Any], corner: Corner, key: str) -> dict[str, Any]:
    """Return what was measured of a peer at a corner."""
    found = derive.source(result, corner, key)
    assert found is not None
    return found


def set_rates(result: dict[str, Any], corner: Corner, key: str, rates: list[float]) -> None:
    """Give a peer these deliveries per second in its rounds."""
    found = source(result, corner, key)
    found["bursts"] = [
        {**burst, "seconds": burst["deliveries"] / rate, "generator_cpu": 0.8 * burst["deliveries"] / rate}
        for burst, rate in zip(found["bursts"], rates, strict=False)
    ]


def set_same_rate(result: dict[str, Any], ratios: dict[str, list[float]]) -> None:
    """Give our p99 these ratios to each of these peers at its half load, and a small one to all others."""
    for key, ours in source(result, HERE, "rankserver")["against"].items():
        half = source(result, HERE, key).get("half", {"rounds": []})  # it has none if it was lost before
        pairs = zip(ours["rounds"], half["rounds"], strict=False)
        for (entry, other), ratio in zip(pairs, ratios.get(key, [0.1] * 5), strict=False):
            entry["p99"] = ratio * other["p99"]
