"""The simulation: it is deterministic, the server passes it, and it catches broken servers."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from simulate import mutants
from simulate.mutants import MUTANTS, Mutant
from simulate.run import simulate, trace
from tests.support.paths import ROOT

SEEDS = 60
QUICK = (
    "a LEFT names the ranks after it",
    "classes are ignored",
    "the answer goes to the one who answers",
    "a closed descriptor stays registered",
    "what had to wait is forgotten",
    "an entry of the heartbeat is lost",
    "a transition that is not in the table",
    "a batch is applied twice",
    "the state looks at channels",
    "the oldest ask of anybody is forgotten",
    "an asker is not told that its ask was forgotten",
    # Bugs that the server once had.
    "a client that joins while it is blocked is not heard",
    "a block is rewound under who has left",
    "a turn follows at once for ever",
)


def test_a_seed_has_one_trace_and_another_seed_another() -> None:
    assert simulate(7) == simulate(7)
    assert trace(7) == trace(7)
    assert simulate(7).trace != simulate(8).trace


def test_seeds_have_the_same_trace_in_another_process() -> None:
    command = [sys.executable, "-m", "simulate", "--seeds", "20"]
    said = [subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout for _ in range(2)]
    first, second = (re.findall(rb"trace [0-9a-f]{16}", one) for one in said)
    assert first == second
    assert first


@pytest.mark.parametrize("first", range(0, SEEDS, 20))
def test_every_invariant_holds_at_each_turn(first: int) -> None:
    for seed in range(first, first + 20):
        assert simulate(seed).turns


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda m: m.name
)
def test_a_broken_server_is_caught(mutant: Mutant) -> None:
    assert mutants.caught(mutant)


def test_a_mutant_whose_original_text_is_gone_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 times"):
        mutants.caught(Mutant("stale", "server.py", "no such text", ""))
