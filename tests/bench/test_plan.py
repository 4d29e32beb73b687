"""What a comparison measures, how long, and in which order."""

from __future__ import annotations

from collections import Counter

import plan
import pytest
from peers import PEERS
from plan import Point, Timing


def test_the_grid_has_every_size_everywhere_but_at_one_point() -> None:
    points = plan.points(plan.RECEIVERS, plan.SIZES, plan.PARTS)

    # 16 KiB to 5,000 receivers is left out: it would be fewer than 20 commands.
    assert len(set(points)) == len(points) == 5 * 4 - 1 + 3
    assert [point.receivers for point in points if point.everyone] == [10, 100, 1_000]


def test_latency_at_other_sizes_is_measured_with_100_receivers() -> None:
    points = plan.points(plan.RECEIVERS, plan.SIZES, ["latency"])

    assert all(point.latency for point in points)
    assert {(point.receivers, point.size) for point in points} == {
        *((count, 64) for count in plan.RECEIVERS),
        *((100, size) for size in plan.SIZES),
    }


def test_without_the_latency_no_point_has_one() -> None:
    assert not any(point.latency for point in plan.points([10], [64], ["throughput"]))


def test_membership_alone_needs_no_points() -> None:
    assert plan.points([10], [64], ["membership"]) == []


@pytest.mark.parametrize("receivers", [1, 10, 100, 1_000, 5_000, 100_000])
@pytest.mark.parametrize("size", [14, 64, 1_024, 16_384, 10_000_000])
def test_a_burst_keeps_within_its_bounds_and_is_never_empty(receivers: int, size: int) -> None:
    point = Point(everyone=False, receivers=receivers, size=size)

    for timing in (Timing(5), Timing.quick(1)):
        commands = plan.max_commands(point, timing)
        assert commands >= 1
        assert commands == 1 or commands * receivers <= plan.MAX_DELIVERIES
        assert commands == 1 or commands * receivers * size <= plan.MAX_BYTES
        assert commands * (size + plan.WRAP) <= plan.MAX_PHASE_BYTES


@pytest.mark.parametrize("rate", [3, 200, 10_000, 600_000, 50_000_000])
def test_calibrating_finds_what_fits_without_long_trials(rate: float) -> None:
    trials: list[float] = []

    def run(commands: int) -> float:
        trials.append(commands / rate)
        return trials[-1]

    commands = plan.calibrate(run, 20_000, 0.7)

    assert commands == pytest.approx(min(20_000, rate * 0.7), abs=1)
    assert max(trials[1:], default=0) <= 0.7
    assert len(trials) <= 5


@pytest.mark.parametrize("rate", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("cold", [0.0, 0.3, 3.0])
def test_a_cold_start_makes_no_burst_too_short(rate: int, cold: float) -> None:
    sent: list[int] = []

    def run(commands: int) -> float:
        sent.append(commands)
        return 0.1 + commands / rate + (cold if len(sent) == 1 else 0)

    commands = plan.calibrate(run, 20_000, 0.5)

    assert commands == sent[-1], "a burst of this size has warmed it up"
    assert commands == 20_000 or 0.25 <= 0.1 + commands / rate <= 0.6
    assert len(sent) < plan.MAX_STEPS


def test_calibrating_ends_even_if_times_make_no_sense() -> None:
    sent: list[int] = []

    def run(commands: int) -> float:
        sent.append(commands)
        return 2.0 if commands > 4 else 0.01

    assert 1 <= plan.calibrate(run, 2_000, 0.5) <= 2_000
    assert len(sent) <= plan.MAX_STEPS


def test_calibrating_a_fast_source_ends_with_a_whole_burst() -> None:
    sent: list[int] = []
    plan.calibrate(lambda commands: sent.append(commands) or commands / 1e9, 20_000, 0.7)  # type: ignore[func-returns-value]

    assert sent[-1] == 20_000


def test_a_slow_crowd_sends_fewer_commands_each_but_at_least_one() -> None:
    timing = Timing(5, whole=10.0, crowd=4.0)

    assert plan.crowd_commands(100, 0.001, timing) == 1_000
    assert plan.crowd_commands(100, 1.0, timing) == 1_000
    assert plan.crowd_commands(100, 1.5, timing) == 200
    assert plan.crowd_commands(100, 60.0, timing) == 100


@pytest.mark.parametrize("seconds", [0.000_01, 0.001, 0.01, 5.0])
def test_a_crowd_repeats_short_bursts_an_odd_number_of_times(seconds: float) -> None:
    repeats = plan.crowd_repeats(seconds, Timing(5))

    assert repeats % 2 == 1
    assert repeats == 1 or repeats * seconds < 2 * Timing.crowds


@pytest.mark.parametrize("receivers", [1, 100, 1_000, 5_000])
@pytest.mark.parametrize("saturated", [2.0, 40.0, 200.0, 5e6])
def test_an_idle_source_is_used_to_a_fifth_at_most(receivers: int, saturated: float) -> None:
    rate = plan.idle_rate(receivers, saturated)

    assert rate == 1 or rate <= saturated / 5
    assert rate <= 250


@pytest.mark.parametrize("receivers", [1, 10, 100, 1_000, 5_000])
def test_an_idle_phase_has_the_planned_commands(receivers: int) -> None:
    expected = {1: 333, 10: 333, 100: 333, 1_000: 100, 5_000: 20}
    seconds = plan.idle_seconds(receivers, Timing(5))

    assert int(plan.idle_rate(receivers, 1e6) * seconds) == expected[receivers]


def test_paced_phases_keep_within_what_the_generator_can_hold() -> None:
    assert plan.paced_commands(plan.half_rate(1e9), 1.0, 64) * (64 + plan.WRAP) <= plan.MAX_PHASE_BYTES
    assert plan.paced_commands(plan.half_rate(0.5), 1.0, 64) == 1


def test_each_round_has_everybody_once_at_changing_places() -> None:
    sources = list("abcdefghi")
    orders = [plan.order(sources, number) for number in range(5)]

    assert all(sorted(order) == sources for order in orders)
    for end in (0, -1):
        assert len({order[end] for order in orders}) == len(orders), "nobody is first or last twice"
    for place in range(len(sources)):
        assert max(Counter(order[place] for order in orders).values()) <= 2


def test_the_whole_run_is_planned_to_take_about_half_an_hour() -> None:
    timing = Timing(5)
    points = plan.points(plan.RECEIVERS, plan.SIZES, plan.PARTS)
    seconds = sum(plan.point_seconds(point, len(PEERS), timing) for point in points)
    seconds += 5 * sum(plan.membership_seconds(clients, timing) for clients in plan.MEMBERS)

    assert 25 * 60 < seconds < 40 * 60
