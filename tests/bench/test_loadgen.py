"""The load generator's verification: it reports each single fault of a scripted server.

There is no test of a command that never comes, because the generator would wait 10 s before it reports that.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Final

import harness
import pytest
from harness import BenchmarkError, Event, Program

from tests.support.loadgen_script import (
    COMMANDS,
    FRAMES,
    RECEIVERS,
    SIZE,
    Burst,
    Cut,
    Fault,
    behind,
    broken,
    burst,
    byte,
    doubled,
    front,
    in_lines,
    in_log,
    lost,
    one,
    pieces,
    play,
    swapped,
    tell_three,
    texts,
    whole,
)
from tests.support.waiting import BOUND

pytestmark = pytest.mark.timeout(2 * BOUND)

# The number of clients that all send: two in each half whose order is compared.
SENDERS: Final = 4

# The number of commands that each of these clients sends.
EACH: Final = 10

BOTH_CUTS: Final = pytest.mark.parametrize("cut", [whole, pieces])


def refused(message: str) -> AbstractContextManager[object]:
    """Expect the generator to report a fault that matches this pattern."""
    return pytest.raises(BenchmarkError, match=message)


# Faults in a text, and the generator's messages about them.
WRONG_TEXTS: Final[dict[str, tuple[Fault, str]]] = {
    "lost": (lost, "command {at} of the stream is @0000:{after:08}, expected index {at}$"),
    "doubled": (doubled, "command {after} of the stream is @0000:{at:08}, expected index {after}$"),
    "swapped": (swapped, "command {at} of the stream is @0000:{after:08}, expected index {at}$"),
    "first byte of the filler": (byte(14, b"y"), "the text of command @0000:{at:08} arrived changed$"),
    "last byte of the filler": (byte(-1, b"y"), "the text of command @0000:{at:08} arrived changed$"),
    "digit of the index": (byte(6, b"1"), "is @0000:1.*, expected index {at}$"),
    "no digit in the index": (byte(13, b"?"), "is @0000:{after:08}, expected index {at}$"),
    "digit of the sender": (byte(4, b"1"), "command {at} of the stream is @0001:{at:08}, expected index 0$"),
    "no colon": (byte(5, b";"), "is @0000:{after:08}, expected index {at}$"),
    "no @": (byte(0, b"#"), "is @0000:{after:08}, expected index {at}$"),
}


# --- one sender -------------------------------------------------------------------------------


@BOTH_CUTS
@pytest.mark.parametrize("proto", FRAMES)
def test_a_stream_without_a_fault_passes(proto: str, cut: Cut) -> None:
    frames = FRAMES[proto](texts())
    (event,) = one(proto, burst(proto, frames, cut))

    assert event["event"] == "burst"
    assert event["same_order"] is True
    assert event["streams"] == RECEIVERS + (proto == "rank")
    assert event["deliveries"] == COMMANDS * RECEIVERS
    assert event["stream_bytes"] == len(b"".join(frames))


def test_a_paced_stream_without_a_fault_passes() -> None:
    (event,) = one("rank", burst("rank", in_log(texts())), ask="pace {} 1000000")

    assert event["event"] == "pace"
    assert 0 < event["p50"] <= event["p99"] <= event["max"]


@pytest.mark.parametrize("at", [0, 1, 60, COMMANDS - 2])
@pytest.mark.parametrize("proto", FRAMES)
@pytest.mark.parametrize(("fault", "message"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_wrong_text_is_found_wherever_it_is(proto: str, fault: Fault, message: str, at: int) -> None:
    frames = FRAMES[proto](broken(texts(), fault, at))
    with refused(message.format(at=at, after=at + 1)):
        one(proto, burst(proto, frames))


@pytest.mark.parametrize("proto", FRAMES)
@pytest.mark.parametrize(("fault", "message"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_wrong_text_is_found_in_pieces(proto: str, fault: Fault, message: str) -> None:
    frames = FRAMES[proto](broken(texts(), fault, 60))
    with refused(message.format(at=60, after=61)):
        one(proto, burst(proto, frames, pieces))


@BOTH_CUTS
@pytest.mark.parametrize("at", [0, 1, 60, COMMANDS - 1])
@pytest.mark.parametrize("proto", FRAMES)
def test_a_frame_with_a_wrong_end_is_found(proto: str, at: int, cut: Cut) -> None:
    frames = broken(FRAMES[proto](texts()), byte(-1, b"\r"), at)
    with refused(f"the frame of command @0000:{at:08} does not end behind it"):
        one(proto, burst(proto, frames, cut))


@BOTH_CUTS
@pytest.mark.parametrize("new", [b"", b"5", b"x5 ", b"x ", b" "])
def test_a_malformed_rank_is_found(new: bytes, cut: Cut) -> None:
    with refused("bad frame"):
        one("plain", burst("plain", broken(in_lines(texts()), front(b"5 ", new), 60), cut))


@BOTH_CUTS
def test_bytes_between_a_rank_and_a_text_are_found(cut: Cut) -> None:
    with refused("unexpected bytes behind a rank: 5 "):
        one("plain", burst("plain", broken(in_lines(texts()), front(b"5 ", b"5 5 "), 60), cut))


@pytest.mark.parametrize("proto", FRAMES)
def test_a_rank_may_change(proto: str) -> None:
    change = front(b"5 ", b"12 ") if proto == "plain" else front(b"CMD 61 5", b"CMD 61 12")
    frames = broken(FRAMES[proto](texts()), change, 60)
    (event,) = one(proto, burst(proto, frames))

    assert event["stream_bytes"] == len(b"".join(frames))


@BOTH_CUTS
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("proto", FRAMES)
def test_a_receiver_that_gets_something_else_is_found(proto: str, cut: Cut, *, ahead: bool) -> None:
    """The different bytes are valid by themselves: only the comparison finds them."""
    right = FRAMES[proto](texts())
    wrong = broken(right, front(right[60][:-SIZE], right[60][:-SIZE].replace(b"5 ", b"6 ")), 60)
    first, last = (wrong, right) if ahead else (right, wrong)
    place = len(b"".join(right[:60])) + len(right[60]) - SIZE - 3
    with refused(f"two receivers differ at byte {place} of the phase: "):
        one(proto, burst(proto, first, cut, last))


@BOTH_CUTS
@pytest.mark.parametrize("extra", [b"x", b"\n", b"5 @0000:00000120xxxxxx\n"])
@pytest.mark.parametrize("proto", FRAMES)
def test_bytes_behind_the_last_command_are_found(proto: str, extra: bytes, cut: Cut) -> None:
    """Others still wait for their last command, so the phase does not end before the extra bytes come."""
    frames = FRAMES[proto](texts())
    ahead = b"".join(frames) + extra
    behind_it = b"".join(frames[:-1])
    streams = [ahead, behind_it, behind_it, behind_it if proto == "rank" else b""]
    with refused("unexpected bytes behind the last command|more bytes arrived"):
        one(proto, Burst(streams, cut))


@pytest.mark.parametrize("proto", FRAMES)
def test_extra_bytes_are_found_at_the_last_receiver_too(proto: str) -> None:
    frames = FRAMES[proto](texts())
    with refused("unexpected bytes behind the last command: x"):
        one(proto, burst(proto, frames, last=[*frames, b"x"]))


@BOTH_CUTS
@pytest.mark.parametrize("closed", [0, RECEIVERS - 1])
@pytest.mark.parametrize("proto", FRAMES)
def test_a_stream_that_is_cut_is_found(proto: str, closed: int, cut: Cut) -> None:
    plan = burst(proto, FRAMES[proto](texts()), cut)
    half = len(plan.streams[closed]) // 2
    streams = [stream[:half] if rank == closed else stream for rank, stream in enumerate(plan.streams)]
    with refused(rf"connection {closed} was closed by the server after {half} bytes of the phase \(end"):
        one(proto, plan._replace(streams=streams, closed=closed))


@pytest.mark.parametrize("proto", FRAMES)
def test_late_bytes_are_found_in_the_next_burst_at_last(proto: str) -> None:
    def late(streams: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        yield from whole(streams)
        yield 0, b"x"

    first = burst(proto, FRAMES[proto](texts()), late)
    with refused("unexpected bytes behind the last|unexpected bytes before|bad frame: x|differ at byte 0 "):
        one(
            proto,
            first,
            burst(proto, in_log(texts(), COMMANDS + 1) if proto == "rank" else in_lines(texts())),
        )


@BOTH_CUTS
@pytest.mark.parametrize("fault", [byte(14, b"y"), byte(-1, b"y")])
def test_leftovers_in_memory_do_not_pass_for_what_has_not_come(fault: Fault, cut: Cut) -> None:
    right = burst("plain", in_lines(texts()), cut)
    assert len(one("plain", right, right)) == 2
    with refused("the text of command @0000:00000060 arrived changed"):
        one("plain", right, burst("plain", in_lines(broken(texts(), fault, 60)), cut))


# --- the numbers of log frames ----------------------------------------------------------------

# The command from which the number is wrong: behind 9, behind 99, and where no number gets longer.
WHERE: Final = pytest.mark.parametrize("at", [1, 8, 9, 10, 50, 98, 99, 100])


def counted(numbers: Iterable[int]) -> list[bytes]:
    """Return commands with these log numbers."""
    return [b"CMD %d 5 %b\n" % pair for pair in zip(numbers, texts(), strict=True)]


def told(number: int, before: int) -> AbstractContextManager[object]:
    return refused(f"log frame {number} follows on {before}$")


@BOTH_CUTS
@WHERE
def test_a_gap_in_the_log_is_found(at: int, cut: Cut) -> None:
    numbers = [*range(1, at + 1), *range(at + 2, COMMANDS + 2)]
    with told(at + 2, at):
        one("rank", burst("rank", counted(numbers), cut))


@BOTH_CUTS
@WHERE
def test_a_number_that_comes_twice_is_found(at: int, cut: Cut) -> None:
    numbers = [*range(1, at + 1), *range(at, COMMANDS)]
    with told(at, at):
        one("rank", burst("rank", counted(numbers), cut))


@WHERE
@pytest.mark.parametrize("wrong", [-1, 1])
def test_one_wrong_number_is_found(at: int, wrong: int) -> None:
    numbers = [*range(1, COMMANDS + 1)]
    numbers[at] += wrong
    with told(at + 1 + wrong, at):
        one("rank", burst("rank", counted(numbers)))


@pytest.mark.parametrize("wrong", [-1, 1])
def test_numbers_go_on_from_one_burst_to_the_next(wrong: int) -> None:
    def log(first: int) -> Burst:
        return burst("rank", in_log(texts(), first))

    assert len(one("rank", log(1), log(COMMANDS + 1), log(2 * COMMANDS + 1))) == 3
    with told(COMMANDS + 1 + wrong, COMMANDS):
        one("rank", log(1), log(COMMANDS + 1 + wrong))


@BOTH_CUTS
@WHERE
def test_a_join_and_a_left_between_commands_are_fine(at: int, cut: Cut) -> None:
    items = texts()
    items[at:at] = [b"JOIN %d 3\n", b"LEFT %d 0-2,4\n"]
    items[at - 1 : at - 1] = [b"LEFT %d 3\n"]
    (event,) = one("rank", burst("rank", in_log(items), cut))

    assert event["commands"] == COMMANDS


@BOTH_CUTS
@pytest.mark.parametrize("at", [9, 50])
@pytest.mark.parametrize("verb", [b"JOIN", b"LEFT"])
def test_a_join_or_left_that_is_lost_or_comes_twice_is_found(verb: bytes, at: int, cut: Cut) -> None:
    items = texts()
    items.insert(at, verb + b" %d 3\n")
    frames = in_log(items)
    with told(at + 2, at):
        one("rank", burst("rank", broken(frames, lost, at), cut))
    with told(at + 1, at + 1):
        one("rank", burst("rank", broken(frames, doubled, at), cut))


# Invalid bytes in front of the command with the number 51, and the generator's messages.
WRONG_HEADS: Final = {
    b"CMD 51 x ": "bad frame: x $",
    b"CMD 51  ": "bad frame:  $",
    b"CMD 51 ": "bad frame: $",
    b"CMD x51 5 ": "bad frame: x51 5",
    b"CMD 51 5 5 ": "unexpected bytes before a command: CMD 51 5 5 $",
    b"CMD 51 5 CMD 52 5 ": "unexpected bytes before a command: CMD 51 5 CMD 52 5 $",
    b"CMX 51 5 ": "unexpected bytes before a command: CMX 51",
    b"cmd 51 5 ": "unexpected bytes before a command: cmd 51",
    b"xCMD 51 5 ": "unexpected bytes before a command: xCMD",
    b"\nCMD 51 5 ": "unexpected bytes before a command",
    b"PING 51 \nCMD 52 5 ": "unexpected bytes before a command: PING",
    b"JOIN 51 3 CMD 52 5 ": "a frame without an end",
    b"JOIN 51 3\n": "a text without a command in front",
    b"": "a text without a command in front",
}


@BOTH_CUTS
@pytest.mark.parametrize(("head", "message"), WRONG_HEADS.items())
def test_a_malformed_log_frame_is_found(head: bytes, message: str, cut: Cut) -> None:
    frames = broken(in_log(texts()), front(b"CMD 51 5 ", head), 50)
    with refused(message):
        one("rank", burst("rank", frames, cut))


@pytest.mark.parametrize(("number", "guess"), [(b"10", b"CMD!0 5 "), (b"100", b"CMD!00 5 ")])
def test_a_number_that_gets_longer_is_not_counted_up_in_place(number: bytes, guess: bytes) -> None:
    frames = broken(in_log(texts()), front(b"CMD %b 5 " % number, guess), int(number) - 1)
    with refused("unexpected bytes before a command: CMD!0"):
        one("rank", burst("rank", frames))


# --- several senders --------------------------------------------------------------------------


def crowd(
    rank: int, order: Sequence[int] = range(SENDERS), senders: int = SENDERS, each: int = EACH
) -> list[bytes]:
    """Return lines of all senders except ``rank``, which take turns in this order."""
    said = [texts(each, sender) for sender in range(senders)]
    return [b"%d %b\n" % (who, said[who][index]) for index in range(each) for who in order if who != rank]


def every(lines: Sequence[Sequence[bytes]], cut: Cut) -> list[Event]:
    """Play a burst in which each client sends and gets these lines."""
    streams = [b"".join(stream) for stream in lines]
    return play("plain-all", 0, SENDERS, Burst(streams, cut, SENDERS * EACH))


def with_fault(fault: Fault, at: int, cut: Cut) -> None:
    """Play such a burst with a fault in the stream of the third client."""
    lines = [crowd(rank) for rank in range(SENDERS)]
    fault(lines[2], at)
    every(lines, cut)


@BOTH_CUTS
def test_streams_that_have_no_fault_pass_one_by_one(cut: Cut) -> None:
    (event,) = every([crowd(rank) for rank in range(SENDERS)], cut)

    assert event["same_order"] is True
    assert event["streams"] == SENDERS
    assert event["deliveries"] == SENDERS * EACH * (SENDERS - 1)
    assert event["stream_bytes"] == len(b"".join(crowd(0)))


@BOTH_CUTS
@pytest.mark.parametrize("other", range(SENDERS))
def test_a_different_order_of_the_senders_is_reported(other: int, cut: Cut) -> None:
    lines = [crowd(rank) for rank in range(SENDERS)]
    lines[other] = crowd(other, range(SENDERS)[::-1])
    (event,) = every(lines, cut)

    assert event["same_order"] is False


@BOTH_CUTS
@pytest.mark.parametrize("same", [True, False])
def test_receivers_may_get_several_senders_in_their_own_order(cut: Cut, *, same: bool) -> None:
    streams = [b"".join(crowd(9, order, 2)) for order in ([0, 1], [0, 1] if same else [1, 0])]
    (event,) = play("plain", 2, 2, Burst(streams, cut, 2 * EACH))

    assert event["same_order"] is same
    assert event["deliveries"] == 4 * EACH


# The place of the command with index 4 of sender 1 in the third client's stream; others surround it.
AT: Final = 13

WRONG_LINES: Final[dict[str, tuple[Fault, str]]] = {
    "lost": (lost, "command 15 of the stream is @0001:00000005, expected index 4$"),
    "doubled": (doubled, "command 14 of the stream is @0001:00000004, expected index 5$"),
    "swapped": (
        lambda items, at: swapped(items, at, SENDERS - 1),
        "command 13 of the stream is @0001:00000005, expected index 4$",
    ),
    "filler": (byte(-2, b"y"), "the text of command @0001:00000004 arrived changed$"),
    "index": (byte(8, b"1"), "is @0001:10000004, expected index 4$"),
    "no index": (byte(9, b"?"), "command 13 of the stream has no id: @0001:0"),
    "nobody": (byte(6, b"9"), "is @0009:00000004, expected index 0$"),
    "somebody else": (byte(6, b"3"), "command 14 of the stream is @0003:00000004, expected index 5$"),
    "end": (byte(-1, b"\r"), "the frame of command @0001:00000004 does not end behind it$"),
    "no rank": (front(b"1 ", b""), "bad frame"),
    "bad rank": (front(b"1 ", b"x1 "), "bad frame: x1"),
    "two ranks": (front(b"1 ", b"1 1 "), "unexpected bytes behind a rank: 1 "),
    "empty line": (behind(b"\n"), "bad frame"),
    "no command": (behind(b"y" * 200), "connection 2 got what is no command: yyy"),
    "its own": (behind(b"2 %b\n" % texts(1, 2)[0]), "connection 2 got its own command @0002:00000000$"),
}


@BOTH_CUTS
@pytest.mark.parametrize(("fault", "message"), WRONG_LINES.values(), ids=WRONG_LINES)
def test_a_fault_in_the_stream_of_one_client_is_found(fault: Fault, message: str, cut: Cut) -> None:
    with refused(message):
        with_fault(fault, AT, cut)


def test_an_own_command_does_not_replace_a_lost_one() -> None:
    def instead(items: list[bytes], at: int) -> None:
        items[at] = b"2 %b\n" % texts(1, 2)[0]

    with refused("connection 2 got its own command @0002:00000000$"):
        with_fault(instead, -1, whole)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (b"3", "connection 2: unexpected bytes behind the last command: 3$"),
        (b"3 %b\n" % texts(1, 3)[0], "connection 2 got @0003:00000000, but has all 30 commands$"),
    ],
)
def test_bytes_behind_the_last_command_of_one_client_are_found(extra: bytes, message: str) -> None:
    with refused(message):
        with_fault(behind(extra), -1, whole)


def test_a_stream_among_several_that_is_cut_is_found() -> None:
    streams = [b"".join(crowd(rank)) for rank in range(SENDERS)]
    streams[2] = streams[2][:100]
    with refused(r"connection 2 was closed by the server after 100 bytes of the phase \(end of stream"):
        play("plain-all", 0, SENDERS, Burst(streams, whole, SENDERS * EACH, closed=2))


@BOTH_CUTS
def test_with_ranks_all_streams_have_one_order(cut: Cut) -> None:
    """With ranks the log has one order, so a client that gets commands in another order is a fault."""

    def log(order: Sequence[int]) -> bytes:
        said = [texts(EACH, sender) for sender in range(2)]
        return b"".join(in_log(said[who][index] for index in range(EACH) for who in order))

    def run(*orders: Sequence[int]) -> list[Event]:
        return play("rank", 0, 2, Burst([log(order) for order in orders], cut, 2 * EACH))

    (event,) = run([0, 1], [0, 1])
    assert event["same_order"] is True
    with refused("two receivers differ at byte 12 of the phase"):
        run([0, 1], [1, 0])


@pytest.mark.parametrize(
    ("fault", "message"), [(lost, "00000006, expected index 5$"), (doubled, "00000005, expected index 6$")]
)
def test_a_fault_in_the_common_stream_of_senders_is_found(fault: Fault, message: str) -> None:
    said = [text for pair in zip(texts(EACH, 0), texts(EACH, 1), strict=True) for text in pair]
    stream = b"".join(in_log(broken(said, fault, 11)))
    with refused("is @0001:" + message):
        play("rank", 0, 2, Burst([stream, stream], whole, 2 * EACH))


# --- members ----------------------------------------------------------------------------------


def drop_one(wrong: str = "") -> Event:
    """Return the generator's report when one of its members leaves."""
    harness.build()
    with ThreadPoolExecutor(1) as thread, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(BOUND)
        served = thread.submit(tell_three, listener, wrong)
        host, port = listener.getsockname()
        with Program("members", [str(harness.PROGRAM), "members", host, str(port), "0", "0"]) as members:
            assert members.event() == {"event": "ready"}
            assert members.ask("join 3")["clients"] == 3
            assert members.ask("settle")["clients"] == 3
            event = members.ask("drop 1 1")
    served.result()
    return event


def test_members_with_right_ranks_pass() -> None:
    assert drop_one()["survivors"] == 2


@pytest.mark.parametrize("wrong", ["joined", "left"])
def test_a_member_with_a_wrong_rank_is_found(wrong: str) -> None:
    with refused(r"client \d believes that its rank is \d, not \d"):
        drop_one(wrong)
