"""Follow a lesson: open the pages that the teacher shows, and answer the teacher's questions.

    python examples/pupil.py --name ada

Only rank 0 teaches: commands of other clients are denied. See teacher.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

import keyboard

from rankserver.client import Execute, Outcome, RankserverError, connect
from rankserver.client.events import Connected, RankChanged


async def obey(command: Execute) -> Outcome | str | None:
    """Do what the teacher says, and return what is typed as the answer."""
    if command.rank != 0:
        return Outcome("denied", {"reason": "only rank 0 teaches"})
    match json.loads(command.text):
        case {"page": str(page)}:
            print(f"open {page!r}", flush=True)
        case {"quiz": str(question), "seconds": float(seconds)}:
            print(f"{question!r}", flush=True)
            try:
                return await asyncio.wait_for(keyboard.line(), seconds)
            except asyncio.TimeoutError:
                print("too late", flush=True)
                return Outcome("timeout")
        case {"done": int(done), "points": dict(points)}:
            print(f"step {done} is done; points: {points}", flush=True)
    return None


async def attend(address: str, name: str) -> None:
    """Follow until the lesson is over."""
    client = connect(address, name=name)
    client.executes(obey)  # before we join, so that we miss nothing
    async with client:
        async for event in client:
            match event:
                case Connected(rank=0) | RankChanged(rank=0):
                    print("nobody teaches: we are the first", flush=True)
                case Connected(name, rank):
                    print(f"{name}: rank {rank}, following", flush=True)
                case Execute(rank=0, text='{"over": true}'):
                    return


def main() -> None:
    """Follow a lesson."""
    parser = argparse.ArgumentParser(description="Follow a lesson.")
    parser.add_argument("--server", default="127.0.0.1:5050", metavar="HOST:PORT")
    parser.add_argument("--name", required=True)
    options = parser.parse_args()
    try:
        asyncio.run(attend(options.server, options.name))
    except RankserverError as error:
        sys.exit(f"{options.name}: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
