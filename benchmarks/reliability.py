"""Abuse rankserver, and Redis and NATS where they are comparable, and record what happens.

Each row is a function in ``tests/abuse/``, which the tests run with smaller numbers. The results go into the
table in docs/reliability.md, between two marks; the text around it is written by hand.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import harness
from harness import BenchmarkError

from tests.abuse import (
    asking,
    crowds,
    ends,
    expensive,
    forks,
    handshakes,
    lateness,
    liars,
    links,
    scarcity,
    secrecy,
    slow,
    strangers,
    transports,
)
from tests.abuse.clients import raise_descriptor_limit
from tests.abuse.outcome import MIB, RowOutcome
from tests.abuse.subjects import RANK, SUBJECTS, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE: Final = harness.ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- make reliability: begin -->"
END: Final = "<!-- make reliability: end -->"
NONE: Final = "–"  # noqa: RUF001 - a dash
ALL: Final = tuple(subject.key for subject in SUBJECTS)
ALONE: Final = (RANK.key,)
# Options with which a flood makes clients wait within seconds.
SMALL_LIMITS: Final = ("--max-backlog", str(4 * MIB), "--slow-timeout", "5")
# Options with which a slow reader makes others wait at once, and is soon dropped.
SMALLEST_LIMITS: Final = ("--max-backlog", str(MIB), "--slow-timeout", "0.5")


@dataclass(frozen=True)
class Row:
    """One way to abuse a server.

    Attributes:
        key: its name on the command line and in the tests.
        deed: what is done.
        must: what must hold.
        do: the function that does it.
        small: arguments with which ``do`` takes a second or two.
        subjects: the servers that it can be done to.
        possible: whether the machine meets its requirements.
    """

    key: str
    deed: str
    must: str
    do: Callable[..., RowOutcome]
    small: dict[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ALL
    possible: Callable[[], bool] = lambda: True


ROWS: Final = (
    Row(
        "hold",
        "10,000 connections are held, and 1,000 commands of 64 bytes sent to all",
        "all arrive, in order",
        crowds.hold,
        {"clients": 300, "commands": 100},
    ),
    Row(
        "churn",
        "50,000 connections come and go: with FIN or RST, before joining or after",
        "descriptors as before, memory within 2 MiB, the ranks and the log of those that stay are right",
        crowds.churn,
        {"cycles": 1000},
    ),
    Row(
        "reset-half",
        "200 of 400 clients are reset in the middle of a broadcast of 4,000 commands",
        "the others get all in order, and know their ranks",
        crowds.reset_half,
        {"clients": 40, "commands": 1000},
    ),
    Row(
        "slow-readers",
        "1,000 clients read a few bytes now and then, one reads all; 1,000 commands of 1 KB, 70 a second",
        "its p99 within 100 ms; later the slow ones get all; memory grows by less than 16 MiB",
        slow.slow_readers,
        {"readers": 100, "commands": 100, "pause": 0.002},
    ),
    Row(
        "producers",
        "3 clients send commands of 1,000 bytes as fast as they can for a minute, 3 read 2 MiB/s each",
        "every byte arrives, in order; memory stays below backlog (64 MiB) + 16 MiB, and is flat",
        slow.producers,
        {"seconds": 1, "backlog": 2 * MIB, "pace": 8 * MIB},
    ),
    Row(
        "never-reads",
        "1 client never reads while another sends as fast as it can to a third",
        "it is dropped; the third waits no longer than `--slow-timeout` (5 s) + 1 s, loses nothing, and is "
        "served at full speed after",
        slow.never_reads,
        {"timeout": 0.5, "backlog": 2 * MIB, "after": 0.2, "least": 0.02},
    ),
    Row(
        "asker",
        "1 client asks 400 times and never reads the answers of 8, 30 KB each",
        "it is dropped; memory grows by less than 16 MiB; others' p99 within 100 ms",
        slow.asker,
        {"timeout": 0.5, "asks": 100},
        ALONE,
    ),
    Row(
        "strangers",
        "10 connections each that say nothing, drip a byte now and then, speak HTTP, TLS, noise",
        "closed within `--handshake-timeout` (5 s) + 1 s; others' p99 within 100 ms",
        strangers.strangers,
        {"each": 2, "timeout": 0.3, "patience": 10},
    ),
    Row(
        "plain-to-tls",
        "the same to a port that speaks TLS, in plain text",
        "as above",
        strangers.plain_to_tls,
        {"each": 2, "timeout": 0.3, "patience": 10},
        ALONE,
        transports.has_openssl,
    ),
    Row(
        "tokens",
        "50 connections guess tokens all the time; one sends none, one 60,000 bytes",
        "none gets in; each guess costs a second; others' p99 within 100 ms",
        strangers.tokens,
        {"guessers": 10, "seconds": 1.1},
    ),
    Row(
        "descriptors",
        "100 more clients connect than the server has descriptors for; then 100 others leave",
        "at most 5% of a CPU meanwhile, members are served; those that waited are served within 3 s",
        strangers.descriptors,
        {"clients": 20, "too_many": 20, "seconds": 0.5},
    ),
    Row(
        "sigterm",
        "SIGTERM while commands of 4 KB flow to 50 clients as fast as they can (`--max-backlog` 2 MiB)",
        "all get the same whole commands, then BYE; exit 0 within 3 s",
        ends.sigterm,
        {"receivers": 10, "seconds": 0.5},
    ),
    Row("kill", "kill -9 of the server", "clients know within a second", ends.kill),
    Row(
        "stop",
        "SIGSTOP of the server for 5 s with 200 clients and a heartbeat of 1 s",
        "nobody is evicted, and all go on at once",
        ends.stop,
        {"clients": 20, "heartbeat": 0.5, "stopped": 1.5},
    ),
    Row(
        "forging",
        "a lower rank sends 5,600 frames: the server's own, answers for others, controls in text",
        "nothing but text under its own rank reaches others",
        liars.forging,
        {"rounds": 5},
        ALONE,
    ),
    Row(
        "escapes",
        "terminal escapes wherever other clients, the operator or the log could show them",
        "only printable text in the log and in what the client shows",
        liars.escapes,
    ),
    Row(
        "expensive-lines",
        "1,000 connections complete expensive lines of up to 65 KB at the same time, again and again: with "
        "ten kinds of JSON, by strangers, members and former members, over TCP, TLS and a Unix socket "
        "(18 attacks)",
        "each line is answered; others' p99 within 100 ms; the log never says `was not running`; a turn "
        "handles at most 512 KiB of them",
        expensive.expensive_lines,
        {"attacks": [expensive.COUNTED], "seconds": 0},
    ),
    Row(
        "ask-flood",
        "while an ask of the highest rank is open, the lowest one asks 100,000 times, or 70 clients ask "
        "1,000 times each; all asks are answered",
        "the highest rank gets its answer; only a client with more than 1,024 open asks loses any: its "
        "oldest, and it is told of each",
        asking.ask_flood,
        {"floods": [asking.AskFlood(1, 66_000)]},
        ALONE,
    ),
    Row(
        "late-reader",
        "a client floods, and reads late what it is sent, such as 2 MiB every 4 s: a member, strangers or "
        "former members, over TCP, TLS and a Unix socket (9 attacks). Redis, NATS: a subscriber reads late "
        "while another client floods",
        "the input of two higher ranks never waits; their p99 within 100 ms",
        lateness.late_reader,
        {"attacks": lateness.READERS[1:2], "seconds": 1.5, "options": SMALL_LIMITS},
    ),
    Row(
        "below-the-floor",
        "a client reads 16 KiB/s, less than the floor of 64 KiB/s, while another one floods",
        "it is dropped; others wait no longer than `--slow-timeout` (5 s) + 1 s in all",
        links.below_the_floor,
        {"timeout": 0.5, "options": SMALLEST_LIMITS},
    ),
    Row(
        "late-asker",
        "a client floods with ASKs, and reads the answers late, in the same 9 ways as in `late-reader`",
        "the input of two higher ranks, which refuse all of them, never waits; their p99 within 100 ms",
        lateness.late_asker,
        {"attacks": lateness.ASKERS[1:2], "seconds": 1.5, "options": SMALL_LIMITS},
        ALONE,
    ),
    Row(
        "slow-link",
        "the highest rank reads 100 KiB/s, more than the floor, while the lowest one floods",
        "it is not dropped; others' p99 within 100 ms",
        links.slow_link,
        {"seconds": 4, "transport": "unix", "options": SMALLEST_LIMITS},
    ),
    Row(
        "log-secrets",
        "strangers send secrets in 28 wrong ways: without a space, as a verb, name or version, over HTTP, …",
        "no part of a secret in the log, as text or JSON",
        secrecy.log_secrets,
        {},
        ALONE,
    ),
    Row(
        "client-secrets",
        "a client has a token that its server must not get; a command looks for the environment of its agent",
        "no token is sent without TLS to a network address, before the banner, from a file that others may "
        "read, or to a server whose certificate has no SAN; the environment is not found",
        secrecy.client_secrets,
        {},
        ALONE,
        transports.has_openssl,
    ),
    Row(
        "scarce-memory",
        "90 and 580 strangers connect while the server may allocate 0 to 12 MiB more; TCP, TLS, Unix socket",
        "the server goes on, members stay and get every command, and newcomers can join afterwards",
        scarcity.scarce_memory,
        {"scarcities": scarcity.SCARCITIES[1::12]},
    ),
    Row(
        "tls-flood",
        "a process only connects, as fast as it can, while 40 clients with 100 ms of delay join over TLS",
        "all of them join",
        handshakes.tls_flood,
        {"clients": 1},
        ALONE,
        transports.has_openssl,
    ),
    Row(
        "fork-bomb",
        "an agent executes a command that forks for ever in all of its processes, with `--timeout 5`",
        "it has at most `--max-processes` (512) processes, and none is left; the agent executes the next one",
        forks.fork_bomb,
        {"processes": 50, "timeout": 0.5},
        ALONE,
        forks.can_limit,
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows; return the exit code: 1 if a requirement did not hold for rankserver."""
    options = _parser().parse_args(argv)
    return harness.run("reliability.py", options, _measure, _show)


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(__doc__)
    add, keys = parser.add_argument, [row.key for row in ROWS]
    add(
        "--rows",
        nargs="+",
        choices=keys,
        default=keys,
        metavar="ROW",
        help=f"run these tests: {', '.join(keys)}",
    )
    add(
        "--subjects",
        nargs="+",
        choices=ALL,
        default=list(ALL),
        metavar="KEY",
        help=f"abuse these servers: {', '.join(ALL)}",
    )
    add("--small", action="store_true", help="check in seconds that it works; leave the page alone")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    raise_descriptor_limit()
    titles = {subject.key: subject.title() for subject in SUBJECTS if subject.key in options.subjects}
    measured: dict[str, dict[str, Any]] = {}
    unmet: list[str] = []
    for row in ROWS:
        if row.key not in options.rows:
            continue
        cells = measured[row.key] = {}
        for subject in SUBJECTS:
            if titles.get(subject.key) and subject.key in row.subjects and row.possible():
                cells[subject.key] = outcome = _outcome(row, subject, row.small if options.small else {})
                if subject is RANK:
                    unmet += [f"{row.key}: {what}" for what in outcome["unmet"]]
    result = {"titles": titles, "rows": measured, "unmet": unmet}
    if len(titles) == len(ALL) and not options.small:
        write(PAGE, result)
    return result


