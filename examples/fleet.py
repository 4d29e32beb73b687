"""Gather what a command says on each machine of a fleet, and account for those that do not execute it.

Start the operator first, as the first to join ranks highest, and then an agent on each machine:

    python examples/fleet.py 3 'uname -a'
    python -m client --name web-1 --exec program --allow examples/fleet.allow --reconnect --stay </dev/null

The operator waits for three agents and prints each answer as it arrives. At the end it prints equal answers
together, and which agents did not execute the command, and why. Exit codes: 0 all executed it; 1 the
connection failed; 5 nobody may execute it; 6 not all did. docs/fleet.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import defaultdict

from rankserver.client import Answer, Ask, Client, RankserverError, connect, visible

# Statuses in words; the others are words already.
WORDS = {"ok": "executed", "fail": "failed", "timeout": "timed out"}


async def enough(client: Client, agents: int) -> None:
    """Wait until at least ``agents`` other clients are connected."""
    async for _ in client:
        if client.clients > agents:
            return


def outcome(answer: Answer) -> str:
    """Return the outcome of the command at one machine, in one line."""
    code = f" with exit code {answer.code}" if answer.code else ""
    reason = f" ({visible(answer.reason)})" if answer.reason else ""
    return f"{WORDS.get(answer.status, answer.status)}{code}{reason}"


def report(ask: Ask) -> None:
    """Print equal answers together, the most common first, and the number of each outcome."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for answer in ask.by_rank.values():
        groups[outcome(answer), answer.out].append(answer.name or f"rank {answer.rank}")
    for (said, out), names in sorted(groups.items(), key=lambda group: -len(group[1])):
        print(f"{len(names)} {said}: {' '.join(names)}")
        for line in out.splitlines():
            print(f"    {visible(line)}")
    counts = (f"{number} {WORDS.get(field, field)}" for field, number in ask.counts._asdict().items())
    print(f"{len(ask)} asked: {', '.join(counts)}", flush=True)


async def gather(address: str, agents: int, commands: list[str], answer_timeout: float) -> int:
    """Ask all agents each command; return the exit code."""
    worst = 0
    async with connect(address, name="operator") as client:
        if client.rank:
            raise RankserverError(
                f"rank is {client.rank}, and higher-ranked clients would refuse: start the operator first"
            )
        print(f"waiting for {agents} agent{'s' if agents > 1 else ''}", flush=True)
        await enough(client, agents)
        for command in commands:
            print(f"{command}: asking {client.clients - 1}", flush=True)
            ask = client.ask(command, timeout=answer_timeout)
            async for answer in ask:
                print(f"  {answer.name or answer.rank}: {outcome(answer)}", flush=True)
            report(ask)
            worst = max(worst, 5 if ask.nobody else 0 if ask.ok else 6)
    return worst


def main() -> int:
    """Gather, and print why if that is not possible."""
    parser = argparse.ArgumentParser(description="Gather what commands say on each machine of a fleet.")
    parser.add_argument("agents", type=int, help="how many must be connected before we ask")
    parser.add_argument("commands", nargs="*", default=["uname -a"])
    parser.add_argument("--server", default="127.0.0.1:5050", metavar="HOST:PORT")
    parser.add_argument(
        "--answer-timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds for the answers to each command",
    )
    options = parser.parse_intermixed_args()
    try:
        return asyncio.run(gather(options.server, options.agents, options.commands, options.answer_timeout))
    except KeyboardInterrupt:
        return 130
    except RankserverError as error:
        print(f"operator: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
