"""The targets of the comparison, and the values that meet them."""

from __future__ import annotations

from typing import Any

import pytest
import targets
from targets import Target

from tests.support.sample_result import (
    EVERY,
    HERE,
    PEERS,
    Corner,
    measured,
    sample,
    set_latency,
    set_rates,
    set_same_rate,
    skip,
    source,
)

SAME_RATE = "latency at half load of each peer, same rate, p99"


@pytest.fixture
def result() -> dict[str, Any]:
    return sample()


def one(result: dict[str, Any], what: str, place: int) -> Target:
    """Return the only target with this name and place."""
    (target,) = (it for it in targets.check(measured(result)) if (it.what, it.place) == (what, place))
    return target


def test_there_are_57_targets_and_no_two_are_the_same() -> None:
    found = targets.check(measured(sample()))
    assert len(found) == 57
    assert len({(target.what, target.place, target.required) for target in found}) == 57


@pytest.mark.parametrize(
    ("corner", "key", "required"),
    [
        (HERE, "redis", 7),
        (HERE, "zeromq", 4),
        (HERE, "threads", 50),
        (HERE, "ceiling", 0.9),
        (Corner("one", 1, 64), "nats", 3),
        (Corner("one", 1_000, 16), "redis", 10),
        (Corner("one", 1_000, 1_024), "ceiling", 0.95),
        (EVERY, "nats", 5),
    ],
)
def test_throughput_is_compared_with_that_of_a_peer(
    result: dict[str, Any], corner: Corner, key: str, required: float
) -> None:
    everyone = ", every client a sender" if corner.senders == "every" else ""
    what = f"throughput, {corner.size:,} bytes{everyone}: multiple of {key}"
    for multiple, met in ((required + 1e-6, True), (required - 1e-6, False)):
        set_rates(result, corner, "rankserver", [multiple * 1e6] * 5)
        set_rates(result, corner, key, [1e6] * 5)
        target = one(result, what, corner.receivers)
        assert (target.required, target.met) == (required, met)


@pytest.mark.parametrize(
    ("limit", "met"), [(targets.AT_LEAST, True), (targets.AT_MOST, True), (targets.BELOW, False)]
)
def test_a_value_exactly_at_the_limit(limit: str, met: bool) -> None:
    assert Target("", 1, limit, 7.0, 7.0).met is met


def test_ratios_are_taken_round_by_round(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [10, 20, 30, 40, 50])
    set_rates(result, HERE, "redis", [1, 10, 30, 40, 50])
    # The medians of both are equal: 30.
    assert one(result, "throughput, 64 bytes: multiple of redis", 100).value == pytest.approx(1.0)
    set_rates(result, HERE, "redis", [10, 10, 5, 5, 5])
    assert one(result, "throughput, 64 bytes: multiple of redis", 100).value == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("what", "load", "quantile", "at_one"),
    [
        ("latency on an idle server, p50", "idle", "p50", True),
        ("latency on an idle server, p99", "idle", "p99", True),
        ("latency at half load, each at half of its own rate, p99", "half", "p99", False),
    ],
)
def test_latency_is_compared_with_that_of_the_best_peer(
    result: dict[str, Any], what: str, load: str, quantile: str, at_one: bool
) -> None:
    for key in PEERS:
        fast = key in {"rankserver", "nats"}
        set_latency(source(result, HERE, key)[load], **{quantile: 80.0 if fast else 100.0})
    set_latency(source(result, HERE, "ceiling")[load], **{quantile: 1.0})
    target = one(result, what, 100)
    assert (target.value, target.met, target.peer) == (1.0, at_one, "nats")
    set_latency(source(result, HERE, "rankserver")[load], **{quantile: 80.5})
    assert one(result, what, 100).met is False


def test_at_the_same_rate_the_worst_multiple_counts(result: dict[str, Any]) -> None:
    set_same_rate(result, {"mosquitto": 0.8, "redis": 0.7})
    target = one(result, SAME_RATE, 100)
    assert target.value == pytest.approx(0.8)
    assert (target.peer, target.met) == ("mosquitto", True)
    set_same_rate(result, {"mosquitto": 0.8, "redis": 1.1})
    target = one(result, SAME_RATE, 100)
    assert target.value == pytest.approx(1.1)
    assert (target.peer, target.met) == ("redis", False)


