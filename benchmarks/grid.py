"""A whole comparison: all points of the grid, then membership; each measurement is saved to a file at once.

A point is measured in ``rounds.py``, membership in ``membership.py``; what there is to measure is planned in
``plan.py``. It leaves to ``compare.py`` what was asked for, and what is shown.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import harness
import membership
import plan
import rounds
from harness import BenchmarkError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness import Places
    from peers import Peer
    from plan import Point, Timing
    from typing_extensions import Self


class Asked(NamedTuple):
    """What is asked for."""

    points: Sequence[Point]
    members: Sequence[int]
    peers: Sequence[Peer]
    timing: Timing
    places: Places


class Progress:
    """A bar of the planned seconds on standard error, with what is measured now and the time that is left."""

    def __init__(self, seconds: float) -> None:
        """Begin something that is planned to take this many seconds."""
        self._point = ""
        self._bar = harness.bar(max(1, round(seconds)), "")
        self._bar.bar_format = "{percentage:3.0f}% |{bar:20}| {remaining} left; {desc}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def at(self, point: str) -> None:
        """Begin with a point."""
        self._point = point

    def say(self, what: str) -> None:
        """Begin something at this point."""
        self._bar.set_description_str(f"{self._point}: {what}")

    def passed(self, seconds: float) -> None:
        """Note that something that was planned to take this many seconds is over."""
        self._bar.update(seconds)


class Run:
    """A comparison and its result so far, which is kept in a file while it grows."""

    def __init__(self, asked: Asked, head: dict[str, Any], part: Path) -> None:
        """Begin with ``head``, the result without any measurement; ``part`` is the file."""
        self.result = head | {"points": [], "membership": []}
        self._asked = asked
        self._part = part
        self._before = 0.0  # seconds that an interrupted run had taken
        self._start = time.monotonic()

    def resume(self) -> None:
        """Take over what an interrupted run has measured.

        Raises:
            BenchmarkError: if it has left nothing, or was a different one.
        """
        try:
            result = json.loads(self._part.read_text())
        except FileNotFoundError:
            raise BenchmarkError(f"no run was interrupted: there is no {self._part}") from None
        for key in ("command", "machine", "peers"):
            if _compared(result[key]) != _compared(self.result[key]):
                message = f"{self._part} is from a run with different {key}: start anew, without --resume"
                raise BenchmarkError(message)
        now = self.result.get("commit")
        before = [*result.get("earlier_commits", ()), result.get("commit")]
        self._before = result["seconds"]
        self.result = result | {
            "peers": self.result["peers"],  # as they are described now
            "commit": now,
            "earlier_commits": [commit for commit in dict.fromkeys(before) if commit != now],
            "resumed": True,
        }

    def seconds(self) -> float:
        """Return about how long what is left takes."""
        timing, peers = self._asked.timing, len(self._asked.peers)
        points = sum(plan.point_seconds(point, peers, timing) for point in self._points_left())
        members = sum(plan.membership_seconds(clients, timing) for clients in self._members_left())
        return points + timing.rounds * members

    def run(self, progress: Progress) -> dict[str, Any]:
        """Measure what is left, and return the result.

        Raises:
            BenchmarkError: if the ceiling fails, or membership. What was measured before is in the file.
        """
        _, _, peers, timing, places = self._asked
        for point in self._points_left():
            progress.at(str(point))
            self.result["points"].append(rounds.run_point(point, peers, places, timing, progress))
            self._keep()
        for clients in self._members_left():
            progress.at(f"{clients:,} members")
            self.result["membership"].append(self._membership(clients, progress))
            self._keep()
        return self.result

    def finish(self) -> None:
        """Remove the file: the whole result has been written elsewhere."""
        self._part.unlink(missing_ok=True)

    def _points_left(self) -> list[Point]:
        done = {(point["senders"], point["receivers"], point["size"]) for point in self.result["points"]}
        return [
            point for point in self._asked.points if (point.senders, point.receivers, point.size) not in done
        ]

    def _members_left(self) -> list[int]:
        done = {entry["clients"] for entry in self.result["membership"]}
        return [clients for clients in self._asked.members if clients not in done]

    def _membership(self, clients: int, progress: Progress) -> dict[str, Any]:
        timing, places = self._asked.timing, self._asked.places
        found = []
        with membership.one_send(clients, places) as send:
            for number in range(timing.rounds):
                progress.say(f"round {number + 1} of {timing.rounds}")
                found.append(membership.one_round(clients, send, timing.singles, timing.sitting, places))
                progress.passed(plan.membership_seconds(clients, timing))
        return {"clients": clients, "rounds": found}

    def _keep(self) -> None:
        """Write the file anew; an interrupted run loses nothing but the point that it is at."""
        self.result["seconds"] = round(self._before + time.monotonic() - self._start, 1)
        fresh = self._part.with_suffix(".new")
        fresh.write_text(json.dumps(self.result))
        fresh.replace(self._part)


def _compared(value: Any) -> Any:
    """Return what must be the same for a run to be gone on with; how peers are described may change."""
    if isinstance(value, list):
        return [(peer["key"], peer["version"], peer["skipped"]) for peer in value]
    return value
