"""What is made of the rounds of a comparison: medians and ratios, tables, plots, and the page."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import derive
import pytest
import report
import tables
import targets
from derive import Corner, Spread

from tests.support.sample_result import EVERY, HERE, sample, set_rates, set_same_rate, skip, source

needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


@pytest.fixture
def result() -> dict[str, Any]:
    return sample()


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it look as if matplotlib were not installed."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def row(page: str, name: str, after: str = "") -> list[str]:
    """Return the cells of the first row that begins with a name, behind a place in the page."""
    lines = page[page.index(after) :].splitlines()
    line = next(line for line in lines if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


# --- medians and ratios -----------------------------------------------------------------------


def test_spread_is_the_median_and_both_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 9.0, 4.0]) == (3.0, 1.0, 9.0)
    assert Spread.of([]) is None


def test_throughput_is_what_was_delivered_over_what_it_took(result: dict[str, Any]) -> None:
    burst = source(result, HERE, "redis")["bursts"][0]
    burst.update(deliveries=600, seconds=0.5)
    assert derive.throughput(source(result, HERE, "redis"))[0] == 1200.0


def test_ratios_are_taken_pair_by_pair_and_not_of_the_medians(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [10, 20, 30, 40, 50])
    set_rates(result, HERE, "redis", [10, 10, 5, 5, 5])
    ratio = derive.faster(result, HERE, "redis")
    assert ratio is not None
    assert ratio == pytest.approx((6.0, 1.0, 10.0))  # the medians are 30 and 5, and so are the pairs'
    set_rates(result, HERE, "redis", [1, 10, 30, 40, 50])
    ratio = derive.faster(result, HERE, "redis")
    assert ratio == pytest.approx((1.0, 1.0, 10.0))


def test_a_peer_that_stopped_is_paired_with_the_rounds_that_it_was_in(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [10, 20, 1, 1, 1])
    set_rates(result, HERE, "redis", [5, 5])
    assert derive.faster(result, HERE, "redis") == pytest.approx((3.0, 2.0, 4.0))


def test_best_latency_is_neither_ours_nor_the_ceilings(result: dict[str, Any]) -> None:
    for entry in source(result, HERE, "mosquitto")["idle"]["rounds"]:
        entry["p50"] = 0.5
    for key in ("rankserver", "ceiling"):
        for entry in source(result, HERE, key)["idle"]["rounds"]:
            entry["p50"] = 0.1
    assert derive.best_latency(result, HERE, "idle", "p50") == "mosquitto"


def test_growth_compares_the_cost_of_a_delivery_at_many_and_at_few(result: dict[str, Any]) -> None:
    for receivers, cpu in ((10, 2e-9), (5000, 3e-9)):
        for burst in source(result, Corner("one", receivers, 64), "redis")["bursts"]:
            burst["sender_cpu"] = cpu * burst["deliveries"]
    assert derive.growth(result, "redis", 64, 10, 5000) == pytest.approx(1.5)
    assert derive.growth(result, "threads", 64, 10, 5000) is None


def test_the_achieved_rate_is_the_median_of_what_there_was_of_what_was_asked_for() -> None:
    rounds = [{"commands": 100, "rate": 100, "seconds": seconds} for seconds in (1.0, 2.0, 4.0)]
    assert derive.achieved({"rate": 100, "rounds": rounds}) == 0.5


def test_the_latest_command_of_all_phases_at_a_corner_counts(result: dict[str, Any]) -> None:
    assert derive.late(result, HERE) == pytest.approx(21.5e-6)
    source(result, HERE, "rankserver")["against"]["nats"]["rounds"][3]["late"] = 3000.0
    assert derive.late(result, HERE) == pytest.approx(3e-3)
    assert "no command more than 3.00 ms late" in tables.latency(result, HERE)


# --- numbers and cells ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.012345, "0.0123"),
        (0.5, "0.500"),
        (7.0, "7.00"),
        (9.996, "10.0"),
        (88.049, "88.0"),
        (999.6, "1,000"),
        (123_456, "123,000"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert tables.number(value) == text


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (6.9996, targets.AT_LEAST, "6.9996: **NOT MET**"),
        (7.0, targets.AT_LEAST, "7.00: met"),
        (7.004, targets.AT_LEAST, "7.00: met"),
        (7.0004, targets.AT_MOST, "7.0004: **NOT MET**"),
        (6.99996, targets.BELOW, "6.99996: met"),
    ],
)
def test_rounding_never_hides_on_which_side_of_the_limit_it_is(value: float, limit: str, text: str) -> None:
    assert tables.verdict(targets.Target("", "", 1, limit, 7, value)) == text


def test_a_cell_shows_the_spread_unless_there_is_none() -> None:
    assert tables.cell(Spread(2e6, 1e6, 3e6), 1e-6) == "2.00<br><sub>1.00 to 3.00</sub>"
    assert tables.cell(Spread(2, 2, 2)) == "2.00"
    assert tables.cell(None) == "-"


# --- the page ---------------------------------------------------------------------------------


def test_page_holds_a_row_for_each_peer_with_median_and_spread(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "redis", [8e6, 9e6, 10e6, 11e6, 12e6])
    set_rates(result, HERE, "rankserver", [80e6, 80e6, 80e6, 80e6, 80e6])
    page = report.page(result, None)
    assert row(page, "Redis pub/sub", "Million deliveries per second")[2] == "10.0<br><sub>8.00 to 12.0</sub>"
    assert row(page, "**rankserver**", "Million deliveries per second")[2] == "80.0"
    assert row(page, "Redis pub/sub", "as a multiple of each")[2] == "8.00<br><sub>6.67 to 10.0</sub>"
    assert row(page, "threads and a lock", "Million deliveries per second")[4] == "-"


def test_page_says_first_what_is_not_met(result: dict[str, Any]) -> None:
    set_rates(result, HERE, "rankserver", [6e6] * 5)
    set_rates(result, HERE, "redis", [1e6] * 5)
    page = report.page(result, None)
    start = page[: page.index("## What it must show")]
    assert "  - NOT MET: 64 bytes: times Redis: " in start
    assert "6.00 at 100" in start
    assert " at 1,000 receivers, not at least 7\n" in start
    assert "6.00: **NOT MET**" in row(page, "64 bytes: times Redis")[3]


def test_page_counts_the_targets() -> None:
    targets_of = [targets.Target("", "", 1, targets.AT_LEAST, 1, value) for value in (2, 2, 0.5, None)]
    assert report.count(targets_of).startswith(
        "Of 4 targets, **2 are met**, **1 are NOT MET**, 1 were not measured."
    )


def test_a_skipped_peer_is_named_with_what_installs_it_and_has_no_row(result: dict[str, Any]) -> None:
    skip(result, "uvloop")
    page = report.page(result, None)
    assert "- Skipped, not installed: uvloop (`apt-get install uvloop` installs it).\n" in page
    assert "skipped, not installed: `apt-get install uvloop`" in page
    assert "\n| uvloop | 0" not in page


def test_what_a_peer_lost_is_marked_and_told(result: dict[str, Any]) -> None:
    lossy = source(result, HERE, "mosquitto")
    lossy.update(lost="stream 3 | ended\nearly <here>", bursts=lossy["bursts"][:1])
    page = report.page(result, None)
    assert "- Mosquitto **lost commands, or failed**, at 1 of 22 points" in page
    assert "†" in row(page, "Mosquitto", "Million deliveries per second")[2]
    assert "\n\n† Lost commands, or failed: see [below](#lost-or-failed)." in page
    cells = ["100, one sends", "64", "stream 3 \\| ended early &lt;here>", "1"]
    assert f"| Mosquitto | {' | '.join(cells)} |" in page[page.index("## Lost or failed") :]


def test_a_page_without_losses_does_not_speak_of_them(result: dict[str, Any]) -> None:
    page = report.page(result, None)
    assert "†" not in page
    assert "Lost or failed" not in page


def test_a_peer_that_failed_at_once_has_no_numbers(result: dict[str, Any]) -> None:
    for entry in result["points"]:
        if "mosquitto" in entry["sources"]:
            entry["sources"]["mosquitto"] = {"commands": 0, "bursts": [], "lost": "it ended"}
    page = report.page(result, None)
    assert set(row(page, "Mosquitto", "Million deliveries per second")) == {"- †"}
    assert row(page, "Mosquitto †", "Every client a sender")[0] == "-"
    assert set(row(page, "Mosquitto", "What a connection costs")) == {"-"}


def test_memory_of_connections_is_shown_only_where_there_are_enough_of_them(result: dict[str, Any]) -> None:
    for count in (1, 10, 100):  # what a server takes for all goes up and down by more than they need
        source(result, Corner("one", count, 64), "redis")["idle_memory"] = -57_344
    text = tables.connections(result, 64)
    assert text.splitlines()[0].count("KiB each") == 2
    assert text.splitlines()[0].count("joins/s") == 3
    assert row(text, "Redis pub/sub")[:2] == ["6.84", "6.84"]
    assert row(text, "threads and a lock")[1] == "-"


def test_an_order_that_differs_is_told(result: dict[str, Any]) -> None:
    source(result, EVERY, "nats")["bursts"][2]["same_order"] = False
    text = tables.every(result, EVERY)
    assert row(text, "NATS core")[0] == "differs"
    assert row(text, "Redis pub/sub")[0] == "same for all"


def test_a_peer_that_sent_fewer_commands_is_marked(result: dict[str, Any]) -> None:
    text = tables.every(result, EVERY)
    assert row(text, "asyncio")[1] == "2 ‡"
    assert "‡ It is slow, so its clients sent fewer commands each." in text
    assert row(tables.commands(result, 64), "asyncio")[0] == "2,000 ‡"
    assert row(tables.commands(result, 64), "**rankserver**")[0] == "20,000"


def test_a_rate_that_was_not_achieved_is_marked(result: dict[str, Any]) -> None:
    it = source(result, HERE, "rankserver")["half"]
    assert "§" not in tables.latency(result, HERE)
    for phase in it["rounds"]:
        phase["seconds"] = phase["commands"] / phase["rate"] / 0.94
    text = tables.latency(result, HERE)
    assert row(text, "**rankserver**", "half load")[0].endswith(" §")
    assert "\n\n§ There were less than 95% of these commands per second" in text


def test_where_the_generator_limits_is_marked_with_how_busy_it_was(result: dict[str, Any]) -> None:
    for burst in source(result, HERE, "rankserver")["bursts"]:
        burst["generator_cpu"] = 0.96 * burst["seconds"]
    text = tables.throughput(result, 64)
    assert row(text, "**rankserver**")[2].partition("<br>")[0].endswith(" ¶")
    assert "¶" not in "".join(row(text, "Redis pub/sub"))
    assert "\n\n¶ The generator was busy for at least 95% of the time" in text
    assert "¶" in row(tables.faster(result, 64), "*ceiling*")[2]
    assert row(tables.generator(result, 64), "**rankserver**")[1:3] == ["80%", "96%"]
    assert "¶" not in tables.throughput(result, 16)


def test_a_table_compares_us_with_each_peer_at_its_half_load(result: dict[str, Any]) -> None:
    it = source(result, HERE, "nats")
    it["half"]["rate"] = 1000
    for entry in it["half"]["rounds"]:
        entry["p99"] = 500.0
    set_same_rate(result, {"nats": [0.25] * 5})
    text = tables.latency(result, HERE)
    title = "| p99 at each peer's half load |"
    assert row(text, "NATS core", title) == ["1,000", "0.500", "0.125", "0.250"]
    for name in ("**rankserver**", "*ceiling*"):
        assert f"| {name} |" not in text[text.index(title) :]


def test_latencies_are_in_milliseconds(result: dict[str, Any]) -> None:
    for entry in source(result, HERE, "nats")["idle"]["rounds"]:
        entry.update(p50=120.0, p99=2500.0, p999=31_000.0)
    assert row(tables.latency(result, HERE), "NATS core") == ["100", "0.120", "2.50", "31.0"]


def test_page_of_a_small_run_leaves_out_what_was_not_measured() -> None:
    small = sample(receivers=(10,), sizes=(64,)) | {"membership": []}
    small["points"] = [entry for entry in small["points"] if entry["senders"] == "one"]
    for entry in small["points"][0]["sources"].values():
        entry.pop("idle", None)
        entry.pop("half", None)
    page = report.page(small, None)
    assert "To 10 receivers, rankserver makes" in page
    assert "| Redis pub/sub |" in page
    for title in ("## Latency", "## Every client a sender", "## Clients that come"):
        assert title not in page


def test_page_says_with_which_code_it_was_measured_and_whether_in_one_run(result: dict[str, Any]) -> None:
    page = report.page(result, None)
    assert "all in one run" in " ".join(page.split())
    assert [row(page, name) for name in ("code", "run")] == [["commit `0123456789ab`"], ["not interrupted"]]
    result |= {"resumed": True, "earlier_commits": ["abc", None]}
    page = report.page(result, None)
    assert "in a run that was interrupted and resumed" in " ".join(page.split())
    assert row(page, "code") == [
        "commit `0123456789ab`; before it was resumed, commit `abc`, an unknown commit"
    ]
    for key in ("resumed", "commit", "earlier_commits"):
        del result[key]
    page = report.page(result, None)
    assert "in one run" not in " ".join(page.split())
    assert row(page, "code") == ["an unknown commit"]
    assert row(page, "run") == ["unknown whether interrupted"]


def test_a_page_can_be_written_of_a_machine_of_which_nothing_is_known(result: dict[str, Any]) -> None:
    result["machine"] = dict.fromkeys(result["machine"])
    page = report.page(result, None)
    assert "None" not in page
    assert row(page, "CPU") == ["CPU of an unknown model, an unknown number of CPUs"]
    assert row(page, "memory") == ["unknown"]


def test_page_of_nothing_at_all_can_still_be_written() -> None:
    page = report.page(sample() | {"points": [], "membership": []}, {})
    assert "**0 are met**, 57 were not measured" in page


# --- files ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_plots")
def test_without_matplotlib_the_page_is_written_and_says_how_to_get_the_plots(
    result: dict[str, Any], tmp_path: Path
) -> None:
    report.write(result, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    assert "matplotlib is not installed" in page
    assert ".svg)" not in page
    assert json.loads((tmp_path / "compare.json").read_text()) == result


@pytest.mark.usefixtures("no_plots")
def test_page_is_written_again_from_its_json_with_the_same_bytes(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.write(result, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert report.main([str(tmp_path / "compare.json")]) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert report.main([str(tmp_path / "none.json")]) == 1
    assert "cannot read" in capsys.readouterr().err


@needs_matplotlib
def test_plots_are_small_well_formed_and_on_the_page(result: dict[str, Any], tmp_path: Path) -> None:
    report.write(result, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text()
    drawn = {path.name: path.read_text() for path in (tmp_path / "results").iterdir()}
    assert sorted(drawn) == ["cost.svg", "latency.svg", "membership.svg", "sizes.svg", "throughput.svg"]
    for name, text in drawn.items():
        assert ET.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - drawn here
        assert len(text) < 60_000
        assert f"](results/{name})" in page
    assert ">rankserver " in drawn["throughput.svg"]


@pytest.mark.usefixtures("no_plots")
def test_no_plots_of_another_run_are_left(result: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for name in ("cost.svg", "of somebody else.svg"):
        (tmp_path / "results" / name).write_text("old")
    report.write(result, tmp_path)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["of somebody else.svg"]


@needs_matplotlib
def test_what_was_not_measured_is_not_drawn() -> None:
    result = sample(receivers=(10, 100), sizes=(64,)) | {"membership": []}
    skip(result, "redis")
    drawn = report.draw(result)
    assert drawn is not None
    assert sorted(drawn) == ["cost.svg", "latency.svg", "throughput.svg"]
    assert "Redis" not in drawn["throughput.svg"]
    assert report.draw(result) == drawn, "the same result gives the same bytes"


@needs_matplotlib
def test_labels_at_the_ends_of_lines_keep_their_order_and_distance() -> None:
    import plots  # noqa: PLC0415 - needs matplotlib

    spread_out: Callable[..., list[float]] = plots.spread_out
    places = spread_out([0.1, 0.11, 0.12, 0.9], 0.05)
    assert all(high - low > 0.05 - 1e-9 for low, high in pairwise(places))
    assert places == sorted(places)
