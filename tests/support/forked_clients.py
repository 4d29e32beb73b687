"""Start many client programs from one interpreter: fifty separate ones would spend their time importing.

Usage: ``python -m tests.support.forked_clients ADDRESS COUNT OPTION...``. Each child does what
``python -m client ADDRESS --name agent-N OPTION...`` does. The parent prints the pid of each on a line
of its own, and ends when its standard input does.
"""

from __future__ import annotations

import os
import sys

from client.cli import main


def run(address: str, count: int, options: list[str]) -> None:
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            nothing = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(nothing, descriptor)
            os._exit(main([address, "--name", f"agent-{number}", "--stay", *options]))
        print(pid, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
