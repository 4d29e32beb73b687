"""Signals as the loop sees them: none is lost, and none interrupts."""

from __future__ import annotations

import select
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from rankserver import signals

# More signals than their socket has room for.
MANY = 10_000
NUMBERS = (signal.SIGUSR1, signal.SIGUSR2)


class Inbox:
    """A loop that watches for signals, and what it was told: each signal with how often it came."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []
        self._watched: list[tuple[socket.socket, Callable[[], None]]] = []

    def watch(self, sock: socket.socket, act: Callable[[], None]) -> None:
        self._watched.append((sock, act))

    def turn(self) -> bool:
        """Return whether the loop wakes, and let it act then."""
        sock, act = self._watched[0]
        is_awake = bool(select.select([sock], [], [], 0)[0])
        if is_awake:
            act()
        return is_awake

    def actions(self) -> dict[int, Callable[[int], None]]:
        return {number: partial(self.tell, number) for number in NUMBERS}

    def tell(self, number: int, times: int) -> None:
        self.told.append((number, times))


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    inbox = Inbox()
    with signals.in_loop(inbox.watch, inbox.actions()):
        yield inbox
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)


def test_without_a_signal_the_loop_sleeps(inbox: Inbox) -> None:
    assert not inbox.turn()


def test_a_signal_wakes_the_loop_and_waits_for_it(inbox: Inbox) -> None:
    signal.raise_signal(signal.SIGUSR1)
    assert inbox.told == []
    while inbox.turn():
        pass
    assert inbox.told == [(signal.SIGUSR1, 1)]


def test_many_signals_in_one_turn_hide_no_other(inbox: Inbox) -> None:
    for _ in range(MANY):
        signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    while inbox.turn():
        pass
    assert inbox.told == [(signal.SIGUSR1, MANY), (signal.SIGUSR2, 1)]


def test_a_signal_recorded_after_its_byte_was_read_wakes_again(inbox: Inbox) -> None:
    record = signal.getsignal(signal.SIGUSR1)
    assert callable(record)
    record(signal.SIGUSR1, None)
    assert inbox.turn()
    assert inbox.told == [(signal.SIGUSR1, 1)]


def test_a_signal_at_the_end_harms_nothing(inbox: Inbox) -> None:
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    with signals.in_loop(inbox.watch, inbox.actions()):
        pass
    signal.raise_signal(signal.SIGUSR1)
    assert signal.SIGUSR1 in signal.sigpending()
    assert signal.sigtimedwait(NUMBERS, 0) is not None
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, NUMBERS)
