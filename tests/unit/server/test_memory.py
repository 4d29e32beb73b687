"""The memory reserve, with limits on the address space of this process."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rankserver import memory
from rankserver.memory import MAX_AGE, MAX_ANSWERS, MEMORY_RESERVE, PIECES, Reserve


@contextmanager
def bytes_left(count: int) -> Iterator[None]:
    """Let this process map only so many more bytes during the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def only_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be free but what can be mapped."""
    monkeypatch.setattr(memory, "_is_free", lambda: False)


def can_map_reserve() -> bool:
    block = memory._mapped(MEMORY_RESERVE)
    if block is not None:
        block.close()
    return block is not None


@pytest.mark.usefixtures("only_mapped")
def test_the_reserve_is_intact_only_while_so_much_can_be_mapped() -> None:
    reserve = Reserve()
    with bytes_left(MEMORY_RESERVE + 65_536):
        assert reserve.is_intact(1.0)
    with bytes_left(MEMORY_RESERVE - 65_536):
        assert not reserve.is_intact(2.0)
    assert reserve.is_intact(3.0)
    reserve.release()


@pytest.mark.usefixtures("only_mapped")
def test_what_is_held_is_given_back_when_nothing_is_left() -> None:
    reserve = Reserve()
    with bytes_left(0):
        assert not can_map_reserve()
        assert not reserve.is_intact(1.0)
        assert can_map_reserve()
        assert reserve.is_intact(2.0)
        assert can_map_reserve(), "there is too little to hold it again"
    assert reserve.is_intact(3.0)
    with bytes_left(0):
        assert not can_map_reserve(), "it is held again"
    reserve.release()


def test_memory_that_the_allocator_holds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_mapped", lambda _: None)
    reserve = Reserve()
    assert reserve.is_intact(1.0)
    monkeypatch.setattr(memory, "PIECES", (*PIECES, 1 << 62))
    assert not reserve.is_intact(2.0)
    assert sum(PIECES) == MEMORY_RESERVE


@pytest.mark.parametrize("later", [lambda now: now, lambda now: now + MAX_AGE / 2 / MAX_ANSWERS])
def test_a_check_counts_for_a_few_questions(
    later: Callable[[float], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, now = Reserve(), 1.0
    assert reserve.is_intact(now)
    monkeypatch.setattr(reserve, "_check", lambda: False)
    for _ in range(MAX_ANSWERS - 1):
        now = later(now)
        assert reserve.is_intact(now)
    assert not reserve.is_intact(now)
    assert not reserve.is_intact(now), "that memory is low is not remembered"
    reserve.release()


def test_after_a_release_the_next_question_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve()
    assert reserve.is_intact(1.0)
    monkeypatch.setattr(reserve, "_check", lambda: False)
    reserve.release()
    reserve.release()
    assert not reserve.is_intact(1.0)


def test_a_check_counts_for_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    reserve = Reserve()
    assert reserve.is_intact(1.0)
    monkeypatch.setattr(reserve, "_check", lambda: False)
    assert not reserve.is_intact(1.0 + MAX_AGE)
    reserve.release()
