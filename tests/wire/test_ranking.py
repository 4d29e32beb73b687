from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rankserver.wire import grammar, protocol, ranking
from rankserver.wire.ranking import Verdict


def ascending(most: int) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(0, most), min_size=1).map(sorted)


def spans(*ranks: int) -> list[range]:
    """Return ascending ranks as a frame would have them."""
    (text,) = protocol.rank_lists(ranks, 10_000)
    return grammar.parse_ranks(text.decode())


def test_newcomers_behind_me_do_not_move_me() -> None:
    assert ranking.joined(2, 3, spans(3, 4)) == (2, 5)


def test_newcomers_before_me_move_me_down() -> None:
    assert ranking.joined(0, 1, spans(0)) == (1, 2)
    assert ranking.joined(1, 3, spans(0, 2)) == (3, 5)


def test_departures_before_me_move_me_up() -> None:
    assert ranking.left(4, 6, spans(0, 3, 5)) == (2, 3)


def test_departures_behind_me_do_not_move_me() -> None:
    assert ranking.left(0, 3, spans(1, 2)) == (0, 1)


def test_commands_from_above_are_executed_others_refused() -> None:
    assert [ranking.verdict(1, sender) for sender in range(3)] == [
        Verdict.EXECUTE,
        Verdict.OWN,
        Verdict.REFUSE,
    ]


@given(data=st.data(), n=st.integers(1, 30))
def test_a_join_equals_inserting_into_a_list(data: st.DataObject, n: int) -> None:
    everybody = list(range(n))
    me = data.draw(st.integers(0, n - 1))
    newcomers = data.draw(ascending(n + 5).filter(lambda ranks: ranks[-1] < n + len(ranks)))
    after = list(everybody)
    for rank in newcomers:
        after.insert(rank, -1)
    assert ranking.joined(me, n, spans(*newcomers)) == (after.index(me), len(after))


@given(data=st.data(), n=st.integers(2, 30))
def test_a_leave_equals_deleting_from_a_list(data: st.DataObject, n: int) -> None:
    me = data.draw(st.integers(0, n - 1))
    gone = data.draw(ascending(n - 1).filter(lambda ranks: me not in ranks))
    after = [rank for rank in range(n) if rank not in gone]
    assert ranking.left(me, n, spans(*gone)) == (after.index(me), len(after))


@given(data=st.data(), n=st.integers(1, 30))
def test_a_join_is_undone_when_its_newcomers_leave(data: st.DataObject, n: int) -> None:
    me = data.draw(st.integers(0, n - 1))
    newcomers = data.draw(ascending(n + 5).filter(lambda ranks: ranks[-1] < n + len(ranks)))
    assert ranking.left(*ranking.joined(me, n, spans(*newcomers)), spans(*newcomers)) == (me, n)
