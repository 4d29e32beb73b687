"""Admission of connections: the bookkeeping, with stand-ins for connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from rankserver.channel import Channel
from rankserver.door import MIN_STRANGERS, Door, max_strangers


@dataclass(frozen=True)
class Connection:
    """The attributes of a connection that a door uses."""

    number: int
    host: str = "192.0.2.1"


def enter(door: Door, number: int, host: str = "192.0.2.1") -> Channel:
    channel = cast("Channel", Connection(number, host))
    door.enter(channel)
    return channel


@pytest.mark.parametrize("capacity", [1, MIN_STRANGERS, MIN_STRANGERS + 1, 1000])
def test_strangers_are_limited_by_the_capacity(capacity: int) -> None:
    door = Door(capacity, 0, None)
    most = max_strangers(capacity)
    assert most == max(capacity, MIN_STRANGERS)
    for number in range(most):
        enter(door, number)
        assert door.excess() is None
    enter(door, most)
    oldest: object = door.excess()
    assert oldest == Connection(0)
    assert door.strangers == most + 1


def full_door() -> tuple[Door, list[Channel]]:
    door = Door(1, 0, None)
    return door, [enter(door, number) for number in range(MIN_STRANGERS + 1)]


def test_a_member_is_no_stranger() -> None:
    door, channels = full_door()
    door.forget(channels[0])
    assert door.strangers == MIN_STRANGERS
    assert door.excess() is None
    enter(door, 99)
    assert door.excess() == channels[1]


def test_refused_clients_are_strangers_and_are_dropped_first() -> None:
    door, channels = full_door()
    door.refuse(channels[5])
    assert door.strangers == MIN_STRANGERS + 1
    assert door.excess() == channels[5]
    door.leave(channels[5])
    assert door.excess() is None


def test_a_client_refused_after_its_hello_is_a_stranger_again() -> None:
    door, channels = full_door()
    door.forget(channels[7])
    door.refuse(channels[7])
    assert door.excess() == channels[7]


def test_an_address_over_its_limit_is_crowded_until_one_goes() -> None:
    door = Door(8, 2, None)
    first, second, third = (enter(door, number) for number in range(3))
    other = enter(door, 3, "192.0.2.2")
    assert door.is_crowded(third)
    assert not door.is_crowded(other)
    door.forget(first)
    assert door.is_crowded(third), "one that has joined counts"
    door.refuse(third)
    door.leave(third)
    assert not door.is_crowded(first)
    for channel in (first, second, other):
        door.leave(channel)
    assert not door._hosts, "nothing is kept of who is gone"


@pytest.mark.parametrize(("most", "host"), [(0, "192.0.2.1"), (1, "")])
def test_no_limit_applies_without_one_or_to_unix_sockets(most: int, host: str) -> None:
    door = Door(8, most, None)
    channels = [enter(door, number, host) for number in range(10)]
    assert not any(door.is_crowded(channel) for channel in channels)
