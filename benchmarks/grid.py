"""Run a whole comparison: all points of the grid, then membership, saving each result as soon as it is there.

``rounds.py`` measures a point and ``membership.py`` membership, as planned in ``plan.py``. Arguments and
output are left to ``compare.py``.
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
    from peers import PeerServer
    from plan import Point, Timing
    from typing_extensions import Self


class Settings(NamedTuple):
    """The points, numbers of clients, peers, timing and CPUs of a comparison."""

    points: Sequence[Point]
    members: Sequence[int]
    peers: Sequence[PeerServer]
    timing: Timing
    places: Places


class ProgressBar:
    """A progress bar on standard error: planned seconds, the current measurement, and the time left."""

    def __init__(self, seconds: float) -> None:
        """Show a bar for a run that is planned to take this many seconds."""
        self._point = ""
        self._bar = harness.bar(max(1, round(seconds)), "")
        self._bar.bar_format = "{percentage:3.0f}% |{bar:20}| {remaining} left; {desc}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def at(self, point: str) -> None:
        """Show that this point is measured from now on."""
        self._point = point

    def say(self, what: str) -> None:
        """Show what is measured now at the current point."""
        self._bar.set_description_str(f"{self._point}: {what}")

    def passed(self, seconds: float) -> None:
        """Advance by the planned seconds of a step that is over."""
        self._bar.update(seconds)


class Comparison:
    """A comparison and its result so far, which is saved to a file after each step."""

    def __init__(self, settings: Settings, head: dict[str, Any], part: Path) -> None:
        """Begin with ``head``, the result without any measurement; ``part`` is the file to save to."""
        self.result = head | {"points": [], "membership": []}
        self._settings = settings
        self._part = part
        # Seconds that the interrupted run had taken, if this one resumes it.
        self._before = 0.0
        self._start = time.monotonic()

    def resume(self) -> None:
        """Load what an interrupted run has measured.

        Raises:
            BenchmarkError: if there is no such file, or it is of a run with other arguments.
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
            # Descriptions of peers may have changed since.
            "peers": self.result["peers"],
            "commit": now,
            "earlier_commits": [commit for commit in dict.fromkeys(before) if commit != now],
            "resumed": True,
        }

    def seconds(self) -> float:
        """Return the planned seconds of what is left."""
        timing, peers = self._settings.timing, len(self._settings.peers)
        points = sum(plan.point_seconds(point, peers, timing) for point in self._points_left())
        members = sum(plan.membership_seconds(clients, timing) for clients in self._members_left())
        return points + timing.rounds * members

    def run(self, progress: ProgressBar) -> dict[str, Any]:
        """Measure the rest, and return the result.

        Raises:
            BenchmarkError: if the ceiling or membership fails. Earlier measurements stay in the file.
        """
        _, _, peers, timing, places = self._settings
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
        """Remove the file, once the whole result has been written elsewhere."""
        self._part.unlink(missing_ok=True)

    def _points_left(self) -> list[Point]:
        done = {(point["senders"], point["receivers"], point["size"]) for point in self.result["points"]}
        return [
            point
            for point in self._settings.points
            if (point.senders, point.receivers, point.size) not in done
        ]

    def _members_left(self) -> list[int]:
        done = {entry["clients"] for entry in self.result["membership"]}
        return [clients for clients in self._settings.members if clients not in done]

    def _membership(self, clients: int, progress: ProgressBar) -> dict[str, Any]:
        timing, places = self._settings.timing, self._settings.places
        found = []
        with membership.one_send(clients, places) as send:
            for number in range(timing.rounds):
                progress.say(f"round {number + 1} of {timing.rounds}")
                found.append(membership.one_round(clients, send, timing.singles, timing.sitting, places))
                progress.passed(plan.membership_seconds(clients, timing))
        return {"clients": clients, "rounds": found}

    def _keep(self) -> None:
        """Rewrite the file: an interrupted run loses only the point that it was measuring."""
        self.result["seconds"] = round(self._before + time.monotonic() - self._start, 1)
        fresh = self._part.with_suffix(".new")
        fresh.write_text(json.dumps(self.result))
        fresh.replace(self._part)


def _compared(value: Any) -> Any:
    """Return the part of a result that must be equal to resume a run; peer descriptions may differ."""
    if isinstance(value, list):
        return [(peer["key"], peer["version"], peer["skipped"]) for peer in value]
    return value
