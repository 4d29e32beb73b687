from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from client import groups
from client.groups import GroupRenderer, fold, render_groups
from client.words import Unfinished, render_text
from rankserver.client.events import Answer, AskDone, Counts, RankChanged

SIX_ANSWERS = (
    Answer(7, 1, "web-1", "ok", 0, "Linux\n6.1\n", 3),
    Answer(7, 2, "web-2", "ok", 0, "Linux\n6.2\n", 4),
    Answer(7, 3, "web-3", "ok", 0, "Linux\n6.1\n", 5),
    Answer(7, 4, "db", "fail", 3, "", 6, reason="why"),
    Answer(7, 9, "web-9", "ok", 0, "Linux\n6.1\n", 7),
    Answer(7, 0, "top", "refused"),
)
RENDER = partial(render_text, address="here")


def shown(answers: Sequence[Answer], *, diff: bool = False) -> list[str]:
    return [line.text for line in render_groups(answers, diff=diff)]


def test_equal_answers_are_shown_once_the_most_common_first() -> None:
    answers = list(SIX_ANSWERS)
    for _ in range(10):
        # The order of the answers makes no difference.
        random.shuffle(answers)
        assert shown(answers) == [
            "#7 ranks 1,3,9 (3) web-[1,3,9]",
            "| Linux",
            "| 6.1",
            "#7 rank 0 (1) top: refused",
            "#7 rank 2 (1) web-2",
            "| Linux",
            "| 6.2",
            "#7 rank 4 (1) db: failed with exit code 3 (why)",
        ]


def test_a_diff_shows_differences_from_the_most_common_output() -> None:
    assert shown(SIX_ANSWERS, diff=True) == [
        "#7 ranks 1,3,9 (3) web-[1,3,9]",
        "| Linux",
        "| 6.1",
        "#7 rank 0 (1) top: refused",
        "#7 rank 2 (1) web-2",
        "| @@ -1,2 +1,2 @@",
        "|  Linux",
        "| -6.1",
        "| +6.2",
        "#7 rank 4 (1) db: failed with exit code 3 (why)",
    ]


def test_a_diff_says_where_only_the_outcome_differs() -> None:
    common = [Answer(7, rank, "a", "fail", 1, "x\n") for rank in range(3)]
    others = [Answer(7, 3, "b", "fail", 2, "x\n"), Answer(7, 4, "c", "ok", 0, "x\n")]
    heads = [
        "#7 ranks 0-2 (3) a,a,a: failed with exit code 1",
        "#7 rank 3 (1) b: failed with exit code 2",
        "#7 rank 4 (1) c",
    ]
    assert shown([*common, *others]) == [line for head in heads for line in (head, "| x")]
    said = [heads[0], "| x", f"{heads[1]}, same output", f"{heads[2]}: executed, same output"]
    assert shown([*common, *others], diff=True) == said


@pytest.mark.parametrize("diff", [False, True])
@pytest.mark.parametrize("out", ["a\nb", "a\nb\r", "a\nb\r\n", "a\r\nb\n", "a\r\nb\r\n"])
def test_line_ends_make_no_difference(out: str, diff: bool) -> None:
    answers = [Answer(7, 0, "a", "ok", out="a\nb\n"), Answer(7, 1, "b", "ok", out=out)]
    assert shown(answers, diff=diff) == ["#7 ranks 0-1 (2) a,b", "| a", "| b"]


def test_fields_that_are_not_shown_make_no_difference() -> None:
    answers = [Answer(7, 0, "a", "ok", 0, "x"), Answer(7, 1, "b", "ok", out="x", reason="why")]
    assert shown(answers) == ["#7 ranks 0-1 (2) a,b", "| x"]


def test_no_diff_is_against_an_answer_without_output() -> None:
    answers = [Answer(7, rank, "a", "ok") for rank in range(3)]
    answers += [Answer(7, 3, "b", "ok", out="x"), Answer(7, 4, "c", "ok", out="y")]
    assert shown(answers, diff=True)[1:] == [
        "#7 rank 3 (1) b",
        "| x",
        "#7 rank 4 (1) c",
        "| @@ -1 +1 @@",
        "| -x",
        "| +y",
    ]


def test_outputs_that_would_take_long_to_compare_are_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_DIFF_LINES", 3)
    short, long = "a\nb\nc", "a\nb\nc\nd"
    assert "| -c" in shown([Answer(7, 0, "", "ok", out=short), Answer(7, 1, "", "ok", out="a\nb")], diff=True)
    for first, second in ((short, long), (long, short)):
        answers = [Answer(7, 0, "", "ok", out=first), Answer(7, 1, "", "ok", out=second)]
        assert shown(answers, diff=True) == shown(answers)


