from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import bounds
from client.processes import _least
from tests.support.executing import another_user
from tests.support.paths import ROOT

NUMBERS = st.integers(1, 10_000)


@given(truth=NUMBERS, guess=NUMBERS, highest=NUMBERS)
def test_the_least_number_is_found_from_any_guess(truth: int, guess: int, highest: int) -> None:
    asked: list[int] = []

    def is_enough(number: int) -> bool:
        asked.append(number)
        return number >= truth

    assert _least(is_enough, guess, highest) == min(truth, highest)
    assert all(1 <= number < highest for number in asked)
    # A guess that is not below the highest number says nothing.
    off_by = abs(min(truth, highest) - guess) if guess < highest else highest
    assert len(asked) <= 2 * off_by.bit_length() + 3


def test_a_right_guess_is_confirmed_in_two_steps() -> None:
    asked: list[int] = []

    def is_enough(number: int) -> bool:
        asked.append(number)
        return number >= 40

    assert _least(is_enough, 40, 4_194_304) == 40
    assert asked == [40, 39]


def limit_of(user: dict[str, Any]) -> str:
    """Return the limit that a process of a user finds for 20 more than there are."""
    text = "from client.processes import UserProcesses; print(UserProcesses().limit(20))"
    return str(subprocess.check_output([sys.executable, "-c", text], cwd=ROOT, text=True, **user)).strip()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that runs nothing else")
def test_a_limit_allows_more_than_there_are() -> None:
    assert limit_of(another_user()) == "21"


def test_root_is_told_that_no_limit_applies() -> None:
    assert (limit_of({}) == "None") == (not bounds.find().has_rlimit)
