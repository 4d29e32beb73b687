"""The tables, plots and page that are made from the rounds of a comparison."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import report
import targets
from measurements import Measurements

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


@pytest.fixture
def result() -> dict[str, Any]:
    return sample()


def row(page: str, name: str, *after: str) -> list[str]:
    """Return the cells of the first row that begins with ``name`` after these texts in the page."""
    for place in after:
        page = page[page.index(place) :]
    line = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def page(result: dict[str, Any]) -> str:
    return report.page(measured(result))


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (0.5, "0.500"),
        (7.0, "7.00"),
        (9.996, "10.0"),
        (999.6, "1,000"),
        (123_456, "123,000"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert report.number(value) == text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (6.9996, targets.AT_LEAST, "6.9996"),
        (7.004, targets.AT_LEAST, "7.00"),
        (7.0004, targets.AT_MOST, "7.0004"),
        (6.99996, targets.BELOW, "6.99996"),
    ],
)
def test_rounding_never_hides_the_side_of_a_limit(value: float, limit: str, text: str) -> None:
    assert report.shown(targets.Target("", 1, limit, 7.0, value)) == text


# --- the page ---------------------------------------------------------------------------------


def test_throughput_has_a_median_and_a_spread_for_each_peer(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "redis", [8e6, 9e6, 10e6, 11e6, 12e6])
    set_rates(result, HERE, "rankserver", [80e6] * 5)
    text = page(result)
    assert row(text, "Redis pub/sub", "## Throughput", "64 bytes:")[2] == "10.0<br><sub>8.00 to 12.0</sub>"
    assert row(text, "rankserver", "## Throughput", "64 bytes:")[2] == "80.0"
    assert (
        row(text, "Redis pub/sub", "The throughput of rankserver", "64 bytes:")[2]
        == "8.00<br><sub>6.67 to 10.0</sub>"
    )


def test_a_peer_that_stopped_is_paired_with_its_rounds(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [10, 20, 1, 1, 1])
    set_rates(result, HERE, "redis", [5, 5])
    text = row(page(result), "Redis pub/sub", "The throughput of rankserver", "64 bytes:")[2]
    assert text == "3.00<br><sub>2.00 to 4.00</sub>"


def test_latencies_are_in_milliseconds_and_in_pairs(result: dict[str, Any]) -> None:
    set_latency(source(result, HERE, "nats")["idle"], p50=120.0, p99=2_500.0, p999=31_000.0)
    set_latency(source(result, HERE, "nats")["half"], p50=200.0, p99=500.0, p999=900.0)
    set_same_rate(result, {"nats": 0.25})
    cells = row(page(result), "NATS core", "## Latency", "**100 receivers, 64 bytes**")
    assert cells == ["100", "0.120", "2.50", "31.0", "100", "0.200", "0.500", "0.900", "0.125", "0.250"]


def test_costs_are_seconds_per_million_and_mebibytes(result: dict[str, Any]) -> None:
    for burst in source(result, HERE, "redis")["bursts"]:
        burst.update(sender_cpu=2e-6 * burst["deliveries"], peak_memory=3 * 2**20)
    text = page(result)
    assert row(text, "Redis pub/sub", "CPU seconds per million", "64 bytes:")[2] == "2.00"
    assert row(text, "Redis pub/sub", "Peak memory", "64 bytes:")[2] == "3.00"


def test_membership_is_shown_by_the_number_of_clients(result: dict[str, Any]) -> None:
    cells = row(page(result), "10,000", "## Clients that come")
    assert cells == [
        "6,500<br><sub>6,300 to 6,760</sub>",
        "1,250",
        "1.10",
        "1.40",
        "200",
        "1.00",
        "1.10",
        "0",
    ]


def test_the_cost_of_a_connection_is_shown(result: dict[str, Any]) -> None:
    source(result, Corner("one", 1_000, 64), "redis").update(idle_memory=1_001 * 2_048, join_seconds=0.5)
    assert row(page(result), "Redis pub/sub", "What each of 1,000") == ["2.00", "2,000"]


def test_the_page_begins_with_the_targets_not_met(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [6e6] * 5)
    set_rates(result, HERE, "redis", [1e6] * 5)
    text = page(result)
    start = text[: text.index("## How it was measured")]
    assert "- throughput, 64 bytes: multiple of redis, at 100: 6.00; required: at least 7" in start
    assert row(text, "throughput, 64 bytes: multiple of redis")[3] == "6.00 **NOT MET**"
    states = [target.met for target in targets.check(measured(result))]
    assert f"Of 57 targets **{states.count(True)} are met, {states.count(False)} are NOT MET**" in start


def test_a_skipped_peer_is_named_with_its_install_command(result: dict[str, Any]) -> None:
    skip(result, "uvloop")
    text = page(result)
    assert "not installed: `apt-get install uvloop`" in text
    assert "\n| uvloop | 1" not in text


def test_losses_of_a_peer_are_marked_and_described(result: dict[str, Any]) -> None:
    lossy = source(result, HERE, "mosquitto")
    lossy.update(lost="stream 3 | ended\nearly <here>", bursts=lossy["bursts"][:1])
    text = page(result)
    assert row(text, "Mosquitto", "## Throughput", "64 bytes:")[2].endswith(" †")
    assert "| one | 64 | 100 | mosquitto | stream 3 \\| ended early &lt;here> |" in text
    assert "Nobody lost anything." in page(sample())


def test_a_peer_that_failed_at_once_has_no_numbers(result: dict[str, Any]) -> None:
    for point in result["points"]:
        point["sources"]["mosquitto"] = {"bursts": [], "lost": "it ended"}
    text = page(result)
    assert "| mosquitto | it ended |" in text
    assert "\n| Mosquitto" not in text[text.index("## Throughput") : text.index("## Latency")]


def test_values_limited_by_the_generator_are_marked(result: dict[str, Any]) -> None:
    for burst in source(result, HERE, "rankserver")["bursts"]:
        burst["generator_cpu"] = 0.96 * burst["seconds"]
    text = page(result)
    assert " ¶" in row(text, "rankserver", "## Throughput", "64 bytes:")[2]
    assert "¶" not in "".join(row(text, "Redis pub/sub", "## Throughput", "64 bytes:"))


def test_a_rate_that_was_not_achieved_is_marked(result: dict[str, Any]) -> None:
    for phase in source(result, HERE, "nats")["half"]["rounds"]:
        phase["seconds"] = phase["commands"] / phase["rate"] / 0.94
    cells = row(page(result), "NATS core", "## Latency", "**100 receivers, 64 bytes**")
    assert (cells[0], cells[4]) == ("100", "100 §")


def test_a_differing_order_is_reported(result: dict[str, Any]) -> None:
    source(result, EVERY, "nats")["bursts"][2]["same_order"] = False
    text = page(result)
    assert row(text, "NATS core", "## Every client a sender")[0] == "differs"
    assert row(text, "Redis pub/sub", "## Every client a sender")[0] == "same for all"


def test_a_page_without_any_measurement_can_be_written() -> None:
    text = page(sample() | {"points": [], "membership": []})
    assert "57 were not measured" in text
    assert "## Throughput" in text


# --- files ------------------------------------------------------------------------------------


def test_the_same_files_are_written_again_from_the_json(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(Measurements.of_run(result), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 5
    for name in ("throughput.svg", "latency.svg", "cost.svg"):
        text = "".join(ET.fromstring(before[name]).itertext())  # noqa: S314 - our own
        assert all(key in text for key in PEERS)
    assert report.main([str(tmp_path)]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert report.main([str(tmp_path / "none")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_old_plots_without_measurements_are_removed(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "throughput.svg").touch()
    report.write(Measurements.of_run(sample() | {"points": [], "membership": []}), tmp_path)
    assert not list((tmp_path / "results").iterdir())


def test_the_json_has_one_line_for_each_measurement(result: dict[str, Any]) -> None:
    found = Measurements.of_run(result)
    rows = [line for line in found.dump().splitlines() if line.startswith("  [")]
    tables = (found.starts, found.bursts, found.paces, found.members)
    assert len(rows) == sum(len(table) + 1 for table in tables)


@pytest.mark.parametrize("text", ["not JSON", "{}"])
def test_a_file_of_another_kind_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "compare.json").write_text(text)
    assert report.main([str(tmp_path)]) == 1
    assert "cannot read" in capsys.readouterr().err
