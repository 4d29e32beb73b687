"""The comparison: peers that fail, and what a run writes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare
import harness
import machine
import plan
import pytest
import rounds
from grid import Comparison, ProgressBar, Settings
from harness import BenchmarkError, LoopbackServer, Places, ServerProgram
from measurements import Measurements
from peers import PEERS, PeerLoad, PeerServer, Script
from plan import Point, Timing

BY_KEY = {peer.key: peer for peer in PEERS}
TINY = Point(everyone=False, receivers=2, size=64)
TIMING = Timing.quick(rounds=2)
DROPS = '''
"""Broadcasts lines, but not the twentieth."""
import asyncio

clients = []

async def serve(reader, writer):
    writer.write(b"hello %d\\n" % len(clients))
    clients.append(writer)
    number = 0
    while line := await reader.readline():
        number += 1
        for other in clients:
            if other is not writer and number != 20:
                other.write(b"%d %b" % (clients.index(writer), line))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print("listening on 127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
'''


# --- the plan ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 1_024])
def test_the_planned_steps_of_a_point_add_up_to_the_whole(size: int) -> None:
    class Planned:
        seconds = 0.0

        def say(self, _what: str) -> None: ...

        def passed(self, seconds: float) -> None:
            self.seconds += seconds

    planned = Planned()
    harness.build()
    point = TINY._replace(size=size, latency=True)
    peers = [BY_KEY[key] for key in ("rankserver", "asyncio", "ceiling")]
    rounds.run_point(point, peers, PLACES, TIMING, planned)

    assert planned.seconds == pytest.approx(plan.point_seconds(point, len(peers), TIMING))


# --- peers that fail --------------------------------------------------------------------------

PLACES = Places.choose()


class Watching:
    """Progress that records steps, and calls ``then`` when step ``when`` begins for the second time."""

    def __init__(self, when: str = "", then: Any = None) -> None:
        self.said: list[str] = []
        self._when = when
        self._then = then

    def say(self, what: str) -> None:
        self.said.append(what)
        if what == self._when and self.said.count(what) == 2:
            self._then()

    def passed(self, _seconds: float) -> None:
        """Ignore the time."""


def run_point(*peers: PeerServer, point: Point = TINY, progress: Watching | None = None) -> dict[str, Any]:
    harness.build()
    result = rounds.run_point(point, peers, PLACES, TIMING, progress or Watching())
    sources: dict[str, Any] = result["sources"]
    return sources


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def mortal_peer(started: list[ServerProgram]) -> tuple[PeerServer, Any]:
    """Return a peer, and a function that kills the first of its servers."""

    def start(load: PeerLoad, cpu: int | None) -> ServerProgram:
        started.append(LoopbackServer(load.connections, cpu=cpu))
        return started[-1]

    def die() -> None:
        os.kill(started[0].pid, signal.SIGKILL)

    return replace(BY_KEY["rankserver"], key="mortal", name="mortal", start=start), die


def test_a_peer_that_dies_keeps_its_rounds_and_others_go_on() -> None:
    started: list[ServerProgram] = []
    mortal, die = mortal_peer(started)
    watching = Watching("bursts, mortal", die)
    sources = run_point(BY_KEY["rankserver"], mortal, BY_KEY["ceiling"], progress=watching)

    assert "closed by the server" in sources["mortal"]["lost"]
    assert len(sources["mortal"]["bursts"]) == 1
    for key in ("rankserver", "ceiling"):
        assert sources[key]["lost"] is None
        assert len(sources[key]["bursts"]) == 2
    assert gone(started[0].pid)


def test_a_measurement_paired_with_a_failed_one_is_forgotten() -> None:
    mortal, die = mortal_peer([])
    watching = Watching("latency at half load of mortal, rankserver", die)
    point = TINY._replace(latency=True)
    sources = run_point(BY_KEY["rankserver"], mortal, BY_KEY["ceiling"], point=point, progress=watching)

    against = sources["rankserver"]["against"]["mortal"]
    assert sources["mortal"]["lost"]
    assert len(against["rounds"]) == len(sources["mortal"]["half"]["rounds"]) == 1
    assert len(sources["rankserver"]["half"]["rounds"]) == 2


def test_the_order_at_half_load_alternates() -> None:
    watching = Watching()
    other = replace(BY_KEY["rankserver"], key="other", name="other")
    run_point(BY_KEY["rankserver"], other, point=TINY._replace(latency=True), progress=watching)

    of_other = "latency at half load of other, "
    said = [what.removeprefix(of_other) for what in watching.said if what.startswith(of_other)]
    assert said == ["other", "rankserver", "rankserver", "other"]


def test_a_peer_that_drops_a_command_is_marked(tmp_path: Path) -> None:
    file = tmp_path / "drops.py"
    file.write_text(DROPS)
    drops = replace(
        BY_KEY["asyncio"], key="drops", start=lambda _load, cpu: Script("drops", str(file), [], cpu)
    )
    sources = run_point(BY_KEY["rankserver"], drops)

    assert "expected index" in sources["drops"]["lost"]
    assert sources["drops"]["bursts"] == []
    assert len(sources["rankserver"]["bursts"]) == 2


def test_a_peer_that_does_not_take_all_connections_is_marked() -> None:
    small = replace(BY_KEY["rankserver"], key="small", start=lambda _load, cpu: LoopbackServer(1, cpu=cpu))
    sources = run_point(BY_KEY["rankserver"], small)

    assert "closed by the server" in sources["small"]["lost"]


def test_a_peer_is_left_out_where_it_has_too_few_connections() -> None:
    few = replace(BY_KEY["asyncio"], key="few", most=TINY.receivers)

    assert list(run_point(BY_KEY["rankserver"], few)) == ["rankserver"]


def test_a_run_stops_if_the_ceiling_fails() -> None:
    broken = replace(BY_KEY["ceiling"], start=lambda _load, cpu: LoopbackServer(1, cpu=cpu), one="rank")

    with pytest.raises(BenchmarkError, match=f"{broken.name}, 2 receivers, 64 bytes: .*closed by the server"):
        run_point(broken)


def test_losses_of_this_server_are_marked_like_any_others() -> None:
    broken = replace(BY_KEY["rankserver"], start=lambda _load, cpu: LoopbackServer(1, cpu=cpu))
    sources = run_point(broken, BY_KEY["asyncio"], point=TINY._replace(latency=True))

    assert "closed by the server" in sources["rankserver"]["lost"]
    assert len(sources["asyncio"]["half"]["rounds"]) == 2


def test_a_run_in_which_this_server_fails_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(PEERS[0], start=lambda _load, cpu: LoopbackServer(1, cpu=cpu))
    monkeypatch.setattr(compare, "PEERS", (broken, *PEERS[1:]))
    arguments = ["--quick", "--peers", "ceiling", "--parts", "throughput", "--receivers", "2"]

    assert compare.main([*arguments, "--rounds", "1", "--output", str(tmp_path)]) == 1
    assert "rankserver, 2 receivers, 64 bytes: " in capsys.readouterr().err
    assert "| one | 64 | 2 | rankserver | " in (tmp_path / "RESULTS.md").read_text()


# --- whole runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that a small run has written."""
    output = tmp_path_factory.mktemp("compare")
    arguments = ["--quick", "--peers", "asyncio,ceiling", "--receivers", "10", "--rounds", "2"]
    assert compare.main([*arguments, "--members", "10", "--output", str(output)]) == 0
    return output


