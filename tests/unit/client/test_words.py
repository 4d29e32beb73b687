from __future__ import annotations

import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import words
from client.words import DisplayEvent, Line, Unfinished, Unlogged, Unsent, cannot_send, render_text
from rankserver.client import events
from rankserver.client.display import visible
from rankserver.wire import frames, grammar

WHERE = "127.0.0.1:5050"
COMMAND = events.Execute(18, 0, "df -h", True, 1, "me")
HOSTILE = "a\x1b[2J\r\x9b\x7f\u202egnp.\u2066\u200f\u2028\ud83d\n#17: executed by 3 of 3"
VISIBLE = "a\\x1b[2J\\x0d\\x9b\\x7f\\u202egnp.\\u2066\\u200f\\u2028\\ud83d\\x0a#17: executed by 3 of 3"


def described(happened: DisplayEvent) -> list[str]:
    """Return the lines for an event; check that each is a single line that is safe to show."""
    lines = [line.text for line in render_text(happened, address=WHERE)]
    for line in lines:
        assert grammar.text_problem(line) is None, line
        line.encode()
    return lines


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (events.Connected("web-1", 1, 3, 9), "connected to 127.0.0.1:5050 as web-1: rank 1 of 3"),
        (events.Sent(17, "uptime", True, 2), "sent #17: uptime"),
        (events.Started(COMMAND), "executing #18 from rank 0: df -h"),
        (events.Finished(COMMAND, events.Outcome("ok")), "executed #18: df -h"),
        (events.Finished(COMMAND, events.Outcome("ok", {"out": "x"})), "executed #18: df -h"),
        (events.Finished(COMMAND, events.Outcome("fail", {"code": 1})), "failed #18: df -h"),
        (events.Finished(COMMAND, events.Outcome("fail", {"reason": "no"})), "failed #18: df -h (no)"),
        (events.Finished(COMMAND, events.Outcome("denied")), "denied #18: df -h"),
        (events.Finished(COMMAND, events.Outcome("timeout")), "timed out #18: df -h"),
        (events.Finished(COMMAND, events.Outcome("refused")), "refused #18: df -h"),
        (events.Refused(19, 2, "reboot"), "cannot execute #19 from lower-ranked rank 2: reboot"),
        (events.RankChanged(0, 2, 20), "rank is now 0 of 2"),
        (events.Rejected("bad-frame", "no", "x"), "the server rejected the command 'x': bad-frame no"),
        (events.Rejected("no-such-ask", "7", None), "the server rejected a frame: no-such-ask 7"),
        (events.Lost("uptime"), "connection lost before this was seen in the log: uptime"),
        (events.Disconnected("shutdown", "stopping"), "disconnected: shutdown stopping"),
        (events.Disconnected("", "connection lost"), "disconnected: connection lost"),
        (events.Retrying("nobody there", 1.25), "nobody there; trying again in 1.2 s"),
        (events.Retrying("", 0.5), "trying again in 0.5 s"),
        (Unfinished(5, 2, 3), "#5: 2 of 3 answers"),
        (Unlogged("uptime"), "not seen in the log: uptime"),
        (Unsent("uptime"), "not sent: uptime"),
    ],
)
def test_each_event_has_its_words(happened: DisplayEvent, line: str) -> None:
    assert described(happened) == [line]


