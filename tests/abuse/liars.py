"""Rows: forged frames, and text that tries to move a cursor."""

from __future__ import annotations

import json
import sys
import tempfile
from typing import TYPE_CHECKING, Final

from harness import Program

from tests.abuse.clients import Follower, LineClient
from tests.abuse.outcome import RowOutcome
from tests.abuse.subjects import RANK, LoggedServer

if TYPE_CHECKING:
    from tests.abuse.subjects import Subject

# Lines that a lower rank sends. The first ones are commands, which may be logged under its own rank.
ALLOWED: Final = (
    b"CMD 1 0 x",
    b"CMD CMD 5 0 x",
    b"CMD LEFT 5 0",
    b"CMD RES 1 ok",
    b"CMD 99999999999999999999 0 x",
    # U+2028 is a line separator in Unicode, but not here.
    b"CMD \xe2\x80\xa8JOIN 5 0",
)
REFUSED: Final = (
    b"JOIN 5 0",
    b"LEFT 5 0",
    b'WELCOME {"rank":0,"clients":1,"seq":0,"name":"x","session":"x","heartbeat":0}',
    b'INFO {"proto":1}',
    b'ROSTER {"total":1,"from":0,"clients":[]}',
    b"ERR auth you are out",
    b"RES 1 0 first ok",
    b"RES -1 ok",
    b"RES 99999999999999999999 ok",
    b"RES 1 winner",
    b'RES 1 ok {"out":',
    b"CMD x\rLEFT 5 0",
    b"CMD \x1b[2Jx",
    b"CMD \x00x",
    b"CMD \x7fx",
    b"CMD \xc2\x9b2Jx",
    b"CMD \xc2\x85x",
    b"CMD \xff\xfe",
    b"CMD ",
    b"cmd x",
    b" CMD x",
    b"ASK",
)

# This is not a control character, but it makes text run backwards.
REVERSING: Final = "\u202eexe.txt".encode()

ESCAPES: Final = (b"\x1b[2J", b"\x1b]0;owned\x07", b"\x08\x08", b"\r", b"\x7f", b"\xc2\x9b31m")


def forging(subject: Subject, rounds: int = 200) -> RowOutcome:
    """Let a lower rank send the server's frames, others' answers, and text with line ends in it."""
    outcome = RowOutcome()
    with (
        subject.start(8) as server,
        Follower(server.address, "first") as first,
        Follower(server.address, "second") as second,
        Follower(server.address, "forger") as forger,
        Follower(server.address, "last") as last,
    ):
        members = (first, second, forger, last)
        for client in members:
            client.join()
        first.send(b"ASK #question\n")
        for client in members:
            client.until(lambda client=client: bool(client.commands), "get an ASK")  # type: ignore[misc]
        refused = _forge(forger, rounds)
        outcome.check(refused == len(REFUSED) * rounds, f"{refused} of {len(REFUSED) * rounds} got an ERR")
        for client in members:
            _check_log(client, rounds, outcome)
        ranks = [client.me for client in members]
        outcome.check(ranks == [0, 1, 2, 3], f"the ranks are {ranks}")
        answers = [
            line for client in (first, second, last) for line in client.private if line[:5] != b"INFO "
        ]
        outcome.check(not answers, f"others got {answers[:1]}")
        _answer_twice(first, forger, outcome)
    allowed = len(ALLOWED) * rounds
    outcome.figure = (
        f"{allowed + len(REFUSED) * rounds:,} frames: {refused:,} refused with ERR, {allowed:,} logged as "
        "text of its own rank; others' log, ranks, roster and answers as they must be"
    )
    return outcome


def _forge(forger: Follower, rounds: int) -> int:
    """Send all lines ``rounds`` times, and then ``#end``; return how many were refused."""
    for _ in range(rounds):
        forger.send(b"\n".join((*ALLOWED, *REFUSED)) + b"\n")
    forger.send(b"CMD #end\nPING end\n")
    forger.until(lambda: b"PONG end" in forger.private, "be heard")
    return sum(line.startswith(b"ERR ") for line in forger.private)


def _check_log(client: Follower, rounds: int, outcome: RowOutcome) -> None:
    """Check that the log has the allowed lines under the forger's rank, and nothing else."""
    expected = [(0, b"#question"), *((2, line[4:]) for line in ALLOWED * rounds), (2, b"#end")]
    client.until(lambda: client.commands[-1][2] == b"#end", "get the end")
    got = [(rank, text) for _, rank, text in client.commands]
    outcome.check(got == expected, "the log has something else")
    outcome.check(not client.wrong, f"the log: {client.wrong[:1]}")


