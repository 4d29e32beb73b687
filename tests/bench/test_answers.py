"""The answers benchmark: the expected lines, and that any others are found."""

from __future__ import annotations

import pytest
from answers import Reply, compare, main
from harness import BenchmarkError

from rankserver.wire import protocol
from rankserver.wire.frames import Result

REPLY = Reply(17, 5, "web-5", "done")


def test_expected_lines_follow_the_protocol() -> None:
    result = protocol.parse_client_line(REPLY.frame.removesuffix(b"\n"))
    assert isinstance(result, Result)
    assert protocol.answer(REPLY.rank, REPLY.name, *result) == f"{REPLY.relayed}\n".encode()


def test_answers_may_come_in_any_order() -> None:
    compare(["a", "b", "b"], ["b", "a", "b"])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (["a"], r"1 answers are missing, as \['b'\], and 0 wrong or doubled"),
        (["a", "b", "b"], r"0 answers are missing, as \[\], and 1 wrong or doubled, as \['b'\]"),
        (["a", "c"], r"1 answers are missing, as \['b'\], and 1 wrong or doubled, as \['c'\]"),
    ],
)
def test_an_answer_that_is_missing_doubled_or_wrong_is_named(found: list[str], words: str) -> None:
    with pytest.raises(BenchmarkError, match=words):
        compare(found, ["a", "b"])


def test_it_fails_when_too_few_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "3", "--asks", "1", "--require", "1000000000"]) == 1
    assert "answers/s are shown, 1,000,000,000 are required" in capsys.readouterr().err