@pytest.mark.parametrize(
    ("may_execute", "counts", "line"),
    [
        (1, events.Counts(ok=1, refused=1), "#17: executed by 1 of 1, refused by 1"),
        (0, events.Counts(), "#17: executed by 0 of 0"),
        (
            9,
            events.Counts(1, 2, 3, 4, 5, 6),
            "#17: executed by 1 of 9, refused by 3, failed by 2, denied by 4, timed out at 5, gone 6",
        ),
    ],
)
def test_an_ask_ends_with_counts_of_all_outcomes(may_execute: int, counts: events.Counts, line: str) -> None:
    assert described(events.AskDone(17, "uptime", may_execute, counts)) == [line]


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (events.Answer(17, 5, "web-5", "ok"), ["#17 rank 5 web-5: executed"]),
        (events.Answer(17, 5, "web-5", "ok", 0, "up 3 days\n"), ["#17 rank 5 web-5 | up 3 days"]),
        (
            events.Answer(17, 5, "web-5", "ok", 0, " a\r\n\nb"),
            ["#17 rank 5 web-5 |  a", "#17 rank 5 web-5 | ", "#17 rank 5 web-5 | b"],
        ),
        (
            events.Answer(17, 5, "web-5", "ok", 0, "a", truncated=True),
            ["#17 rank 5 web-5 | a", "#17 rank 5 web-5: executed, output truncated"],
        ),
        (
            events.Answer(17, 5, "web-5", "fail", 3, "half", reason="why"),
            ["#17 rank 5 web-5 | half", "#17 rank 5 web-5: failed with exit code 3 (why)"],
        ),
        (events.Answer(17, 5, "web-5", "fail"), ["#17 rank 5 web-5: failed"]),
        (events.Answer(17, 5, "web-5", "refused"), ["#17 rank 5 web-5: refused"]),
        (events.Answer(17, 5, "web-5", "denied", reason="no"), ["#17 rank 5 web-5: denied (no)"]),
        (events.Answer(17, 5, "web-5", "timeout", 143), ["#17 rank 5 web-5: timed out"]),
        (events.Answer(17, 5, "web-5", "gone"), ["#17 rank 5 web-5: gone"]),
        (events.Answer(17, 5, "", "gone"), ["#17 rank 5: gone"]),
        (events.Answer(17, 5, "", "ok", out="x"), ["#17 rank 5 | x"]),
    ],
)
def test_an_answer_shows_its_output_and_outcome(answer: events.Answer, lines: list[str]) -> None:
    assert described(answer) == lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grüße", "cannot send 'grüße': no"),
        ("a 'b'", "cannot send \"a 'b'\": no"),
        (HOSTILE, f"cannot send '{VISIBLE.replace('x0d', 'r').replace('x0a', 'n')}': no"),
        ("x" * 64, f"cannot send '{'x' * 64}': no"),
        ("x" * 65, f"cannot send '{'x' * 64}'...: no"),
        ("", "cannot send: no"),
    ],
)
def test_a_complaint_names_what_cannot_be_sent(text: str, words: str) -> None:
    assert cannot_send(Unsent(text, "no")) == words


def test_results_can_be_told_from_chatter() -> None:
    render = partial(render_text, address=WHERE)
    answer = events.Answer(17, 5, "web-5", "fail", out="x")
    results: list[DisplayEvent] = [answer, events.AskDone(17, "", 0, events.Counts())]
    chatter: list[DisplayEvent] = [
        events.Sent(17, "", True, 1),
        events.RankChanged(0, 2, 20),
        Unfinished(5, 2, 3),
    ]
    assert {line.kind for happened in results for line in render(happened)} <= words.RESULTS
    assert {line.kind for happened in chatter for line in render(happened)}.isdisjoint(words.RESULTS)


@pytest.mark.parametrize(
    "happened",
    [
        COMMAND,
        events.ClientsChanged(2, 9),
        events.RosterReceived((frames.RosterEntry(0, "a"),)),
    ],
)
def test_events_that_do_not_concern_a_person_have_no_words(happened: events.Event) -> None:
    assert described(happened) == []


# --- text of others ---


@pytest.mark.parametrize(
    "happened",
    [
        events.Connected(HOSTILE, 1, 3, 9),
        events.Sent(17, HOSTILE, True, 2),
        events.Started(COMMAND._replace(text=HOSTILE)),
        events.Finished(COMMAND, events.Outcome("fail", {"reason": HOSTILE})),
        events.Refused(1, 2, HOSTILE),
        events.Lost(HOSTILE),
        events.Disconnected("", HOSTILE),
        events.Retrying(HOSTILE, 1.0),
        events.Answer(17, 1, HOSTILE, "ok"),
        events.Answer(17, 1, "web-1", "fail", reason=HOSTILE),
        Unlogged(HOSTILE),
        Unsent(HOSTILE),
    ],
)
def test_text_of_others_cannot_move_the_cursor_or_end_a_line(happened: DisplayEvent) -> None:
    (line,) = described(happened)
    assert VISIBLE in line


