"""The attacks of docs/reliability.md by strangers, members and former members, over each transport.

Sizes, periods and kinds of JSON vary. Times are checked by ``make reliability`` only.
"""

from __future__ import annotations

from itertools import cycle, product

import pytest

from tests.abuse import expensive, lateness
from tests.abuse.expensive import KINDS, VALID, ExpensiveAttack
from tests.abuse.lateness import LateAttack
from tests.abuse.outcome import MIB
from tests.abuse.subjects import RANK
from tests.abuse.transports import ROLES, TRANSPORTS

HELLOS = [
    ExpensiveAttack(transport, "stranger", kind, size, connections)
    for (transport, kind), (size, connections) in zip(
        product(["tcp", "unix"], VALID), cycle([(60_000, 40), (10_000, 160), (3000, 500), (30_000, 80)])
    )
]
ANSWERS = [
    ExpensiveAttack(transport, "member", kind, size, connections)
    for transport, kind, (size, connections) in zip(
        cycle(TRANSPORTS), KINDS, cycle([(30_000, 80), (60_000, 40), (60_000, 40), (10_000, 160)])
    )
]
REFUSED = [
    ExpensiveAttack(transport, role, kind, 30_000, 20)
    for (transport, role), kind in zip(product(TRANSPORTS, ROLES), KINDS, strict=False)
]

# Options with which a flood makes clients wait at once, and is not over because the flooder was dropped.
SMALL_LIMITS = ("--max-backlog", str(4 * MIB), "--slow-timeout", "5")

LATE = [
    LateAttack(transport, role, period, part, size)
    for (transport, role), (period, part, size) in zip(
        product(TRANSPORTS, ROLES),
        cycle([(0.5, MIB // 2, 1000), (0.2, MIB // 8, 16_000), (0.4, MIB // 4, 30), (0.3, MIB, 300)]),
    )
]


@pytest.mark.parametrize("attack", [*HELLOS, *ANSWERS], ids=str)
def test_a_turn_handles_few_expensive_lines(attack: ExpensiveAttack) -> None:
    assert expensive.turns(attack) >= expensive.fewest_turns(attack)


@pytest.mark.parametrize("attack", REFUSED, ids=str)
def test_every_expensive_line_is_refused(attack: ExpensiveAttack) -> None:
    outcome = expensive.expensive_lines(RANK, [attack], seconds=0)
    assert outcome.unmet == []


@pytest.mark.parametrize("attack", LATE, ids=str)
def test_a_late_reader_holds_up_no_higher_rank(attack: LateAttack) -> None:
    outcome = lateness.late_reader(RANK, [attack], seconds=1.5, options=SMALL_LIMITS)
    assert outcome.unmet == []


@pytest.mark.parametrize("attack", LATE, ids=str)
def test_a_late_asker_holds_up_no_answerer(attack: LateAttack) -> None:
    outcome = lateness.late_asker(RANK, [attack._replace(size=4000)], seconds=1.5, options=SMALL_LIMITS)
    assert outcome.unmet == []
