"""Trace a running server, and list the Python calls that a command, and an ASK with one answer, cost it.

It starts ``python -m rankserver`` from a source tree, joins as one sender and ten receivers, and lets
``traced_server.py`` record what the server calls from the moment a frame is ready to be read until it waits
again. Nothing about the server's classes is known here, so that any two trees can be compared.

    python tools/trace_calls.py [TREE]
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
TRACED_SERVER: Final = Path(__file__).with_name("traced_server.py")

# The number of receivers for which the project's limits on calls are stated.
RECEIVERS: Final = 10

OPTIONS: Final = ("--port", "0", "--log-level", "warning")

# Seconds that a frame may take to arrive before the server counts as stuck.
MAX_WAIT: Final = 20.0

# File and function.
Call = tuple[str, str]


class JoinedClient:
    """A client that has joined."""

    def __init__(self, port: int) -> None:
        """Connect, say HELLO and wait for WELCOME."""
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=MAX_WAIT)
        self._lines: IO[bytes] = self._sock.makefile("rb")
        self.send("HELLO")
        self.wait_for("WELCOME")

    def send(self, line: str) -> None:
        """Send a line."""
        self._sock.sendall(line.encode() + b"\n")

    def wait_for(self, verb: str) -> list[str]:
        """Skip lines until one has this verb; return its words.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        for line in self._lines:
            words = line.decode().split()
            if words[0] == verb:
                return words
        raise ConnectionError(f"the server closed the connection before it sent {verb}")

    def synchronize(self) -> None:
        """Wait until the server has handled everything that was sent before."""
        self.send("PING")
        self.wait_for("PONG")

    def close(self) -> None:
        """Close the connection."""
        self._lines.close()
        self._sock.close()


class TracedServer:
    """A server that records its calls when told to."""

    def __init__(self, tree: Path) -> None:
        """Start the server of ``tree`` and wait until it listens."""
        python = tree / ".venv" / "bin" / "python"
        self._control, theirs = socket.socketpair()
        with theirs:
            command = [str(python if python.exists() else sys.executable), str(TRACED_SERVER)]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(RECEIVERS + 1), *OPTIONS],
                cwd=tree,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[theirs.fileno()],
            )
        self._control.settimeout(MAX_WAIT)
        assert self._process.stdout
        self.port = int(self._process.stdout.readline().rpartition(":")[2])

    def trace(self, peer: JoinedClient, action: Callable[[], None]) -> list[Call]:
        """Return the calls that the server makes for ``action``, which waits for the last frame it causes.

        The server looks for orders only when it wakes up; hence the ``PING`` of ``peer`` after each order.
        """
        self._control.sendall(b"+")
        peer.synchronize()
        action()
        self._control.sendall(b"-")
        peer.synchronize()
        with self._control.makefile() as answers:
            calls: list[Any] = json.loads(answers.readline())
        return [(file, function) for file, function in calls]

    def close(self) -> None:
        """Stop the server."""
        self._process.terminate()
        self._process.wait(MAX_WAIT)
        self._control.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Trace the server of one tree and print its calls."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT, help="source tree (default: this one)")
    tree = parser.parse_args(argv).tree.resolve()
    for what, calls in trace(tree).items():
        print(f"{what}, {RECEIVERS} receivers: {describe(tree, calls)}\n")
    return 0


def trace(tree: Path) -> dict[str, list[Call]]:
    """Return the calls of each exchange, by its description; each is warmed up once before it is traced."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(TracedServer(tree)))
        sender, *receivers = (
            stack.enter_context(closing(JoinedClient(server.port))) for _ in range(RECEIVERS + 1)
        )

        def command() -> None:
            sender.send("CMD date")
            for peer in (sender, *receivers):
                peer.wait_for("CMD")

        def ask() -> None:
            sender.send("ASK date")
            seqs = [peer.wait_for("ASK")[1] for peer in (sender, *receivers)]
            receivers[0].send(f"RES {seqs[0]} ok")
            sender.wait_for("RES")

        found = {}
        for what, action in {"a lone command": command, "an ASK and one RES": ask}.items():
            action()
            found[what] = server.trace(sender, action)
        return found


def describe(tree: Path, calls: Sequence[Call]) -> str:
    """Return how many calls there are, and list them by file, each in the order of its first call."""
    counts = Counter(calls)
    ours = {file for file, _ in calls if Path(file).is_relative_to(tree)}
    total = sum(count for (file, _), count in counts.items() if file in ours)
    lines = [f"{total} calls in {len(ours)} files, {len(calls) - total} in the standard library"]
    for file in dict.fromkeys(file for file, _ in calls):
        name = Path(file).relative_to(tree) if file in ours else f"{Path(file).name} (standard library)"
        functions = {function: count for (where, function), count in counts.items() if where == file}
        lines.append(f"  {name}: {sum(functions.values())}")
        lines += [f"    {count} x {function}" for function, count in functions.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
