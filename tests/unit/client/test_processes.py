from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from client.processes import _least

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
