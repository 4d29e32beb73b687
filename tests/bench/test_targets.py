"""What the comparison must show: each demand, and what is enough for it."""

from __future__ import annotations

from typing import Any

import derive
import pytest
import tables
import targets
from derive import Corner

from tests.support.sample_result import EVERY, HERE, sample, set_rates, set_same_rate, skip, source


@pytest.fixture
def result() -> dict[str, Any]:
    return sample()


def found(result: dict[str, Any], what: str, receivers: int) -> list[targets.Target]:
    return [it for it in targets.check(result) if it.what == what and it.receivers == receivers]


def one(result: dict[str, Any], what: str, receivers: int) -> targets.Target:
    """Return the only target of this kind."""
    (target,) = found(result, what, receivers)
    return target


def test_there_are_57_targets_as_half_load_is_compared_in_two_ways() -> None:
    found = targets.check(sample())
    assert len(found) == 57
    assert len({(target.what, target.receivers, target.required) for target in found}) == 57


@pytest.mark.parametrize(
    ("corner", "key", "what", "least"),
    [
        (HERE, "redis", "64 bytes: times Redis", 7),
        (HERE, "nats", "64 bytes: times NATS", 7),
        (HERE, "zeromq", "64 bytes: times ZeroMQ", 4),
        (HERE, "asyncio", "64 bytes: times asyncio", 50),
        (HERE, "uvloop", "64 bytes: times uvloop", 50),
        (HERE, "threads", "64 bytes: times threads", 50),
        (Corner("one", 1, 64), "redis", "64 bytes: times Redis", 5),
        (Corner("one", 1, 64), "nats", "64 bytes: times NATS", 3),
        (Corner("one", 1000, 16), "redis", "16 bytes: times Redis", 10),
        (Corner("one", 10, 16), "nats", "16 bytes: times NATS", 8),
        (EVERY, "redis", "64 bytes, every client a sender: times Redis", 5),
        (EVERY, "nats", "64 bytes, every client a sender: times NATS", 5),
    ],
)
def test_throughput_target_asks_for_so_many_times_a_peer(
    result: dict[str, Any], corner: Corner, key: str, what: str, least: float
) -> None:
    for rate, met in ((least * 1.000001, True), (least * 0.999999, False)):
        set_rates(result, corner, "rankserver", [rate * 1e6] * 5)
        set_rates(result, corner, key, [1e6] * 5)
        target = one(result, what, corner.receivers)
        assert (target.required, target.met) == (least, met)


@pytest.mark.parametrize(
    ("limit", "met"), [(targets.AT_LEAST, True), (targets.AT_MOST, True), (targets.BELOW, False)]
)
def test_the_very_number_that_is_required(limit: str, met: bool) -> None:
    assert targets.Target("", "", 1, limit, 7.0, 7.0).met is met


@pytest.mark.parametrize(("size", "least"), [(64, 0.9), (1024, 0.95), (16_384, 0.95)])
def test_share_of_the_ceiling_is_required(result: dict[str, Any], size: int, least: float) -> None:
    corner = Corner("one", 1000, size)
    for share, met in ((least + 1e-6, True), (least - 1e-6, False)):
        set_rates(result, corner, "rankserver", [share * 1e6] * 5)
        set_rates(result, corner, "ceiling", [1e6] * 5)
        assert one(result, f"{size:,} bytes: of the ceiling", 1000).met is met


@pytest.mark.parametrize(
    ("what", "load", "quantile", "at_one"),
    [
        ("idle server, p50", "idle", "p50", True),
        ("idle server, p99", "idle", "p99", True),
        ("half load, each at half of its own rate, p99", "half", "p99", False),
    ],
)
def test_latency_equal_to_the_best_is_enough_when_idle_and_not_at_half_load(
    result: dict[str, Any], what: str, load: str, quantile: str, at_one: bool
) -> None:
    for key in derive.names(result):
        for entry in source(result, HERE, key)[load]["rounds"]:
            entry[quantile] = 80.0 if key in {"rankserver", "nats"} else 100.0
    target = one(result, what, 100)
    assert (target.value, target.met, target.peer) == (1.0, at_one, "NATS")
    for entry in source(result, HERE, "rankserver")[load]["rounds"]:
        entry[quantile] = 80.5
    assert one(result, what, 100).met is False


@pytest.mark.parametrize(
    ("what", "key", "good", "bad"),
    [
        ("joins, one after the other", "joins_per_second", 2000.0, 1999.0),
        ("memory of an idle client", "memory_per_client", 2048.0, 2049.0),
    ],
)
def test_membership_targets_hold_at_the_very_number(
    result: dict[str, Any], what: str, key: str, good: float, bad: float
) -> None:
    for value, met in ((good, True), (bad, False)):
        for entry in derive.membership(result, 10_000):
            entry[key] = value
        assert one(result, what, 10_000).met is met


