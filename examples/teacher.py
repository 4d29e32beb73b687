"""Teach a class: show pages and ask quiz questions; see answers as they arrive, and the points at the end.

    python examples/teacher.py examples/lesson.txt --name teacher      # the first to join
    python examples/teacher.py examples/lesson.txt --name assistant    # the second, and successor
    python examples/pupil.py --name ada                                # and each pupil

Rank 0 teaches, and Enter goes on to the next step. A step is sent as a command, a JSON object on a line.
After each step the teacher tells all others how far the class is, so that the assistant can go on from there.
docs/classroom.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from pathlib import Path

import keyboard

from rankserver.client import Answer, Client, Execute, Outcome, RankserverError, connect
from rankserver.client.events import Connected, RankChanged

# How much longer we wait for an answer than a pupil's program waits for the pupil, in seconds. A program that
# has not answered by then hangs.
MARGIN = 2.0
STEP = re.compile(r"page\s+[^|\s][^|]*|quiz\s+[^|\s][^|]*\|\s*[^|\s][^|]*")


def read(path: Path) -> list[list[str]]:
    """Read a lesson: the kind and the text of each step. Blank lines are ignored.

    Raises:
        ValueError: a line is not a step. It is better to find out now than in front of the class.
    """
    lines = path.read_text("utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip() and not STEP.fullmatch(line.strip()):
            raise ValueError(f"line {number} is neither page URL nor quiz QUESTION | ANSWER: {line!r}")
    return [line.split(maxsplit=1) for line in lines if line.strip()]


class Lesson:
    """What is taught, and how far the class is."""

    def __init__(self, steps: list[list[str]], client: Client, seconds: float) -> None:
        self.steps = steps
        self.done = 0
        self.points: dict[str, int] = {}
        self.client = client
        self.seconds = seconds

    async def follow(self, command: Execute) -> Outcome | None:
        """Learn from the teacher how far the class is."""
        if command.rank != 0:
            return Outcome("denied", {"reason": "only rank 0 teaches"})
        news = json.loads(command.text)
        self.done, self.points = news.get("done", self.done), news.get("points", self.points)
        return None

    async def teach(self, _seq: int) -> None:
        """Go through the rest of the lesson, or until the input ends, and leave."""
        print(f"{self.client.name}: rank 0, teaching", flush=True)
        while self.done < len(self.steps):
            kind, text = self.steps[self.done]
            print(f"Enter for step {self.done + 1} of {len(self.steps)}: {kind} {text}", flush=True)
            try:
                await keyboard.line()
            except EOFError:
                print(f"{self.client.name}: no more input, leaving", flush=True)
                await self.client.close()
                return
            await self.step(kind, *map(str.strip, text.split("|")))
            self.done += 1
            await self.client.cmd(json.dumps({"done": self.done, "points": self.points}))
        for name, points in sorted(self.points.items(), key=lambda row: (-row[1], row[0])):
            print(f"{points:>3}  {name}", flush=True)
        await self.client.cmd(json.dumps({"over": True}))
        await self.client.close()

    async def step(self, kind: str, text: str, solution: str = "") -> None:
        """Let all pupils do one step, and show their answers."""
        ask = self.client.ask(
            json.dumps({kind: text, "seconds": self.seconds}), timeout=self.seconds + MARGIN
        )
        async for answer in ask:
            self.show(answer, solution)
        counts = ask.counts
        print(
            f"  {counts.ok} of {len(ask)} did it, {counts.timeout} too late, {counts.gone} gone", flush=True
        )

    def show(self, answer: Answer, solution: str) -> None:
        """Show what one pupil answered, and give a point if it is right."""
        if answer.status == "ok" and answer.out:
            is_right = answer.out == solution
            self.points[answer.name] = self.points.get(answer.name, 0) + is_right
            print(f"  {answer.name}: {answer.out!r} is {'right' if is_right else 'wrong'}", flush=True)
        elif answer.status != "ok":
            print(f"  {answer.name or answer.rank}: {answer.status} {answer.reason!r}", flush=True)


async def attend(steps: list[list[str]], address: str, name: str, seconds: float) -> None:
    """Teach when it is our turn, and follow until then."""
    client = connect(address, name=name)
    lesson = Lesson(steps, client, seconds)
    client.executes(lesson.follow)  # before we join, so that we miss nothing
    async with client:
        client.on_lead(lesson.teach)
        async for event in client:
            match event:
                case Connected(rank=rank) | RankChanged(rank=rank) if rank:
                    print(f"{name}: rank {rank}, following", flush=True)


def main() -> None:
    """Teach a lesson or assist in it."""
    parser = argparse.ArgumentParser(description="Teach a class, or assist.")
    parser.add_argument("lesson", type=Path, help="lines: page URL, or quiz QUESTION | ANSWER")
    parser.add_argument("--server", default="127.0.0.1:5050", metavar="HOST:PORT")
    parser.add_argument("--name", default="teacher")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="seconds for an answer")
    options = parser.parse_args()
    try:
        steps = read(options.lesson)
    except (OSError, ValueError) as error:
        sys.exit(f"{options.lesson}: {getattr(error, 'strerror', error)}")
    try:
        asyncio.run(attend(steps, options.server, options.name, options.seconds))
    except RankserverError as error:
        sys.exit(f"{options.name}: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