def _answer_twice(first: Follower, forger: Follower, outcome: RowOutcome) -> None:
    """Answer the first client's ASK twice, and check that one answer comes and the roster is the same."""
    seq = first.commands[0][0]
    forger.send(b'RES %d ok {"out":"mine"}\nRES %d ok\n' % (seq, seq))
    first.until(lambda: any(line.startswith(b"RES ") for line in first.private), "get an answer")
    first.private.clear()
    roster = first.roster()
    outcome.check(roster == ["first", "second", "forger", "last"], f"the roster is {roster}")
    more = [line for line in first.private if line.startswith(b"RES ")]
    outcome.check(not more, "a second answer came")


def escapes(subject: Subject) -> RowOutcome:
    """Put escape sequences into names, tokens, commands, answers, and all else that is logged or shown."""
    if subject is RANK:
        return _escapes()
    outcome = RowOutcome()
    with (
        subject.start(8) as server,
        LineClient(subject, server.address, hello=subject.sending) as sender,
        LineClient(subject, server.address) as reader,
    ):
        sender.join()
        reader.join()
        for escape in ESCAPES:
            sender.command(b"#" + escape)
        sender.command(b"#end")
        reader.until(lambda: b"#end" in reader.texts, "get the end")
        passed = sum(b"#" + escape in reader.texts for escape in ESCAPES)
    outcome.figure = f"commands: {passed} of {len(ESCAPES)} relayed as they are"
    return outcome


def _escapes() -> RowOutcome:
    outcome = RowOutcome()
    with (
        LoggedServer(16, ["--log-level", "debug"]) as server,
        Follower(server.address, "liar") as liar,
    ):
        liar.join()
        for escape in ESCAPES:
            outcome.check(_is_rejected(server, escape), f"a name with {escape!r} was accepted")
        shown = _shown(server, liar)
        for escape in ESCAPES:
            liar.send(b"CMD #" + escape + b"x\n" + escape + b"\n" + escape + b" x\n")
        liar.send(b"CMD #end\n")
        liar.until(lambda: bool(liar.commands) and liar.commands[-1][2] == b"#end", "get the end")
        passed = sum(any(0 < byte < 32 for byte in text) for _, _, text in liar.commands)
        outcome.check(not passed, f"{passed} commands with control characters were logged")
        server.signal(15)
        server.wait()
        log = server.log()
    for what, text in (("log", log), ("client", shown)):
        found = _unprintable(text)
        outcome.check(not found, f"the {what} shows {found[:5]!r}")
    outcome.figure = (
        f"{len(ESCAPES)} escapes each in names, tokens, verbs, commands, answers: none in {len(log):,} bytes "
        f"of log and {len(shown):,} bytes that the client shows"
    )
    return outcome


def _is_rejected(server: LoggedServer, escape: bytes) -> bool:
    """Put ``escape`` into fields of HELLO, raw and as JSON; return whether each HELLO was rejected."""
    text = escape.decode()
    hellos = [
        b'HELLO {"name":"' + escape + b'"}\n',
        b"HELLO " + json.dumps({"name": text}).encode() + b"\n",
        b"HELLO " + json.dumps({"name": "x", "proto": text}).encode() + b"\n",
        b"x" + escape + b"\n",
    ]
    for hello in hellos:
        with LineClient(RANK, server.address) as client:
            client.send(hello)
            while client.read():
                pass
            if client.joined:
                return False
    return True


def _shown(server: LoggedServer, liar: Follower) -> bytes:
    """Return what the real client shows after it asks, and gets answers with escape sequences."""
    where = f"{server.address.host}:{server.address.port}"
    command = [sys.executable, "-m", "client", where, "--wait-for", "1", *["-c", "#ask"] * len(ESCAPES)]
    with tempfile.TemporaryFile() as output, Program("the client", command, output=output) as client:
        for count, escape in enumerate(ESCAPES):
            liar.until(lambda count=count: len(_asks(liar)) > count, "be asked")  # type: ignore[misc]
            detail = json.dumps({"out": f"a{escape.decode()}b\n", "reason": escape.decode()}).encode()
            liar.send(b"CMD #" + REVERSING + b"\nRES %d fail %s\n" % (_asks(liar)[count], detail))
        client.wait()
        output.seek(0)
        return output.read()


def _asks(liar: Follower) -> list[int]:
    return [seq for seq, _, text in liar.commands if text == b"#ask"]


def _unprintable(text: bytes) -> str:
    return "".join(
        char for char in text.decode(errors="replace") if not char.isprintable() and char not in "\n\t"
    )
