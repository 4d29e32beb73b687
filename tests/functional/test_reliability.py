"""Each row of docs/reliability.md on a small scale: the same code, with numbers that take a second or two.

Times are checked by ``make reliability`` only.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import reliability
from harness import BenchmarkError
from reliability import ROWS, Row

from tests.abuse.subjects import RANK


@pytest.mark.parametrize("row", ROWS, ids=[row.key for row in ROWS])
def test_what_the_page_says_holds(row: Row) -> None:
    if not row.possible():
        pytest.skip("this machine lacks what it needs")
    outcome = row.do(RANK, **row.small)
    assert not outcome.unmet, outcome.figure


def test_the_table_goes_between_its_marks_and_leaves_the_rest(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{reliability.BEGIN}\nformer\n{reliability.END}\nafter\n")
    cell = {"figure": "some figure", "unmet": [], "seconds": 1}
    result = {"titles": {"rankserver": "rankserver", "redis": None}, "rows": {"kill": {"rankserver": cell}}}
    reliability.write(page, result)
    reliability.write(page, result)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")  # noqa: PT018
    assert "former" not in text
    assert text.count("**holds.** some figure") == 1


def test_rows_that_are_not_measured_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{reliability.BEGIN}\n| `hold` | earlier |\n| `churn` | earlier |\n{reliability.END}\n")
    outcome = {"figure": "now", "unmet": [], "seconds": 1}
    reliability.write(
        page, {"titles": {"rankserver": "rankserver"}, "rows": {"churn": {"rankserver": outcome}}}
    )
    first, second = page.read_text().splitlines()[4:6]
    assert first == "| `hold` | earlier |"
    assert second.endswith("**holds.** now |")


def test_the_table_says_what_does_not_hold() -> None:
    cell = {"figure": "5 of 6", "unmet": ["one was lost"], "seconds": 1}
    lines = reliability.table(
        {"titles": {"rankserver": "rankserver"}, "rows": {"kill": {"rankserver": cell}}}
    )
    assert lines[-1].endswith("**does not hold**: one was lost. 5 of 6 |")


def test_a_page_without_marks_is_not_overwritten(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(BenchmarkError, match="no lines"):
        reliability.write(page, {"titles": {}, "rows": {}})
    assert page.read_text() == "no marks\n"