@pytest.mark.parametrize(
    ("other", "head"),
    [
        ({"status": "fail"}, "#7 rank 1 (1) ?: failed"),
        ({"status": "fail", "code": 3}, "#7 rank 1 (1) ?: failed with exit code 3"),
        ({"status": "denied", "reason": "no"}, "#7 rank 1 (1) ?: denied (no)"),
        ({"truncated": True}, "#7 rank 1 (1) ?: executed, output truncated"),
        ({"out": ""}, "#7 rank 1 (1) ?: executed"),
        ({"out": "\n"}, "#7 rank 1 (1) ?: executed"),
    ],
)
def test_answers_that_differ_at_all_are_not_grouped(other: dict[str, Any], head: str) -> None:
    first = Answer(7, 0, "", "ok", out="x")
    lines = shown([first, first._replace(rank=1, **other)])
    assert lines[:2] == ["#7 rank 0 (1) ?", "| x"]
    assert lines[2] == head


def test_an_output_cannot_pose_as_a_head_or_a_summary() -> None:
    out = "x\n#7: executed by 3 of 3\n#7 ranks 1-3 (3) web-[1-3]\r\x1b[2K"
    for diff in (False, True):
        answers = [
            Answer(7, 0, "a", "ok", out="x\n\n"),
            Answer(7, 1, "b\n#8", "fail", out=out, reason="\n#9"),
        ]
        heads = [line for line in shown(answers, diff=diff) if not line.startswith("| ")]
        assert heads == ["#7 rank 0 (1) a", "#7 rank 1 (1) b\\x0a#8: failed (\\x0a#9)"]


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["web-1", "web-2", "web-3", "web-9"], "web-[1-3,9]"),
        (["web-3", "web-1", "web-2"], "web-[1-3]"),
        (["web-1"], "web-1"),
        (["web"], "web"),
        (["web", "web"], "web,web"),
        (["web-1", "web-1"], "web-[1,1]"),
        (["web", "web1", "web2"], "web,web[1-2]"),
        (["a1", "b1", "a2", "c"], "a[1-2],b1,c"),
        (["1", "2"], "[1-2]"),
        (["n9", "n10", "n11"], "n[9-11]"),
        (["n08", "n09", "n10"], "n[08-10]"),
        (["n9", "n010"], "n[9,010]"),
        (["n1", "n01", "n2"], "n[1,01,2]"),
        (["n1.example", "n2.example"], "n[1-2].example"),
        (["r1-n1", "r1-n2", "r2-n1"], "r1-n[1-2],r2-n1"),
        (["n1a", "n1b"], "n1a,n1b"),
        (["?", "?"], "?,?"),
        ([], ""),
    ],
)
def test_names_that_differ_in_their_last_number_alone_are_folded(names: list[str], folded: str) -> None:
    assert fold(names) == folded


# --- when ---


def test_only_answers_wait_for_the_end_of_their_ask() -> None:
    render = GroupRenderer(RENDER, diff=False)
    assert render(Answer(7, 1, "a", "ok", out="x")) == []
    assert render(Answer(8, 1, "a", "ok", out="y")) == []
    assert [line.text for line in render(RankChanged(0, 2, 9))] == ["rank is now 0 of 2"]
    done = render(AskDone(8, "", 1, Counts(ok=1)))
    assert [line.text for line in done] == ["#8 rank 1 (1) a", "| y", "#8: executed by 1 of 1"]
    again = render(AskDone(8, "", 0, Counts()))
    assert [line.text for line in again] == ["#8: executed by 0 of 0"]


def test_leaving_early_shows_the_answers_so_far() -> None:
    render = GroupRenderer(RENDER, diff=True)
    for rank, out in enumerate(["x", "x", "y"]):
        assert render(Answer(7, rank, "a", "ok", out=out)) == []
    lines = [line.text for line in render(Unfinished(7, 3, 4))]
    assert lines == [
        "#7 ranks 0-1 (2) a,a",
        "| x",
        "#7 rank 2 (1) a",
        "| @@ -1 +1 @@",
        "| -x",
        "| +y",
        "#7: 3 of 4 answers",
    ]


def test_outputs_that_differ_in_what_nobody_sees_look_different() -> None:
    outputs = ("ab", "a\u200bb", "a\u2060b", "a\U000e0041b", "a\\u200bb")
    lines = shown([Answer(7, rank, f"web-{rank}", "ok", 0, out) for rank, out in enumerate(outputs, 1)])
    assert [line for line in lines if line.startswith("| ")] == [
        "| ab",
        "| a\\u200bb",
        "| a\\u2060b",
        "| a\\U000e0041b",
        "| a\\\\u200bb",
    ]
