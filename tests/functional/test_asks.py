"""Answers to ASK (docs/protocol.md), from the real server: which clients may answer, and who gets the
answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rankserver.asks import MAX_ASKS_PER_MEMBER
from tests.support.rawclient import RawClient
from tests.support.servers import ServerProcess

Connect = Callable[[ServerProcess], RawClient]
Join = Callable[..., list[RawClient]]


def ask(asker: RawClient, others: list[RawClient], text: bytes = b"uptime") -> int:
    """Let ``asker`` ask, and wait until all have the ASK; return its seq."""
    asker.send(b"ASK %s\n" % text)
    line = asker.expect(b"ASK ")
    assert [other.line() for other in others] == [line] * len(others)
    return int(line.split()[1])


@pytest.mark.parametrize(
    "answer",
    [
        b"ok",
        b"fail",
        b"refused",
        b"denied",
        b"timeout",
        b'ok {"code":0,"out":"a\\nb","ms":12,"truncated":false}',
        b'fail {"unknown": {"field": [null]}, "out": "\xe2\x82\xac"}',
    ],
)
def test_an_answer_goes_to_the_asker_alone_with_rank_and_name(
    shared: ServerProcess, join: Join, answer: bytes
) -> None:
    asker, executor, other = join(shared, "asker", "executor", "other")
    seq = ask(asker, [executor, other])
    executor.send(b"RES %d %s\r\n" % (seq, answer))
    assert executor.settle() == []
    assert asker.line() == b"RES %d 1 executor %s" % (seq, answer)
    assert asker.settle() == other.settle() == []


def test_all_others_may_answer_in_any_order_and_at_any_rank(anywhere: ServerProcess, join: Join) -> None:
    first, asker, last = clients = join(anywhere, "first", "asker", "last")
    seq = ask(asker, [first, last])
    for rank, name in ((2, b"last"), (0, b"first")):
        clients[rank].send(b"RES %d refused\n" % seq)
        assert asker.line() == b"RES %d %d %s refused" % (seq, rank, name)


def test_the_answer_may_come_in_one_write_with_other_frames(server: ServerProcess, join: Join) -> None:
    asker, executor = join(server, "asker", "executor")
    seqs = [ask(asker, [executor]) for _ in range(3)]
    executor.send(b"".join(b"CMD x\nRES %d ok\n" % seq for seq in reversed(seqs)))
    expected = [
        line
        for n, seq in enumerate(reversed(seqs))
        for line in (b"CMD %d 1 x" % (seqs[-1] + 1 + n), b"RES %d 1 executor ok" % seq)
    ]
    assert asker.lines(6) == expected


def test_only_the_first_answer_counts(server: ServerProcess, join: Join) -> None:
    asker, executor, _ = join(server, "asker", "executor", "other")
    seq = ask(asker, [executor])
    executor.send(b"RES %d ok\nRES %d fail\n" % (seq, seq))
    assert str(seq).encode() in executor.expect(b"ERR no-such-ask ")
    assert asker.settle() == [b"RES %d 1 executor ok" % seq]


def test_a_client_cannot_answer_its_own_ask(server: ServerProcess, join: Join) -> None:
    asker, executor = join(server, "asker", "executor")
    seq = ask(asker, [executor])
    asker.send(b"RES %d ok\n" % seq)
    asker.expect(b"ERR no-such-ask ")
    executor.send(b"RES %d ok\n" % seq)
    asker.expect(b"RES ")


def test_a_client_that_joined_after_an_ask_may_not_answer_it(
    server: ServerProcess, connect: Connect, join: Join
) -> None:
    asker, executor, leaver = join(server, "asker", "executor", "leaver")
    seq = ask(asker, [executor, leaver])
    # The later client takes the slot of one that was allowed to answer.
    leaver.send(b"BYE\n")
    asker.expect(b"LEFT ")
    later = connect(server)
    later.hello("later")
    later.send(b"RES %d ok\n" % seq)
    later.expect(b"ERR no-such-ask ")
    executor.send(b"RES %d ok\n" % seq)
    assert [line for line in asker.settle() if line.startswith(b"RES ")] == [b"RES %d 1 executor ok" % seq]


@pytest.mark.parametrize("what", ["a CMD", "a JOIN", "no frame yet", "zero", "an ASK without others"])
def test_an_answer_to_a_seq_that_is_no_ask_is_rejected(
    server: ServerProcess, connect: Connect, what: str
) -> None:
    client = connect(server)
    join_seq = client.hello()["seq"]
    client.send(b"ASK nobody is there\n")
    ask_seq = int(client.expect(b"ASK ").split()[1])
    executor = connect(server)
    executor.hello()
    client.expect(b"JOIN ")
    client.send(b"CMD x\n")
    cmd_seq = int(client.expect(b"CMD ").split()[1])
    executor.expect(b"CMD ")
    seqs = {
        "a CMD": cmd_seq,
        "a JOIN": join_seq,
        "no frame yet": cmd_seq + 1,
        "zero": 0,
        "an ASK without others": ask_seq,
    }
    executor.send(b"RES %d ok\n" % seqs[what])
    executor.expect(b"ERR no-such-ask ")
    assert client.settle() == []


def test_an_answer_to_an_asker_that_has_left_is_dropped(anywhere: ServerProcess, join: Join) -> None:
    asker, executor, other = join(anywhere, "asker", "executor", "other")
    seq = ask(asker, [executor, other])
    asker.send(b"BYE\n")
    assert executor.line() == other.line() == b"LEFT %d 0" % (seq + 1)
    executor.send(b"RES %d ok\n" % seq)
    assert executor.settle() == other.settle() == []


def test_an_answer_while_its_asker_leaves_harms_nobody(server: ServerProcess, join: Join) -> None:
    asker, executor, other = join(server, "asker", "executor", "other")
    seq = ask(asker, [executor, other])
    with server.paused():
        asker.send(b"BYE\n")
        executor.send(b"RES %d ok\n" % seq)
        other.send(b"RES %d ok\n" % seq)
    assert executor.expect(b"LEFT ").endswith(b" 0")
    assert executor.settle() == []
    assert executor.roster() == ["executor", "other"]


def test_an_answer_carries_the_current_rank_of_its_sender(server: ServerProcess, join: Join) -> None:
    first, asker, executor = join(server, "first", "asker", "executor")
    seq = ask(asker, [first, executor])
    first.close()
    assert executor.expect(b"LEFT ").endswith(b" 0")
    executor.send(b"RES %d ok\n" % seq)
    assert asker.lines(2) == [b"LEFT %d 0" % (seq + 1), b"RES %d 1 executor ok" % seq]


def test_an_answer_right_before_a_disconnect_precedes_the_left(anywhere: ServerProcess, join: Join) -> None:
    asker, *executors = join(anywhere, "asker", "x", "x", "x")
    seq = ask(asker, executors)
    for executor, leave in zip(executors, (RawClient.close, RawClient.abort, half_bye), strict=True):
        executor.send(b"RES %d ok\n" % seq)
        leave(executor)
        assert asker.line() == b"RES %d 1 x ok" % seq
        assert asker.expect(b"LEFT ").endswith(b" 1")


def half_bye(client: RawClient) -> None:
    client.send(b"BYE\nCMD nothing after it counts")


# --- too many asks ----------------------------------------------------------------------------


def test_a_flood_of_asks_costs_nobody_else_an_ask(server: ServerProcess, join: Join) -> None:
    boss, executor, flooder = join(server, "boss", "executor", "flooder")
    of_boss = ask(boss, [executor, flooder])
    of_executor = ask(executor, [boss, flooder])
    first, count = of_executor + 1, 64 * MAX_ASKS_PER_MEMBER
    flooder.send(b"ASK x\n" * count)
    assert flooder.lines(2 * count - MAX_ASKS_PER_MEMBER) == [
        line
        for seq in range(first, first + count)
        for line in (b"ASK %d 2 x" % seq, b"DROPPED %d" % (seq - MAX_ASKS_PER_MEMBER))
        if line.startswith(b"ASK ") or seq >= first + MAX_ASKS_PER_MEMBER
    ]
    kept, last = first + count - MAX_ASKS_PER_MEMBER, first + count - 1
    executor.send(b"".join(b"RES %d ok\n" % seq for seq in (of_boss, first, kept - 1, kept, last)))
    assert besides_asks(executor) == [
        b"ERR no-such-ask no ASK %d is waiting for your answer" % seq for seq in (first, kept - 1)
    ]
    boss.send(b"RES %d ok\n" % of_executor)
    assert besides_asks(boss) == [b"RES %d 1 executor ok" % of_boss]
    assert executor.settle() == [b"RES %d 0 boss ok" % of_executor]
    assert flooder.settle() == [b"RES %d 1 executor ok" % seq for seq in (kept, last)]


def besides_asks(client: RawClient) -> list[bytes]:
    """Return what a client receives until the server has handled all it sent, without ASKs."""
    return [line for line in client.settle() if not line.startswith(b"ASK ")]


def test_answered_asks_do_not_count_at_the_limit(server: ServerProcess, join: Join) -> None:
    asker, executor = join(server, "asker", "executor")
    for _ in range(2):
        asker.send(b"ASK x\n" * MAX_ASKS_PER_MEMBER)
        seqs = [int(line.split()[1]) for line in executor.lines(MAX_ASKS_PER_MEMBER)]
        executor.send(b"".join(b"RES %d ok\n" % seq for seq in seqs))
        assert executor.settle() == []
        lines = asker.settle()
        assert not [line for line in lines if line.startswith(b"DROPPED ")]
        assert len(lines) == 2 * MAX_ASKS_PER_MEMBER


def test_all_answers_to_a_flooder_that_has_left_are_dropped(server: ServerProcess, join: Join) -> None:
    executor, flooder = join(server, "executor", "flooder")
    flooder.send(b"ASK x\n" * MAX_ASKS_PER_MEMBER + b"BYE\n")
    asks = executor.lines(MAX_ASKS_PER_MEMBER)
    executor.expect(b"LEFT ")
    executor.send(b"".join(b"RES %s ok\n" % line.split()[1] for line in asks))
    assert executor.settle() == []
