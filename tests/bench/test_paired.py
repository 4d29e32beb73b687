from __future__ import annotations

import paired
import pytest
from harness import BenchmarkError


def test_the_ratio_is_the_median_over_the_pairs() -> None:
    before, after = [100.0, 10.0, 1.0], [100.0, 9.0, 0.5]
    assert paired.ratio(before, after) == "0.900 (0.500 to 1.000)"


def test_a_figure_of_zero_gives_no_ratio() -> None:
    with pytest.raises(BenchmarkError, match="is 0"):
        paired.ratio([1.0, 0.0], [1.0, 1.0])


def test_a_folder_without_a_source_tree_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        paired.main(["/"])
    assert "'/' is no source tree" in capsys.readouterr().err