@pytest.fixture
def measured(folder: Path) -> Measurements:
    """Return the measurements of that run."""
    return Measurements.parse((folder / "compare.json").read_text())


def test_a_run_writes_its_page_and_leaves_nothing_half_done(folder: Path) -> None:
    assert (folder / "RESULTS.md").exists()
    assert not list(folder.glob("*.part")) + list(folder.glob("*.new"))


def test_a_result_says_how_and_where_it_was_measured(measured: Measurements) -> None:
    about = measured.about
    assert about["command"] == (
        "python benchmarks/compare.py --receivers 10 --members 10 --peers asyncio,ceiling --quick"
    )
    assert about["machine"] == machine.facts(Places.choose())
    assert (about["commit"], about["resumed"]) == (machine.commit(), False)
    assert about["seconds"] > 0


def test_a_result_names_all_peers_and_why_one_was_skipped(measured: Measurements) -> None:
    skipped = {peer["key"]: peer["skipped"] for peer in measured.about["peers"]}
    assert list(skipped) == [peer.key for peer in PEERS]
    assert {key for key, reason in skipped.items() if reason is None} == {"rankserver", "asyncio", "ceiling"}
    assert skipped["redis"] == "not asked for"


def test_there_is_a_burst_of_each_source_in_each_round(measured: Measurements) -> None:
    starts, bursts = measured.starts, measured.bursts
    keys = ["asyncio", "ceiling", "rankserver"]
    assert sorted(zip(starts.senders, starts.peer, strict=True)) == [
        (senders, key) for senders in ("every", "one") for key in keys
    ]
    assert starts.lost.isna().all()
    assert (starts.join_seconds > 0).all()
    assert (bursts.groupby(["senders", "peer"])["round"].apply(list).map(sorted) == [[0, 1]] * 6).all()


