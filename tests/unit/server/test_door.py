"""Admission of connections: the bookkeeping, with stand-ins for connections."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankserver.channel import Channel
from rankserver.door import MIN_PER_ADDRESS, MIN_STRANGERS, SILENT_SHARE, AddressCrowd, Door, max_strangers


@dataclass(frozen=True)
class Connection:
    """The attributes of a connection that a door uses."""

    number: int
    host: str = "192.0.2.1"


def connection(number: int, host: str = "192.0.2.1") -> Channel:
    return cast("Channel", Connection(number, host))


def enter(door: Door, number: int, host: str = "192.0.2.1", *, begun: bool = False) -> Channel:
    channel = connection(number, host)
    door.enter(channel)
    if begun:
        door.begin(channel)
    return channel


def full_door(begun: int = 0) -> tuple[Door, list[Channel]]:
    """Return a door with one stranger too many, of which the first ``begun`` have begun."""
    door = Door(1, 0, None)
    return door, [enter(door, number, begun=number < begun) for number in range(MIN_STRANGERS + 1)]


@pytest.mark.parametrize("capacity", [1, MIN_STRANGERS, MIN_STRANGERS + 1, 1000])
def test_strangers_are_limited_by_the_capacity(capacity: int) -> None:
    door = Door(capacity, 0, None)
    most = max_strangers(capacity)
    assert most == max(capacity, MIN_STRANGERS)
    for number in range(most):
        enter(door, number)
        assert door.excess() is None
    enter(door, most)
    assert door.excess() == connection(0)
    assert door.strangers == most + 1


def test_a_member_is_no_stranger() -> None:
    door, channels = full_door()
    door.forget(channels[0])
    assert door.strangers == MIN_STRANGERS
    assert door.excess() is None
    enter(door, 99)
    assert door.excess() == channels[1]


# --- who goes first ---------------------------------------------------------------------------


def test_refused_clients_are_strangers_and_are_dropped_first() -> None:
    door, channels = full_door(begun=10)
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


def test_silent_strangers_go_before_those_that_have_begun() -> None:
    door, channels = full_door(begun=20)
    assert door.excess() == channels[20]


def test_a_flood_of_silent_ones_pushes_out_nobody_that_has_begun() -> None:
    door, channels = full_door(begun=20)
    for number in range(1000):
        while (gone := door.excess()) is not None:
            assert gone not in channels[:20]
            door.leave(gone)
        enter(door, 100 + number)


def test_begun_ones_leave_a_share_of_the_places_to_silent_ones() -> None:
    door = Door(1, 0, None)
    share = MIN_STRANGERS // SILENT_SHARE
    silent = [enter(door, number) for number in range(share)]
    for number in range(1000):
        begun = enter(door, 100 + number, begun=True)
        while (gone := door.excess()) is not None:
            assert gone not in silent
            assert gone != begun, "the oldest goes first"
            door.leave(gone)
    assert set(silent) <= set(door.everybody())


@pytest.mark.parametrize("begun", [False, True])
def test_a_flood_from_one_address_costs_the_others_nothing(begun: bool) -> None:
    door = Door(1, 0, None)
    others = [enter(door, number, f"198.51.100.{number}", begun=begun) for number in range(10)]
    for number in range(1000):
        enter(door, 100 + number, begun=begun)
        while (gone := door.excess()) is not None:
            assert gone not in others
            door.leave(gone)
    assert set(others) <= set(door.everybody())


def test_who_has_begun_moves_only_once_and_not_after_joining() -> None:
    door, channels = full_door()
    assert door.is_silent(channels[0])
    door.begin(channels[0])
    door.begin(channels[0])
    assert not door.is_silent(channels[0])
    assert door.strangers == MIN_STRANGERS + 1
    door.forget(channels[1])
    door.begin(channels[1])
    door.refuse(channels[2])
    door.begin(channels[2])
    assert door.strangers == MIN_STRANGERS
    assert set(door.everybody()) == {*channels} - {channels[1]}


# --- addresses --------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("capacity", "most"), [(1, MIN_PER_ADDRESS), (5000, 5000)])
def test_by_default_an_address_may_take_every_place(capacity: int, most: int) -> None:
    door = Door(capacity, None, None)
    assert not any(door.is_crowded(enter(door, number)) for number in range(most))
    assert door.is_crowded(enter(door, most))


# --- the most crowded address -----------------------------------------------------------------


class Naive:
    """What ``AddressCrowd`` does, by walking over everything."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []
        # The addresses in the order in which they got the number of connections that they have.
        self.hosts: list[str] = []

    def add(self, channel: Channel) -> None:
        self.channels.append(channel)
        self.changed(channel.host)

    def remove(self, channel: Channel) -> bool:
        if channel not in self.channels:
            return False
        self.channels.remove(channel)
        self.changed(channel.host)
        return True

    def changed(self, host: str) -> None:
        self.hosts = [other for other in self.hosts if other != host] + [host]

    def first(self) -> Channel:
        numbers = Counter(channel.host for channel in self.channels)
        host = max(self.hosts, key=lambda host: (numbers[host], -self.hosts.index(host)))
        return next(channel for channel in self.channels if channel.host == host)


@given(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["add", "remove", "first"]))))
def test_the_oldest_of_the_most_crowded_address_is_found(steps: list[tuple[int, str]]) -> None:
    crowd, naive = AddressCrowd(), Naive()
    for number, step in steps:
        channel = connection(number, f"192.0.2.{number % 4}")
        if step == "first" and naive.channels:
            channel = naive.first()
            assert crowd.first() == channel
        if step == "add" and channel not in naive.channels:
            crowd.add(channel)
            naive.add(channel)
        else:
            assert crowd.remove(channel) == naive.remove(channel)
        assert len(crowd) == len(naive.channels)
        assert set(crowd) == set(naive.channels)
    for channel in naive.channels:
        crowd.remove(channel)
    assert not crowd._hosts, "nothing is kept of who is gone"


def test_finding_it_takes_as_many_steps_among_many_as_among_few() -> None:
    assert steps_of_a_flood(10) == steps_of_a_flood(1000)


def steps_of_a_flood(strangers: int) -> int:
    """Return how many hashes of channels it takes to replace one of so many strangers."""
    hashed = 0

    class HashCounted:
        host = "192.0.2.1"

        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return id(self)

    channels = [cast("Channel", HashCounted()) for _ in range(strangers + 1)]
    crowd = AddressCrowd()
    for channel in channels[:-1]:
        crowd.add(channel)
    hashed = 0
    crowd.remove(crowd.first())
    crowd.add(channels[-1])
    return hashed
