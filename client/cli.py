"""The command line of the client: arguments, signals, exit codes.

Exit codes: 0 left; 1 failed; 2 usage; 3 could not connect; 4 the server refused or ended the connection;
130 interrupted. All but 0 and 130 come with one line that says why: on standard error, or for an end
that came while connected as the last line of what happened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from client.aio import Client, connect, parse_address
from client.console import Console, Exit, Face, Plain
from client.executors import Simulated
from rankserver import arguments, protocol
from rankserver.exceptions import ConfigError, ConnectError, DisconnectedError, StreamError

DEFAULT_ADDRESS: Final = "127.0.0.1:5050"
DUMB_TERMINALS: Final = ("", "dumb", "unknown")  # values of TERM that promise no cursor movement


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client until it is left; return the exit code."""
    _open_missing_streams()
    options = _parse(argv)
    try:
        return asyncio.run(_run(options))
    except KeyboardInterrupt:  # before _run took the signal over
        return Exit.INTERRUPTED
    except ConnectError as error:
        return _fail(Exit.NO_CONNECTION, str(error))
    except DisconnectedError as error:
        return _fail(Exit.DISCONNECTED, f"disconnected: {error}")
    except StreamError as error:
        return _fail(Exit.FAILED, str(error))


async def _run(options: argparse.Namespace) -> Exit:
    """Converse until something ends it; SIGINT and SIGTERM do so by leaving."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we are in one
    told: list[Exit] = []

    def leave(code: Exit) -> None:
        told.append(code)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, leave, Exit.INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, leave, Exit.OK)
    try:
        async with connect(options.address, name=options.name) as client, _face(client) as face:
            return await Console(client, face, Simulated(options.delay)).run()
    except asyncio.CancelledError:
        if not told:
            raise
        return told[0]


def _face(client: Client) -> Face:
    """Return a live prompt if a person can use one, else plain lines."""
    if os.isatty(0) and os.isatty(1) and os.environ.get("TERM", "") not in DUMB_TERMINALS:
        from client.terminal import Terminal  # noqa: PLC0415 - loads prompt_toolkit, which takes 0.1 s

        return Terminal(client)
    return Plain(0, sys.stdout, sys.stderr, client.max_line)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments.Parser(
        prog="rankserver-client",
        usage="%(prog)s [-h] [--name NAME] [--delay S] [HOST[:PORT] | unix:PATH]",
        description="Command those who rank lower, and execute what those who rank higher command. On a "
        "terminal, type commands at the prompt; otherwise they are read from standard input, a line each. "
        "exit, or the end of the input, leaves.",
    )
    parser.add_argument(
        "address",
        nargs="?",
        default=os.environ.get("RANKSERVER") or DEFAULT_ADDRESS,
        help="where the server listens (default: the environment's RANKSERVER, else 127.0.0.1:5050)",
    )
    parser.add_argument("--name", type=_name, help="what others see of us (default: the server gives a name)")
    parser.add_argument(
        "--delay",
        metavar="S",
        type=arguments.seconds(0),
        default=1.0,
        help="seconds that the simulated execution of a command takes (default: 1)",
    )
    options = parser.parse_args(argv)
    try:
        parse_address(options.address)
    except ConfigError as error:
        parser.error(str(error))
    return options


def _name(text: str) -> str:
    if not protocol.is_name(text):
        raise argparse.ArgumentTypeError(f"{protocol.shown(text)} {protocol.NOT_A_NAME}")
    return text


def _open_missing_streams() -> None:
    """Put /dev/null where our starter closed a standard stream, before a socket gets its descriptor.

    And make sure that no text can fail to be written, whatever the encoding.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(code: Exit, text: str) -> Exit:
    with contextlib.suppress(OSError):  # nobody to tell
        sys.stderr.write(text + "\n")
    return code