def test_what_a_sender_hears_is_a_delivery_where_all_send(measured: Measurements) -> None:
    for burst in measured.bursts.itertuples():
        # The asyncio server does not send clients their own commands.
        hear = burst.receivers - (burst.senders == "every" and burst.peer == "asyncio")
        assert burst.deliveries == burst.commands * hear


def test_latencies_are_there_idle_and_at_half_load(measured: Measurements) -> None:
    paces = measured.paces
    assert set(paces.senders) == {"one"}
    found = set(zip(paces.peer, paces.load, strict=True))
    idle = {(key, "idle") for key in ("rankserver", "asyncio", "ceiling")}
    assert found == idle | {("rankserver", "half"), ("asyncio", "half"), ("asyncio", "same")}


def test_this_server_is_paced_at_half_load_of_each_peer(measured: Measurements) -> None:
    paces = measured.paces[measured.paces.peer == "asyncio"].set_index(["load", "round"])
    for value in ("rate", "commands"):
        assert paces.loc["same", value].equals(paces.loc["half", value])


def test_membership_holds_all_rounds(measured: Measurements) -> None:
    members = measured.members
    assert members.clients.tolist() == [10, 10]
    assert members["round"].tolist() == [0, 1]
    # A hundred clients cannot leave if there are ten.
    assert members.hundred_leave.isna().all()
    assert (members.half_leave > 0).all()


def settings(*points: Point) -> Settings:
    return Settings(points, (), [BY_KEY["rankserver"]], Timing.quick(1), PLACES)


def test_an_interrupted_run_resumes_at_its_point(tmp_path: Path) -> None:
    harness.build()
    part, head = tmp_path / "part", {"command": "c", "machine": {}, "peers": [], "seconds": 0.0}
    first, second = TINY, TINY._replace(receivers=3)
    with ProgressBar(1.0) as progress:
        Comparison(settings(first), head, part).run(progress)
        left = json.loads(part.read_text())
        again = Comparison(settings(first, second), head, part)
        again.resume()
        result = again.run(progress)
    again.finish()

    assert [point["receivers"] for point in result["points"]] == [2, 3]
    assert result["points"][0] == left["points"][0]
    assert result["resumed"] is True
    assert result["seconds"] > left["seconds"]
    assert not part.exists()


def test_a_resumed_run_of_older_code_names_both_commits(tmp_path: Path) -> None:
    peer = {"key": "redis", "version": "7.0.15", "skipped": None, "settings": "old words"}
    old = {"command": "c", "machine": {}, "peers": [peer], "seconds": 7.0, "points": [], "membership": []}
    part = tmp_path / "part"
    part.write_text(json.dumps(old))
    described = [peer | {"settings": "new words"}]
    run = Comparison(settings(), old | {"peers": described, "commit": "new", "resumed": False}, part)
    run.resume()

    assert run.result["peers"] == described
    assert (run.result["commit"], run.result["earlier_commits"]) == ("new", [None])
    assert run.result["resumed"] is True
    other = Comparison(settings(), old | {"peers": [peer | {"version": "7.2"}]}, part)
    with pytest.raises(BenchmarkError, match="different peers"):
        other.resume()


def test_a_different_run_is_not_resumed(tmp_path: Path) -> None:
    part, head = tmp_path / "part", {"command": "c", "machine": {"cpus": 2}, "peers": []}
    run = Comparison(settings(), head, part)

    with pytest.raises(BenchmarkError, match="no run was interrupted"):
        run.resume()
    part.write_text(json.dumps(head | {"machine": {"cpus": 4}}))
    with pytest.raises(BenchmarkError, match="different machine"):
        run.resume()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--quick"], "--output"),
        (["--peers", "redis,kafka"], "'kafka' is not one of rankserver,redis"),
        (["--parts", "latencies"], "'latencies' is not one of throughput,latency"),
        (["--sizes", "64,13"], "14 or more"),
        (["--receivers", "0"], "1 or more"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        compare.main(arguments)

    assert complaint in capsys.readouterr().err


def test_targets_can_be_required(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--quick",
        "--peers",
        "ceiling",
        "--parts",
        "throughput",
        "--receivers",
        "2",
        "--rounds",
        "1",
    ]
    code = compare.main([*arguments, "--require", "--output", str(tmp_path)])

    assert code == 1
    assert "not measured" in capsys.readouterr().err