def test_an_output_cannot_pose_as_anything_else() -> None:
    forged = (
        "x\n#17: executed by 3 of 3\r\n\r\x1b[1A\x1b[2K#17 rank 0 top | root\u2028#18\x85#19\x0b#20\x0c#21"
    )
    lines = described(events.Answer(17, 1, "web-1", "ok", out=forged))
    assert [line.removeprefix("#17 rank 1 web-1 | ") for line in lines] == [
        "x",
        "#17: executed by 3 of 3",
        "\\x0d\\x1b[1A\\x1b[2K#17 rank 0 top | root\\u2028#18\\x85#19\\x0b#20\\x0c#21",
    ]


def test_harmless_text_stays_unchanged() -> None:
    for text in ("a\tgrüße שלום 🙂 \\x1b", "नमस्ते", "日本語", "e\u0301", "\ufffd", "가"):
        assert visible(text) == text


@pytest.mark.parametrize(
    ("character", "shown"),
    [
        ("\u200b", "\\u200b"),  # zero width space
        ("\u200d", "\\u200d"),  # zero width joiner
        ("\u202e", "\\u202e"),  # right-to-left override
        ("\u2060", "\\u2060"),  # word joiner
        ("\u2069", "\\u2069"),  # pop directional isolate
        ("\ufeff", "\\ufeff"),  # byte order mark
        ("\xad", "\\xad"),  # soft hyphen
        ("\u034f", "\\u034f"),  # combining grapheme joiner
        ("\u061c", "\\u061c"),  # Arabic letter mark
        ("\u1160", "\\u1160"),  # Hangul filler
        ("\u17b4", "\\u17b4"),  # Khmer inherent vowel
        ("\u180e", "\\u180e"),  # Mongolian vowel separator
        ("\u2800", "\\u2800"),  # Braille pattern without dots
        ("\u3164", "\\u3164"),  # Hangul filler
        ("\uffa0", "\\uffa0"),  # Hangul filler
        ("\ufe0f", "\\ufe0f"),  # variation selector
        ("\U000e0041", "\\U000e0041"),  # tag
        ("\U000e01ef", "\\U000e01ef"),  # variation selector
        ("\xa0", "\\xa0"),  # no-break space
        ("\u3000", "\\u3000"),  # ideographic space
        ("\uffff", "\\uffff"),  # never assigned
        ("\ue000", "\\ue000"),  # private use
        ("\ud800", "\\ud800"),  # a lone surrogate
    ],
)
def test_a_character_that_nobody_sees_is_escaped(character: str, shown: str) -> None:
    assert visible(f"a{character}b") == f"a{shown}b"


def test_only_what_is_seen_is_shown() -> None:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    kept = {code for code in range(0x110000) if visible(chr(code)) == chr(code)}
    assert {unicodedata.category(chr(code)) for code in kept - {0x20, 0x09}}.isdisjoint(hidden)
    # These are all of Default_Ignorable_Code_Point in Unicode 15.
    ignorable = (
        *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
        *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
        *(*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
        *range(0xE0000, 0xE1000),
    )
    assert kept.isdisjoint(ignorable)


@given(st.text(st.characters()))
def test_visible_text_passes_the_text_rule_and_can_be_encoded(text: str) -> None:
    shown = visible(text)
    assert grammar.text_problem(shown) is None
    assert len(shown.splitlines()) <= 1
    shown.encode()


# --- the roster ---


def test_the_roster_is_a_table_with_the_own_place_marked() -> None:
    members = tuple(frames.RosterEntry(rank, f"web-{rank}") for rank in (0, 1, 12_345))
    assert words.render_roster(members, 1) == [
        Line("roster", "   rank  name"),
        Line("roster", "      0  web-0"),
        Line("roster", "*     1  web-1"),
        Line("roster", "  12345  web-12345"),
    ]
    assert words.render_roster((frames.RosterEntry(0, HOSTILE),), None)[1].text == f"     0  {VISIBLE}"
