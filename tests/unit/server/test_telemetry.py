"""Information for the operator: the counters, the report, and limits on log lines that others can cause."""

from __future__ import annotations

import json
import os

import pytest

from rankserver import logs
from rankserver.clist import Cursor
from rankserver.telemetry import RENEWAL
from tests.support.turns import SteppedServer, hello, tokens_by_class

pytestmark = pytest.mark.usefixtures("logger")


# --- the report -------------------------------------------------------------------------------


def test_the_report_has_the_counters_and_the_members(capfd: pytest.CaptureFixture[str]) -> None:
    with SteppedServer() as stepped:
        first, second, third = stepped.join(), stepped.join(), stepped.connect("127.0.0.1:4711")
        first.send(b"CMD one\nASK two\n")
        third.send(b"NONSENSE\n")
        stepped.turn()
        logs.configure("info", "json")
        capfd.readouterr()
        stepped.server.report()
        report, *members = (json.loads(line) for line in capfd.readouterr().err.splitlines())
        for key, value in {
            "event": "report",
            "clients": 2,
            "strangers": 1,
            "accepted": 3,
            "joined": 2,
            "refused": 1,
            "refused_proto": 1,
            "dropped": 0,
            "seq": 4,
            "commands": 2,
            "asks": 1,
            "held": 0,
            "holding": False,
        }.items():
            assert report[key] == value, key
        assert [member["rank"] for member in members] == [0, 1]
        assert (members[1]["event"], members[1]["name"]) == ("client", "c2")
        assert members[1]["peer"] == second.channel.peer
        assert (members[1]["class"], "rank_class" in members[1]) == (0, False)


def test_refused_and_dropped_are_counted_by_code(capfd: pytest.CaptureFixture[str]) -> None:
    with SteppedServer(2, handshake_timeout=5) as stepped:
        for _ in range(2):
            stepped.connect().send(b"NONSENSE\n")
        stepped.connect().send(b"x" * 70_000 + b"\n")
        member, other = stepped.join(), stepped.join()
        stepped.connect().send(b"HELLO\n")
        stepped.turn()
        member.send(b"HELLO\n")
        other.send(b"BYE\n")
        stepped.connect()
        stepped.wait(6)
        telemetry = stepped.server.telemetry
        assert telemetry.refused == {"proto": 2, "too-long": 1, "full": 1, "timeout": 1}
        assert telemetry.dropped == {"proto": 1}, "one that said BYE was not dropped"
        assert (telemetry.accepted, telemetry.joined) == (7, 2)
        logs.configure("info", "json")
        capfd.readouterr()
        stepped.server.report()
        report = json.loads(capfd.readouterr().err)
        assert (report["refused"], report["refused_full"], report["dropped_proto"]) == (5, 1, 1)


@pytest.mark.parametrize("members", [1, 40])
def test_a_report_costs_one_write_for_each_member(members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(_: int, data: bytes) -> int:
        written.append(data)
        return len(data)

    def fail(*_: object) -> int:
        raise AssertionError("a system call for a member")

    with SteppedServer(64) as stepped:
        for _ in range(members):
            stepped.join()
        logs.configure("info", "text")
        monkeypatch.setattr(os, "write", write)
        monkeypatch.setattr(Cursor, "in_flight", fail)
        stepped.server.report()
        monkeypatch.undo()
        assert len(written) == members + 1
        assert all(data.count(b"\n") == 1 for data in written)


# --- what is logged ---------------------------------------------------------------------------


def join_and_leave(stepped: SteppedServer) -> None:
    client = stepped.join()
    client.send(b"BYE\n")
    client.sock.close()
    stepped.until(lambda: not stepped.loop.channels)


def test_joins_and_leaves_are_logged_a_thousand_times_a_second(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    with SteppedServer() as stepped:
        for _ in range(505):
            join_and_leave(stepped)
        assert capfd.readouterr().err.count("\n") == 1000
        stepped.wait(RENEWAL + 0.1)
        assert capfd.readouterr().err.endswith(" WARNING left out events=10\n")
        join_and_leave(stepped)
        assert capfd.readouterr().err.count("\n") == 2


def test_events_left_out_at_the_end_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    with SteppedServer() as stepped:
        stepped.connect()
        stepped.turn()
        for _ in range(1003):
            stepped.selector.stopped = 1e6
            stepped.turn()
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1000
        assert "was not running" in lines[-1]
    assert capfd.readouterr().err.endswith(" WARNING left out events=3\n")


def test_strangers_leave_room_in_the_log_for_members(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "text")
    with SteppedServer() as stepped:
        for _ in range(101):
            stepped.connect().sock.close()
            stepped.until(lambda: not stepped.loop.channels)
        assert capfd.readouterr().err.count("\n") == 100
        stepped.join()
        assert " joined " in capfd.readouterr().err


def test_the_log_names_the_holder_of_the_token(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    with SteppedServer(tokens=tokens_by_class(3)) as stepped:
        stepped.join(hello(3))
        joined = json.loads(capfd.readouterr().err)
        assert joined.items() >= {"event": "joined", "name": "c1", "token": "t3"}.items()