def test_leaves_are_measured_against_two_seconds_and_the_ceilings_sends(result: dict[str, Any]) -> None:
    for half, single, met in ((2.0, 1.2, True), (2.1, 1.21, False)):
        for entry in derive.membership(result, 10_000):
            entry.update(leave={"1": single, "half": half}, ceiling_one=1.0)
        left = [target for target in targets.check(result) if "until all know" in target.what]
        assert [target.met for target in left] == [met, met]


def test_cost_may_grow_as_the_ceilings_does(result: dict[str, Any]) -> None:
    for key, cpu in (("rankserver", 4e-9), ("ceiling", 2e-9)):
        for receivers in (10, 5000):
            for burst in source(result, Corner("one", receivers, 64), key)["bursts"]:
                burst["sender_cpu"] = cpu * burst["deliveries"]
    (target,) = (target for target in targets.check(result) if target.group == targets.COST)
    assert (target.required, target.value, target.met) == (1.0, 1.0, True)
    for burst in source(result, Corner("one", 5000, 64), "rankserver")["bursts"]:
        burst["sender_cpu"] *= 1.01
    (target,) = (target for target in targets.check(result) if target.group == targets.COST)
    assert target.met is False


def test_nothing_measured_is_never_met() -> None:
    empty = sample() | {"points": [], "membership": []}
    found = targets.check(empty)
    assert len(found) == 57
    assert {target.met for target in found} == {None}


def test_what_a_skipped_peer_should_show_is_not_measured(result: dict[str, Any]) -> None:
    skip(result, "zeromq")
    target = one(result, "64 bytes: times ZeroMQ", 100)
    assert (target.met, target.value) == (None, None)
    assert one(result, "64 bytes: times NATS", 100).met is not None


def test_a_missing_latency_is_not_measured(result: dict[str, Any]) -> None:
    del source(result, HERE, "rankserver")["half"]
    assert one(result, "half load, each at half of its own rate, p99", 100).met is None


def test_at_the_same_rate_the_worst_ratio_to_any_peer_counts(result: dict[str, Any]) -> None:
    what = "half load of each peer, same rate, p99"
    set_same_rate(result, {"mosquitto": [0.5, 0.9, 2.0, 0.8, 0.7], "redis": [0.7] * 5})
    target = one(result, what, 100)
    assert target.value == pytest.approx(0.8)
    assert (target.peer, target.met) == ("Mosquitto", True)
    set_same_rate(result, {"redis": [1.1] * 5, "mosquitto": [0.9] * 5})
    target = one(result, what, 100)
    assert target.value == pytest.approx(1.1)
    assert (target.peer, target.met) == ("Redis", False)


def test_at_the_same_rate_no_measured_peer_may_be_missing(result: dict[str, Any]) -> None:
    what = "half load of each peer, same rate, p99"
    del source(result, HERE, "rankserver")["against"]["nats"]
    assert one(result, what, 100).met is None


@pytest.mark.parametrize("gone", [True, False], ids=["at once", "in a round"])
def test_at_the_same_rate_nothing_is_shown_without_a_peer_that_lost(
    result: dict[str, Any], gone: bool
) -> None:
    what = "half load of each peer, same rate, p99"
    lost = source(result, HERE, "nats")
    lost.update(lost="it ended")
    if gone:
        del lost["half"]
    assert one(result, what, 100).met is None
    set_same_rate(result, {"redis": [1.1] * 5})
    target = one(result, what, 100)
    assert (target.peer, target.met) == ("Redis", False), "another peer shows that it does not hold"


def test_the_rounds_of_a_peer_before_it_lost_something_prove_nothing(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [1e9] * 5)
    nats = source(result, HERE, "nats")
    for entry in nats["idle"]["rounds"]:
        entry["p99"] = 0.5
    assert one(result, "64 bytes: times NATS", 100).met is True
    assert one(result, "idle server, p99", 100).peer == "NATS"
    nats["lost"] = "stream 3 ended"
    target = one(result, "64 bytes: times NATS", 100)
    assert (target.value, target.met) == (None, None)
    assert one(result, "idle server, p99", 100).peer == "ZeroMQ"


def test_what_we_lost_ourselves_is_not_met(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [1e9] * 5)
    assert one(result, "64 bytes: times Redis", 100).met is True
    source(result, HERE, "rankserver")["lost"] = "the generator: a stream ended"
    assert one(result, "64 bytes: times Redis", 100).met is False
    assert "commands lost: **NOT MET**" in tables.target_tables(targets.check(result))