def test_at_the_same_rate_a_peer_that_lost_leaves_it_open(result: dict[str, Any]) -> None:
    set_same_rate(result, {})
    source(result, HERE, "nats")["lost"] = "it ended"
    assert one(result, SAME_RATE, 100).met is None
    set_same_rate(result, {"redis": 1.1})
    assert one(result, SAME_RATE, 100).met is False, "another peer shows that it does not hold"


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [("joins_per_second", 2_000.0, 1_999.0), ("memory_per_client", 2_048.0, 2_049.0)],
)
def test_membership_targets_hold_at_exactly_the_limit(
    result: dict[str, Any], key: str, good: float, bad: float
) -> None:
    (what,) = (what for what, name, *_ in targets.MEMBERSHIP if name == key)
    for value, met in ((good, True), (bad, False)):
        for entry in result["membership"][1]["rounds"]:
            entry[key] = value
        assert one(result, what, 10_000).met is met


def test_leaves_take_two_seconds_or_a_fifth_more_than_sending(result: dict[str, Any]) -> None:
    for half, single, met in ((2.0, 1.2, True), (2.1, 1.21, False)):
        for entry in result["membership"][1]["rounds"]:
            entry.update(leave={"1": single, "half": half}, ceiling_one=1.0)
        left = [it for it in targets.check(measured(result)) if "until all know" in it.what]
        assert [target.met for target in left] == [met, met]


def test_the_cost_may_grow_by_the_same_factor_as_the_ceilings(result: dict[str, Any]) -> None:
    many = Corner("one", 5_000, 64)
    for key, cpu in (("rankserver", 4e-9), ("ceiling", 2e-9)):
        for corner in (Corner("one", 10, 64), many):
            for burst in source(result, corner, key)["bursts"]:
                burst["sender_cpu"] = cpu * burst["deliveries"]
    target = targets.check(measured(result))[-1]
    assert (target.required, target.value, target.met) == (1.0, 1.0, True)
    for burst in source(result, many, "rankserver")["bursts"]:
        burst["sender_cpu"] *= 1.01
    assert targets.check(measured(result))[-1].met is False


def test_a_target_without_a_measurement_is_never_met() -> None:
    found = targets.check(measured(sample() | {"points": [], "membership": []}))
    assert len(found) == 57
    assert {target.met for target in found} == {None}


def test_targets_against_a_skipped_peer_are_not_measured(result: dict[str, Any]) -> None:
    skip(result, "zeromq")
    assert one(result, "throughput, 64 bytes: multiple of zeromq", 100).met is None
    assert one(result, "throughput, 64 bytes: multiple of nats", 100).met is not None


def test_a_missing_latency_is_not_measured(result: dict[str, Any]) -> None:
    del source(result, HERE, "rankserver")["half"]
    assert one(result, "latency at half load, each at half of its own rate, p99", 100).met is None


def test_the_rounds_of_a_peer_before_it_lost_prove_nothing(result: dict[str, Any]) -> None:
    set_latency(source(result, HERE, "nats")["idle"], p99=0.5)
    assert one(result, "throughput, 64 bytes: multiple of nats", 100).met is True
    assert one(result, "latency on an idle server, p99", 100).peer == "nats"
    source(result, HERE, "nats")["lost"] = "stream 3 ended"
    assert one(result, "throughput, 64 bytes: multiple of nats", 100).met is None
    assert one(result, "latency on an idle server, p99", 100).peer != "nats"


def test_targets_where_this_server_lost_are_not_met(result: dict[str, Any]) -> None:
    assert one(result, "throughput, 64 bytes: multiple of redis", 100).met is True
    source(result, HERE, "rankserver")["lost"] = "a stream ended"
    assert one(result, "throughput, 64 bytes: multiple of redis", 100).met is False
    assert one(result, "throughput, 64 bytes: multiple of redis", 1_000).met is True
