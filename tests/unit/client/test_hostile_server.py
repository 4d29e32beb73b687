"""A server that lies: whatever it sends ends with a clear message, and costs no more than its bytes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankserver.client import session as session_module
from rankserver.client.events import Answer, ClientsChanged, Disconnected, Event
from rankserver.client.members import MAX_OLD_NAMES
from rankserver.client.session import Session, SessionState
from rankserver.wire import grammar
from tests.support.costs import cost_of
from tests.support.scripted import SHORT_BANNER, bytewise, joined, welcome

MILLION = grammar.MAX_CLIENTS
BROKEN = "the server broke the protocol: "
NOT_OURS = "this is not a rankserver: it says "


# --- what each frame may say ------------------------------------------------------------------


def info(**fields: object) -> bytes:
    return SHORT_BANNER.replace(
        b"}", b"".join(b',"%s":%s' % (k.encode(), str(v).encode()) for k, v in fields.items()) + b"}"
    )


def greeted(**fields: str) -> bytes:
    """Return a WELCOME with some fields replaced by this JSON."""
    return (
        SHORT_BANNER
        + welcome(1, 3)[:-2]
        + "".join(f',"{key}":{value}' for key, value in fields.items()).encode()
        + b"}\n"
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (info(max_line=30), f"{BROKEN}INFO with a max_line of 30, which is not from 256 to 16777216"),
        (info(max_line=0), f"{BROKEN}INFO with a max_line of 0, which"),
        (info(max_line=2**40), f"{BROKEN}INFO with a max_line of {2**40}, which"),
        (info(max_line=-1), NOT_OURS),
        (info(max_line=10**30), NOT_OURS),
        (info(max_line="1e400"), NOT_OURS),
        (info(auth='"false"'), NOT_OURS),
        (info(server="[[]]"), NOT_OURS),
        (info(proto=10**15), "the server speaks protocol 1000000000000000, this client speaks 1"),
        (greeted(heartbeat='"nan"'), f"{BROKEN}WELCOME has an invalid field: heartbeat is not a number"),
        (greeted(heartbeat="NaN"), f"{BROKEN}bad JSON"),
        (greeted(heartbeat="1e999"), f"{BROKEN}WELCOME has an invalid field: heartbeat is not a number"),
        (greeted(heartbeat="-1"), f"{BROKEN}WELCOME has an invalid field: heartbeat is not a number"),
        (greeted(heartbeat="1" + 400 * "0"), f"{BROKEN}WELCOME has an invalid field: heartbeat is not a num"),
        (greeted(heartbeat="true"), f"{BROKEN}WELCOME has an invalid field: heartbeat is not a number"),
        (greeted(heartbeat="1e300"), f"{BROKEN}WELCOME with a heartbeat of 1e+300 seconds"),
        (greeted(heartbeat="1e-300"), f"{BROKEN}WELCOME with a heartbeat of 1e-300 seconds"),
        (greeted(seq="1" + 30 * "0"), f"{BROKEN}WELCOME has an invalid field: seq is not a whole number"),
        (greeted(rank="3"), f"{BROKEN}WELCOME with rank 3 of 3"),
        (greeted(clients="0"), f"{BROKEN}WELCOME with rank 1 of 0"),
        (greeted(clients="1000001"), f"{BROKEN}WELCOME with rank 1 of 1000001"),
        (greeted(session="{}"), f"{BROKEN}WELCOME has an invalid field: session is not a string"),
        (SHORT_BANNER + b"ERR bad-frame x\n", f"{BROKEN}an ERR before WELCOME"),
        (SHORT_BANNER + b"RES 1 0 a ok\n", f"{BROKEN}RES from rank 0"),
        (SHORT_BANNER + b'ROSTER {"total":0,"from":0,"clients":[]}\n', f"{BROKEN}a ROSTER before WELCOME"),
        (b"x" * 70_000, f"{BROKEN}a line is longer than 65536 bytes"),
        (SHORT_BANNER + b"BYE full " + b"x" * 2_000 + b"\n", f"{BROKEN}a line is longer than 1256 bytes"),
        (SHORT_BANNER + b"PING\n" * 9 + b"x" * 2_000, f"{BROKEN}a line is longer than 1256 bytes"),
    ],
)
def test_a_server_that_lies_while_we_join_is_left(data: bytes, words: str) -> None:
    for receive in (Session.receive_data, bytewise):
        session = Session()
        session.hello()
        (last,) = receive(session, data)
        assert isinstance(last, Disconnected)
        assert last.text.startswith(words)
        assert session.state is SessionState.OVER


def roster(total: int, start: int, *ranks: int) -> bytes:
    clients = ",".join(f'{{"rank":{rank},"name":"a"}}' for rank in ranks)
    return f'ROSTER {{"total":{total},"from":{start},"clients":[{clients}]}}\n'.encode()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (roster(4, 0, 0), "ROSTER has a total of 4, but the number of clients is 3"),
        (roster(3, 0, 0) + roster(2, 1, 1), "ROSTER has a total of 2, but the number of clients is 3"),
        (roster(3, 0), "ROSTER lists 0 clients from rank 0 on, of 3 in all"),
        (roster(3, 0, 0, 1, 2, 3), "ROSTER lists 4 clients from rank 0 on, of 3 in all"),
        (roster(3, 0, 0) + roster(3, 0, 0), "expected ROSTER from rank 1 on, got it from 0 on"),
        (roster(3, 0, 0, 2, 1), "ROSTER does not list the ranks from 0 to 2 in order"),
        (roster(3, 0, 7, 7, 7), "ROSTER does not list the ranks from 0 to 2 in order"),
        (b"JOIN 1 3-999999\nJOIN 2 0\n", "JOIN makes the number of clients 1000001, more than 1000000"),
        (b"JOIN 1 0-1000000\n", "rank 1000000 is not below 1000000"),
        (b"JOIN 1 \n", "rank"),
        (b"LEFT 1 0,0\n", "ranks '0,0' do not ascend"),
        (b"LEFT 1 0-2\n", "LEFT has rank 2, but this is rank 1 of 3"),
        (b"CMD %d 0 x\n" % 10**30, "seq"),
        (b"CMD 2 0 x\n", "expected log frame 1, got 2"),
        (b"CMD 1 999999 x\n", "a command from rank 999999, but the number of clients is 3"),
    ],
)
def test_a_server_that_lies_after_we_joined_is_left(data: bytes, words: str) -> None:
    for receive in (Session.receive_data, bytewise):
        session = joined(1, 3)
        *_, last = receive(session, data)
        assert isinstance(last, Disconnected)
        assert last.text.startswith(BROKEN + words)


def test_what_came_before_a_line_without_end_counts() -> None:
    for receive in (Session.receive_data, bytewise):
        assert receive(joined(0, 1), b"JOIN 1 1\n" + b"x" * 2_000) == [
            ClientsChanged(2, 1),
            Disconnected("", f"{BROKEN}a line is longer than 1256 bytes"),
        ]


def test_answers_to_unknown_asks_and_errors_are_not_kept() -> None:
    session = joined(0, 3)
    lines = b"RES 9 1 a ok\nRES 1 0 me fail {}\n" * 100
    assert session.receive_data(lines) == []
    assert len(session.receive_data(b"ERR no-such-ask x\n" * 100)) == 100
    assert session.unsent == 0


@pytest.mark.parametrize("line", [b"PING " + b"x" * 900, b"ASK %d 1 x"])
def test_a_server_that_asks_without_reading_is_left(monkeypatch: pytest.MonkeyPatch, line: bytes) -> None:
    monkeypatch.setattr(session_module, "MAX_UNSENT_ANSWERS", 10_000)
    session = joined(0, 2)
    flood = (line % seq if b"%" in line else line for seq in itertools.count(1))
    for _ in range(2_000):  # our answers are read
        session.receive_data(next(flood) + b"\n")
        session.data_to_send()
    happened: list[Event] = []
    while not any(isinstance(event, Disconnected) for event in happened):
        happened = session.receive_data(next(flood) + b"\n")
        assert session.unsent < 11_000
    assert happened[-1] == Disconnected("", f"{BROKEN}it asks, and does not read our answers")


# No more than 1,000 clients may join: each would cost each of our asks an answer in the end.
NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 5, 255, 999, MILLION, 10**19 - 1, 10**19, 10**30])
LISTS = st.lists(NUMBERS | st.integers(0, 9), min_size=1, max_size=3).map(
    lambda ranks: ",".join(map(str, sorted(set(ranks))))
) | st.tuples(NUMBERS, NUMBERS).map(lambda pair: "{}-{}".format(*sorted(pair)))


@st.composite
def hostile_lines(draw: st.DrawFn) -> bytes:
    seq = itertools.count(1)
    lines = []
    for kind in draw(st.lists(st.integers(0, 7), max_size=12)):
        number, other, ranks = draw(NUMBERS), draw(NUMBERS), draw(LISTS)
        place = next(seq) if kind < 4 else number
        line = (
            f"JOIN {place} {ranks}",
            f"LEFT {place} {ranks}",
            f"ASK {place} {draw(st.integers(0, 4))} up",
            f"CMD {place} {draw(st.integers(0, 4))} x",
            f"RES {number} {other} a ok",
            f'ROSTER {{"total":{number},"from":{other},"clients":[{{"rank":{other},"name":"a"}}]}}',
            f"ERR bad-frame {number}",
            f"JOIN {number} {ranks}",
        )[kind]
        lines.append(line)
    return "".join(line + "\n" for line in lines).encode()


@settings(max_examples=300, deadline=None)
@given(hostile_lines())
def test_any_numbers_mean_the_same_whole_and_byte_by_byte(data: bytes) -> None:
    seen = []
    for receive in (Session.receive_data, bytewise):
        session = joined(1, 3)
        for text in ("up", "x", "up"):
            session.ask(text)
        events = receive(session, data)
        ends = [event for event in events if isinstance(event, Disconnected)]
        assert ends == events[-1:] if ends else session.state is SessionState.JOINED
        seen.append((len(events), events[:50], events[-50:], session.unsent))
    assert seen[0] == seen[1]


# --- what frames cost -------------------------------------------------------------------------

# As many clients as a server may claim, but for those that join later.
CLAIMED = MILLION - 100_000
# A frame of many ranks passes over some hundred runs of members for each, and one has at least two bytes.
MAX_STEPS_PER_BYTE = 100
MAX_MEMORY_PER_BYTE = 64
MAX_BASE_MEMORY = 65_536


def lone() -> Iterator[str]:
    """Let single clients come and go at random places."""
    rng = random.Random(1)
    for _ in range(200):
        yield f"JOIN {rng.randrange(CLAIMED // 2)}"
        yield f"LEFT {rng.randrange(CLAIMED // 2)}"


def masses() -> Iterator[str]:
    """Let almost everybody come and go, in a few bytes each time."""
    for _ in range(100):
        yield f"LEFT 0-{CLAIMED - 2}"
        yield f"JOIN 0-{CLAIMED - 2}"


def combs() -> Iterator[str]:
    """Let every second client leave, others come between those that are left, and then all at once."""
    teeth = ",".join(map(str, range(0, 600, 2)))
    for _ in range(3):
        yield f"LEFT {teeth}"
        yield f"JOIN {teeth}"
    for _ in range(20):
        yield "LEFT 5-500"
        yield "JOIN 5-500"


def frames_of(first: int, changes: Iterator[str]) -> bytes:
    """Return the log frames from number ``first`` on."""
    frames = []
    for seq, change in enumerate(changes, first):
        verb, _, ranks = change.partition(" ")
        frames.append(f"{verb} {seq} {ranks}\n".encode())
    return b"".join(frames)


@pytest.mark.parametrize("changes", [lone, masses, combs])
def test_a_frame_costs_its_bytes_and_not_its_clients(changes: Callable[[], Iterator[str]]) -> None:
    session = joined(CLAIMED - 1, CLAIMED)
    session._lines.max_line = MILLION
    data = frames_of(1, changes())
    happened: list[Event] = []
    cost = cost_of(lambda: happened.extend(session.receive_data(data)))
    assert not isinstance(happened[-1], Disconnected)
    assert cost.steps <= MAX_STEPS_PER_BYTE * len(data)
    assert cost.memory <= MAX_MEMORY_PER_BYTE * len(data) + MAX_BASE_MEMORY


def test_a_million_clients_cost_nothing_to_claim() -> None:
    cost = cost_of(lambda: joined(0, MILLION))
    assert cost.steps <= 1_000
    assert cost.memory <= MAX_BASE_MEMORY


def test_names_of_clients_that_left_are_not_kept_for_ever() -> None:
    session = joined(0, 1)
    names: set[int] = set()
    for seq in range(1, 6_000, 2):
        session.receive_data(b"JOIN %d 1\nRES 1 1 name-%d ok\nLEFT %d 1\n" % (seq, seq, seq + 1))
        names.add(len(session.log._members._names))
    assert max(names) <= 2 * 2 + MAX_OLD_NAMES + 1


def test_asks_are_not_searched_for_clients_that_came_later() -> None:
    costs = []
    for asks in (1, 50):
        session = joined(0, 3)
        for seq in range(1, asks + 1):
            session.ask("x")
            session.receive_data(b"ASK %d 0 x\n" % seq)
        data = frames_of(asks + 1, iter(("JOIN 3", "LEFT 3") * 45))
        costs.append(cost_of(partial(session.receive_data, data)).steps)
        assert len(session.log.open_asks) == asks
    assert costs[0] == costs[1]


def test_a_departure_costs_one_answer_of_each_ask() -> None:
    session = joined(1_999, 2_000)
    for seq in (1, 2, 3):
        session.ask("x")
        session.receive_data(b"ASK %d 1999 x\n" % seq)
    happened: list[Event] = []
    cost = cost_of(lambda: happened.extend(session.receive_data(b"LEFT 4 0-1899\n")))
    assert sum(isinstance(event, Answer) for event in happened) == 3 * 1_900
    assert cost.steps <= 20 * 3 * 1_900