def _outcome(row: Row, subject: Subject, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run a row; an error in it becomes its outcome."""
    begin = time.monotonic()
    try:
        outcome = row.do(subject, **arguments)
    except (BenchmarkError, OSError) as error:
        outcome = RowOutcome(f"could not be measured: {error}", [str(error)])
    seconds = round(time.monotonic() - begin, 1)
    print(f"{row.key} {subject.key} ({seconds} s): {outcome.figure}", file=sys.stderr, flush=True)
    return {"figure": outcome.figure, "unmet": [*outcome.unmet, *outcome.late], "seconds": seconds}


def _show(result: dict[str, Any]) -> None:
    print("\n".join(table(result)))


# --- the page ---------------------------------------------------------------------------------


def table(result: dict[str, Any], earlier: Sequence[str] = ()) -> list[str]:
    """Return the lines of the table; rows that were not measured are taken from an earlier table."""
    titles = {key: title for key, title in result["titles"].items() if title}
    lines = [
        f"| test | what is done | what must hold | {' | '.join(titles.values())} |",
        f"| --- | --- | --- |{' --- |' * len(titles)}",
    ]
    for row in ROWS:
        if row.key in result["rows"]:
            cells = [_cell(key, result["rows"][row.key].get(key)) for key in titles]
            lines.append(f"| `{row.key}` | {row.deed} | {row.must} | {' | '.join(cells)} |")
        else:
            lines += [line for line in earlier if line.startswith(f"| `{row.key}` |")]
    return lines


def _cell(key: str, outcome: dict[str, Any] | None) -> str:
    if outcome is None:
        return NONE
    if key != RANK.key:
        return str(outcome["figure"])
    if outcome["unmet"]:
        return f"**does not hold**: {'; '.join(outcome['unmet'])}. {outcome['figure']}"
    return f"**holds.** {outcome['figure']}"


def write(page: Path, result: dict[str, Any]) -> None:
    """Put the rows that were measured into the table between the marks of the page.

    Raises:
        BenchmarkError: if the page has no such marks.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    earlier, end, after = rest.partition(END)
    if not (begin and end):
        raise BenchmarkError(f"{page} has no lines {BEGIN} and {END} to write between")
    new = "\n".join([before + begin, "", *table(result, earlier.splitlines()), "", end + after])
    fresh = page.with_suffix(".new")
    fresh.write_text(new, encoding="utf-8")
    fresh.replace(page)


if __name__ == "__main__":
    sys.exit(main())
